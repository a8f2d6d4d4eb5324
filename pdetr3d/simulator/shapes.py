"""Defines the solids of the simulated world: every object is a list of frusta inside its annotated box.

A frustum has a rectangle at the bottom and another at the top, both aligned with the object's axes, and six plane
faces. Frusta suffice for sloped windshields, tapered cones and cranes, and are cheap to intersect with a ray (six half
spaces).
Object frame: x forward, y left, z up, origin on the ground below the box center.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FACES = ("front", "rear", "left", "right", "top", "bottom")  # the order of faces in every array
Range = tuple[float, float]
Color = tuple[int, int, int]  # RGB
PLAIN, WINDOWS, LEAVES = 0, 1, 2  # textures


@dataclass(frozen=True)
class Frustum:
    """A frustum in the object frame.

    Attributes:
        bottom, top: the rectangles (x0, x1, y0, y1) [m]. z: the heights of bottom and top [m].
        colors: (6, 3) uint8 RGB in the order of FACES. reflectivity: 0..1. texture: PLAIN, WINDOWS or LEAVES.
    """

    bottom: tuple[float, float, float, float]
    top: tuple[float, float, float, float]
    z: Range
    colors: NDArray[np.uint8]
    reflectivity: float
    texture: int


class Shape:
    """Collects frusta given in shares of the box: x, y in -1..1 and z in 0..1 span the box without its margin.

    Args:
        size_m: (l, w, h) of the box. margin_m: per side, between box and solid. base_m: height of its underside.
    """

    def __init__(self, size_m: tuple[float, float, float], margin_m: float, base_m: float) -> None:
        self._half = (max(size_m[0] / 2 - margin_m, 0.02), max(size_m[1] / 2 - margin_m, 0.02))
        self._z = (base_m, base_m + size_m[2] - (margin_m if base_m else 0.0))
        self.frusta: list[Frustum] = []

    def add(
        self, x: Range, y: Range, z: Range, color: Color, *,
        top_x: Range | None = None, top_y: Range | None = None,
        reflectivity: float | None = None, texture: int = PLAIN,
        faces: dict[str, Color] | None = None,
    ) -> None:  # fmt: skip
        """Add one frustum.

        Args:
            x, y, z: the bottom's rectangle, and the heights, in shares of the box. color: of all faces but ``faces``.
            top_x, top_y: of the top's rectangle; default: as the bottom's.
            reflectivity: 0..1; default: by the color's brightness. texture: PLAIN, WINDOWS or LEAVES.
            faces: name of a face -> its color.
        """
        hx, hy = self._half
        z0, z1 = self._z
        tx, ty = top_x or x, top_y or y
        colors = np.array([(faces or {}).get(name, color) for name in FACES], dtype=np.uint8)
        if reflectivity is None:
            reflectivity = 0.06 + 0.3 * sum(color) / 765
        self.frusta.append(
            Frustum(
                (x[0] * hx, x[1] * hx, y[0] * hy, y[1] * hy),
                (tx[0] * hx, tx[1] * hx, ty[0] * hy, ty[1] * hy),
                (z0 + z[0] * (z1 - z0), z0 + z[1] * (z1 - z0)),
                colors, reflectivity, texture,
            )
        )  # fmt: skip

    def pair(self, x: Range, y: Range, z: Range, color: Color, reflectivity: float | None = None) -> None:
        """Add a frustum and its mirror image in y."""
        self.add(x, y, z, color, reflectivity=reflectivity)
        self.add(x, (-y[1], -y[0]), z, color, reflectivity=reflectivity)


@dataclass(frozen=True)
class Parts:
    """All frusta of a scene as arrays, in object frames; P parts.

    Attributes:
        actor: (P,) int64, index of the part's actor.
        corners_m: (P, 8, 3) float64; bottom rectangle first.
        normals: (P, 6, 3) float64, outward unit normals in the order of FACES.
        offsets_m: (P, 6) float64: a point p is inside where ``normals @ p <= offsets_m`` for all faces.
        colors: (P, 6, 3) uint8 RGB. reflectivity: (P,) float32. texture: (P,) int64.
    """

    actor: NDArray[np.int64]
    corners_m: NDArray[np.float64]
    normals: NDArray[np.float64]
    offsets_m: NDArray[np.float64]
    colors: NDArray[np.uint8]
    reflectivity: NDArray[np.float32]
    texture: NDArray[np.int64]


def pack_parts(shapes: list[list[Frustum]]) -> Parts:
    """Turn the frusta of all actors (outer list) into arrays. No frusta give arrays of length 0."""
    frusta = [frustum for shape in shapes for frustum in shape]
    n = len(frusta)
    b = np.array([f.bottom for f in frusta], dtype=np.float64).reshape(n, 4)
    t = np.array([f.top for f in frusta], dtype=np.float64).reshape(n, 4)
    z = np.array([f.z for f in frusta], dtype=np.float64).reshape(n, 2)
    corners = np.empty((n, 8, 3))
    for level, rect in enumerate((b, t)):
        for i, (ix, iy) in enumerate(((0, 2), (1, 2), (1, 3), (0, 3))):
            corners[:, 4 * level + i] = np.stack([rect[:, ix], rect[:, iy], z[:, level]], axis=1)
    dz = z[:, 1] - z[:, 0]
    normals = np.zeros((n, 6, 3))
    # A side face leans by how far its top edge is shifted against its bottom edge.
    for face, (column, axis, sign) in enumerate(((1, 0, 1.0), (0, 0, -1.0), (3, 1, 1.0), (2, 1, -1.0))):
        normals[:, face, axis] = sign * dz
        normals[:, face, 2] = -sign * (t[:, column] - b[:, column])
    normals[:, 4, 2], normals[:, 5, 2] = 1.0, -1.0
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    anchor = corners[:, (1, 0, 2, 0, 4, 0)]  # a corner that lies on each face
    return Parts(
        actor=np.repeat(np.arange(len(shapes)), [len(shape) for shape in shapes]).astype(np.int64),
        corners_m=corners,
        normals=normals,
        offsets_m=(normals * anchor).sum(axis=2),
        colors=np.array([f.colors for f in frusta], dtype=np.uint8).reshape(n, 6, 3),
        reflectivity=np.array([f.reflectivity for f in frusta], dtype=np.float32),
        texture=np.array([f.texture for f in frusta], dtype=np.int64),
    )
