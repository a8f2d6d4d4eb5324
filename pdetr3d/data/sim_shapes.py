"""Solids of the simulated world: every object is a list of frusta inside its annotated box.

A frustum has a rectangle at the bottom, another at the top, both aligned with the object's axes, and six plane faces:
enough for sloped windshields, tapered cones and cranes, and still cheap to intersect with a ray (six half spaces).
Object frame: x forward, y left, z up, origin on the ground below the box center.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdetr3d.data import sim_constants as const

FACES = ("front", "rear", "left", "right", "top", "bottom")  # order of faces in every array
Range = tuple[float, float]
Color = tuple[int, int, int]  # RGB
PLAIN, WINDOWS, LEAVES = 0, 1, 2  # textures

GLASS: Color = (38, 48, 60)
RUBBER: Color = (22, 22, 24)
WHITE: Color = (240, 240, 236)
RED: Color = (205, 18, 22)
SKIN: Color = (212, 160, 128)
PAINTS: tuple[Color, ...] = (
    (232, 232, 230), (182, 186, 190), (52, 54, 58), (112, 116, 120), (30, 52, 104), (148, 28, 30), (36, 78, 60), (176, 160, 124),
)  # fmt: skip
CLOTHES: tuple[Color, ...] = (
    (200, 60, 60), (50, 70, 150), (40, 40, 44), (220, 200, 60), (230, 230, 230), (60, 130, 80), (140, 80, 150), (120, 90, 60),
)  # fmt: skip


@dataclass(frozen=True)
class Frustum:
    """``bottom`` and ``top`` (x0, x1, y0, y1) [m] at heights ``z`` [m]; ``colors`` (6, 3) uint8; ``reflectivity`` 0..1."""

    bottom: tuple[float, float, float, float]
    top: tuple[float, float, float, float]
    z: Range
    colors: NDArray[np.uint8]
    reflectivity: float
    texture: int


class Shape:
    """Collects frusta given in shares of the box: x, y in -1..1, z in 0..1 span the box less its margin."""

    def __init__(self, size_m: tuple[float, float, float], margin_m: float, base_m: float) -> None:
        self._half = (max(size_m[0] / 2 - margin_m, 0.02), max(size_m[1] / 2 - margin_m, 0.02))
        self._z = (base_m, base_m + size_m[2] - (margin_m if base_m else 0.0))
        self.frusta: list[Frustum] = []

    def add(
        self, x: Range, y: Range, z: Range, color: Color, *,
        top_x: Range | None = None, top_y: Range | None = None,
        reflectivity: float | None = None, texture: int = PLAIN, **faces: Color,
    ) -> None:  # fmt: skip
        """Add one frustum; ``faces`` (front=..., left=...) override the color. Brightness gives the default reflectivity."""
        hx, hy = self._half
        z0, z1 = self._z
        tx, ty = top_x or x, top_y or y
        colors = np.array([faces.get(name, color) for name in FACES], dtype=np.uint8)
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

    def wheels(self, axles: tuple[float, ...], half_length: float, height: float) -> None:
        """Wheels left and right at each axle."""
        for axle in axles:
            self.pair((axle - half_length, axle + half_length), (0.68, 0.98), (0.0, height), RUBBER)

    def lights(self, front_z: Range, rear_z: Range) -> None:
        """White headlights and red tail lights at the ends of the box, and a bright rear plate."""
        self.pair((0.94, 1.0), (0.52, 0.95), front_z, (255, 252, 232), 0.7)
        self.pair((-1.0, -0.94), (0.5, 0.97), rear_z, RED, 0.7)
        self.add((-1.0, -0.95), (-0.22, 0.22), (rear_z[0] - 0.1, rear_z[0] - 0.02), WHITE, reflectivity=0.95)


def _car(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint = PAINTS[rng.integers(len(PAINTS))]
    glass = {"front": (90, 122, 150), "rear": GLASS, "left": GLASS, "right": GLASS}
    s.wheels((-0.6, 0.62), 0.14, 0.38)
    s.add(
        (-0.97, 0.97), (-0.97, 0.97), (0.13, 0.52), paint, top_x=(-0.97, 0.93), front=tuple(int(c * 0.8) for c in paint)
    )
    kind = rng.integers(3)
    if kind == 0:  # sedan: trunk a little higher than the hood
        s.add((-0.97, -0.5), (-0.95, 0.95), (0.5, 0.62), paint)
        s.add((-0.66, 0.42), (-0.94, 0.94), (0.5, 1.0), paint, top_x=(-0.42, 0.06), top_y=(-0.78, 0.78), **glass)
    elif kind == 1:  # hatchback or SUV: steep rear
        s.add((-0.95, 0.42), (-0.95, 0.95), (0.5, 1.0), paint, top_x=(-0.82, 0.1), top_y=(-0.82, 0.82), **glass)
    else:  # van: short hood
        s.add((-0.96, 0.66), (-0.96, 0.96), (0.5, 1.0), paint, top_x=(-0.93, 0.36), top_y=(-0.86, 0.86), **glass)
    s.add((0.93, 0.99), (-0.48, 0.48), (0.22, 0.42), RUBBER)
    s.lights((0.36, 0.48), (0.42, 0.56))


def _truck(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint = PAINTS[rng.integers(len(PAINTS))]
    if rng.random() < 0.35:  # pickup
        s.wheels((-0.6, 0.62), 0.13, 0.36)
        s.add((-0.98, 0.97), (-0.97, 0.97), (0.18, 0.5), paint)
        s.add((-0.98, -0.2), (-0.97, -0.85), (0.5, 0.62), paint)
        s.add((-0.98, -0.2), (0.85, 0.97), (0.5, 0.62), paint)
        s.add((-0.98, -0.92), (-0.9, 0.9), (0.5, 0.62), paint)
        s.add((-0.2, 0.5), (-0.93, 0.93), (0.5, 1.0), paint, top_x=(-0.12, 0.25), top_y=(-0.82, 0.82),
              front=(90, 122, 150), rear=GLASS, left=GLASS, right=GLASS)  # fmt: skip
        s.add((0.5, 0.95), (-0.93, 0.93), (0.5, 0.58), paint)
        s.lights((0.38, 0.5), (0.38, 0.52))
        return
    cargo: Color = ((236, 236, 232), (198, 200, 204), (188, 170, 134), (72, 104, 150))[rng.integers(4)]
    s.wheels((-0.7, -0.45, 0.7), 0.09, 0.28)
    s.add((-0.97, 0.96), (-0.7, 0.7), (0.16, 0.3), (60, 60, 62))
    s.add((0.56, 0.98), (-0.95, 0.95), (0.14, 0.78), paint, top_x=(0.58, 0.92))
    s.add((0.9, 0.985), (-0.85, 0.85), (0.46, 0.72), (90, 122, 150), top_x=(0.9, 0.95))
    s.pair((0.68, 0.86), (0.94, 0.99), (0.46, 0.7), GLASS)
    s.add((-0.99, 0.48), (-1.0, 1.0), (0.28, 1.0), cargo)
    s.lights((0.2, 0.3), (0.18, 0.27))


def _construction_vehicle(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint: Color = ((236, 176, 24), (232, 130, 28), (220, 190, 50))[rng.integers(3)]
    s.pair((-0.95, 0.45), (0.6, 1.0), (0.0, 0.24), (40, 40, 42))
    s.add((-1.0, 0.1), (-0.9, 0.9), (0.26, 0.56), paint, top_x=(-0.92, 0.1))
    s.add((-0.3, 0.16), (0.1, 0.88), (0.56, 0.94), GLASS, top_x=(-0.26, 0.1), top=paint, rear=paint)
    s.add((0.0, 0.2), (-0.3, 0.0), (0.4, 1.0), paint, top_x=(0.42, 0.58))
    s.add((0.78, 0.94), (-0.26, -0.02), (0.12, 0.98), paint, top_x=(0.46, 0.6))
    s.add((0.68, 1.0), (-0.55, 0.25), (0.0, 0.2), (70, 66, 60))


def _bus(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint: Color = ((206, 40, 36), (40, 120, 70), (36, 84, 170), (236, 170, 40))[rng.integers(4)]
    s.wheels((-0.58, 0.62), 0.07, 0.28)
    s.add((-0.98, 0.98), (-0.985, 0.985), (0.1, 0.94), paint, top=(226, 226, 226))
    s.add((-0.75, -0.25), (-0.6, 0.6), (0.94, 1.0), (210, 210, 210))
    s.pair((-0.94, 0.9), (0.97, 1.0), (0.48, 0.78), GLASS)
    s.add((0.96, 1.0), (-0.92, 0.92), (0.4, 0.78), (100, 136, 164))
    s.add((0.96, 1.0), (-0.6, 0.6), (0.82, 0.92), (250, 170, 30))
    s.add((-1.0, -0.96), (-0.6, 0.6), (0.56, 0.74), GLASS)
    s.lights((0.17, 0.25), (0.25, 0.36))


def _trailer(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint: Color = ((236, 236, 238), (200, 204, 210), (60, 110, 170), (190, 130, 60))[rng.integers(4)]
    s.wheels((-0.84, -0.64, -0.44), 0.07, 0.27)
    s.pair((0.42, 0.5), (0.5, 0.7), (0.0, 0.3), (50, 50, 52))
    s.add((-0.97, 0.98), (-0.6, 0.6), (0.24, 0.32), (60, 60, 62))
    s.add((-0.99, 1.0), (-1.0, 1.0), (0.32, 1.0), paint, rear=tuple(int(c * 0.7) for c in paint))
    s.pair((-0.99, 0.98), (0.985, 1.0), (0.33, 0.38), RED, 0.6)
    s.pair((-1.0, -0.97), (0.5, 0.97), (0.2, 0.32), RED, 0.7)
    s.add((-0.995, -0.985), (-0.02, 0.02), (0.34, 0.98), (40, 40, 40))


def _barrier(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    kind = rng.integers(3)
    if kind == 0:  # concrete
        s.add((-1, 1), (-1, 1), (0.0, 0.35), (176, 174, 166), top_x=(-0.6, 0.6))
        s.add((-0.6, 0.6), (-1, 1), (0.35, 1.0), (186, 184, 176), top_x=(-0.4, 0.4))
        return
    color: Color = (226, 96, 24) if kind == 1 else (206, 30, 30)
    s.add((-1, 1), (-1, 1), (0.0, 0.2), color)
    for i in range(4):
        y0 = -1 + 0.5 * i
        s.add((-0.5, 0.5), (y0, y0 + 0.5), (0.2, 1.0), color if i % 2 else WHITE, reflectivity=0.5)


def _rider(s: Shape, rng: np.random.Generator, seat: float, helmet: Color) -> None:
    shirt = CLOTHES[rng.integers(len(CLOTHES))]
    s.pair((-0.2, 0.15), (0.25, 0.55), (seat - 0.28, seat), (40, 44, 60))
    s.add((-0.36, -0.02), (-0.6, 0.6), (seat, 0.86), shirt, top_x=(-0.22, 0.1))
    s.add((-0.12, 0.12), (-0.26, 0.26), (0.86, 1.0), helmet, front=SKIN)


def _motorcycle(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint: Color = ((190, 30, 30), (30, 60, 150), (40, 40, 40), (220, 140, 30))[rng.integers(4)]
    z = 0.62 if rider else 0.85  # height of the machine as a share of the box
    s.add((0.5, 1.0), (-0.16, 0.16), (0.0, 0.5 * z), RUBBER)
    s.add((-1.0, -0.5), (-0.18, 0.18), (0.0, 0.5 * z), RUBBER)
    s.add((-0.75, 0.55), (-0.34, 0.34), (0.28 * z, 0.85 * z), paint, top_x=(-0.8, 0.3))
    s.add((0.28, 0.42), (-1.0, 1.0), (0.9 * z, 1.0 * z), (60, 60, 60))
    s.add((0.46, 0.6), (-0.3, 0.3), (0.66 * z, 0.86 * z), (255, 250, 230), reflectivity=0.8)
    s.add((-0.98, -0.84), (-0.22, 0.22), (0.55 * z, 0.68 * z), RED, reflectivity=0.8)
    if rider:
        _rider(s, rng, 0.55, (30, 30, 34))
    else:
        s.add((0.3, 0.4), (-0.2, 0.2), (z, 1.0), (60, 60, 60))


def _bicycle(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint: Color = ((40, 150, 160), (210, 210, 40), (200, 60, 140), (90, 200, 90))[rng.integers(4)]
    z = 0.64 if rider else 0.95
    s.add((0.32, 1.0), (-0.08, 0.08), (0.0, 0.62 * z), RUBBER)
    s.add((-1.0, -0.32), (-0.08, 0.08), (0.0, 0.62 * z), RUBBER)
    s.add((-0.55, 0.5), (-0.12, 0.12), (0.45 * z, 0.72 * z), paint)
    s.add((0.34, 0.46), (-1.0, 1.0), (0.92 * z, z), (70, 70, 70))
    s.add((0.36, 0.44), (-0.1, 0.1), (0.6 * z, 1.0 if not rider else z), paint)
    s.add((-0.5, -0.2), (-0.25, 0.25), (0.8 * z, 0.9 * z), (30, 30, 30))
    if rider:
        _rider(s, rng, 0.58, ((240, 240, 240), (40, 160, 70), (200, 40, 40))[rng.integers(3)])


def _pedestrian(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    shirt, pants = CLOTHES[rng.integers(len(CLOTHES))], ((40, 44, 70), (30, 30, 32), (120, 110, 90))[rng.integers(3)]
    step = rng.uniform(0.15, 0.75)
    s.add((-0.2, 0.25), (0.06, 0.5), (0.0, 0.48), pants, top_x=(-0.2, 0.25), reflectivity=0.15)
    s.add((step - 0.3, step + 0.15), (-0.5, -0.06), (0.0, 0.48), pants, top_x=(-0.2, 0.25), reflectivity=0.15)
    s.add((-0.32, 0.32), (-0.62, 0.62), (0.46, 0.83), shirt, top_y=(-0.72, 0.72))
    s.add((-0.15, 0.2), (0.66, 1.0), (0.42, 0.8), shirt, bottom=SKIN)
    s.add((-0.05, 0.3), (-1.0, -0.66), (0.42, 0.8), shirt, bottom=SKIN)
    hair: Color = ((40, 28, 20), (90, 60, 30), (20, 20, 20))[rng.integers(3)]
    s.add((-0.26, 0.3), (-0.25, 0.25), (0.85, 1.0), hair, front=SKIN)
    if rng.random() < 0.35:  # backpack
        s.add((-0.85, -0.32), (-0.45, 0.45), (0.52, 0.8), CLOTHES[rng.integers(len(CLOTHES))])


def _traffic_cone(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    orange: Color = (238, 92, 16)
    s.add((-1, 1), (-1, 1), (0.0, 0.08), orange)
    for z0, z1, r0, r1, color in (
        (0.08, 0.45, 0.8, 0.58, orange),
        (0.45, 0.7, 0.58, 0.42, WHITE),
        (0.7, 1.0, 0.42, 0.22, orange),
    ):
        s.add(
            (-r0, r0),
            (-r0, r0),
            (z0, z1),
            color,
            top_x=(-r1, r1),
            top_y=(-r1, r1),
            reflectivity=0.8 if color is WHITE else 0.35,
        )


def _building(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    wall: Color = ((168, 120, 100), (190, 184, 170), (140, 146, 152), (206, 190, 150), (120, 104, 96))[rng.integers(5)]
    s.add((-1, 1), (-1, 1), (0, 1), wall, texture=WINDOWS)


def _pole(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    s.add((-0.3, 0.3), (-0.3, 0.3), (0, 1), (110, 112, 114))
    if rng.random() < 0.5:  # a sign plate
        s.add(
            (-0.3, 0.3),
            (-1, 1),
            (0.55, 0.72),
            ((30, 90, 170), (220, 220, 220), (200, 40, 40))[rng.integers(3)],
            reflectivity=0.9,
        )


def _bush(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    green: Color = (int(rng.integers(40, 80)), int(rng.integers(90, 130)), int(rng.integers(36, 60)))
    s.add((-0.8, 0.8), (-0.8, 0.8), (0, 0.55), green, top_x=(-1, 1), top_y=(-1, 1), texture=LEAVES)
    s.add((-1, 1), (-1, 1), (0.55, 1), green, top_x=(-0.5, 0.5), top_y=(-0.5, 0.5), texture=LEAVES)


def _tree(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    green: Color = (int(rng.integers(40, 80)), int(rng.integers(90, 130)), int(rng.integers(36, 60)))
    s.add((-0.1, 0.1), (-0.1, 0.1), (0, 0.5), (88, 66, 48))
    s.add((-0.7, 0.7), (-0.7, 0.7), (0.42, 0.7), green, top_x=(-1, 1), top_y=(-1, 1), texture=LEAVES)
    s.add((-1, 1), (-1, 1), (0.7, 1), green, top_x=(-0.4, 0.4), top_y=(-0.4, 0.4), texture=LEAVES)


def _crate(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    color: Color = ((50, 96, 70), (110, 110, 114), (150, 60, 44), (70, 84, 110))[rng.integers(4)]
    s.add((-1, 1), (-1, 1), (0, 1), color, top_x=(-0.92, 0.92))


_BUILDERS: dict[str, Callable[[Shape, np.random.Generator, bool], None]] = {
    "car": _car, "truck": _truck, "construction_vehicle": _construction_vehicle, "bus": _bus, "trailer": _trailer,
    "barrier": _barrier, "motorcycle": _motorcycle, "bicycle": _bicycle, "pedestrian": _pedestrian,
    "traffic_cone": _traffic_cone,
    "building": _building, "pole": _pole, "bush": _bush, "tree": _tree, "crate": _crate,
}  # fmt: skip
CLUTTER = ("building", "pole", "bush", "tree", "crate")


def build_shape(
    kind: str, size_m: tuple[float, float, float], rng: np.random.Generator, rider: bool = False
) -> list[Frustum]:
    """Frusta [m] in the object frame of an object of ``kind`` (a class of schema.CLASSES or one of CLUTTER) and size (l, w, h).

    Objects stand BOX_BASE_M above the ground and fill their box up to BOX_MARGIN_M per side; clutter fills its box.
    """
    if kind in CLUTTER:
        shape = Shape(size_m, 0.0, 0.0)
    else:
        shape = Shape(size_m, const.BOX_MARGIN_M, const.BOX_BASE_M)
    _BUILDERS[kind](shape, rng, rider)
    return shape.frusta


@dataclass(frozen=True)
class Parts:
    """All frusta of a scene as arrays, in object frames; P parts.

    Attributes:
        actor: (P,) int64, index of the actor each part belongs to.
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
