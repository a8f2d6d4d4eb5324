"""Computes the lines that show clicks, regions and boxes in the scene and on the images.

Lines are segments (S, 2, 3) float64 [m] in sheet coordinates (``sheet.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pdetr3d.click.sheet import Tile
from pdetr3d.geometry.boxes import EDGES, corners
from pdetr3d.geometry.camera import in_image, project, project_segments
from pdetr3d.schema import Boxes3D

ARM_M = 0.7  # half length of a cross's arms in the scene
POLE_M = (-0.4, 1.6)  # lower and upper end of a click's pole, which rises above its surroundings
IMAGE_ARM_M = 0.9  # half length of a cross's arms on an image, in sheet meters
LIFT_M = 0.05  # height of marks above their image
CIRCLE = 32  # segments of a circle


def crosses(places_m: NDArray, arm_m: float = ARM_M) -> NDArray[np.float64]:
    """Crosses at places (K, 3): segments (3 K, 2, 3), two horizontal arms and a pole for each place."""
    arms = np.array(
        [
            [[-arm_m, -arm_m, 0], [arm_m, arm_m, 0]],
            [[-arm_m, arm_m, 0], [arm_m, -arm_m, 0]],
            [[0, 0, POLE_M[0]], [0, 0, POLE_M[1]]],
        ]
    )
    return (np.asarray(places_m, np.float64).reshape(-1, 1, 1, 3) + arms).reshape(-1, 2, 3)


def circle(place_m: NDArray, radius_m: float) -> NDArray[np.float64]:
    """A horizontal circle around a place (3,): segments (CIRCLE, 2, 3)."""
    angle = np.linspace(0, 2 * np.pi, CIRCLE + 1)
    rim = np.asarray(place_m) + radius_m * np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], 1)
    return np.stack([rim[:-1], rim[1:]], 1)


def seen_in(place_m: NDArray, tiles: Sequence[Tile]) -> list[tuple[Tile, NDArray[np.float64]]]:
    """The images that show a place (3,), each with the place's pixel (2,)."""
    found = []
    for tile in tiles:
        uv, _ = project(tile.camera.lidar2img, np.asarray(place_m, np.float64))
        if in_image(uv, (tile.camera.width_px, tile.camera.height_px)):
            found.append((tile, uv))
    return found


def on_images(places_m: NDArray, tiles: Sequence[Tile]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Crosses on the images at the pixels of places (K, 3).

    Returns:
        Segments (2 M, 2, 3) for M pixels, and the index (2 M,) of each segment's place.
    """
    arms = IMAGE_ARM_M * np.array([[[-1, -1, 0], [1, 1, 0]], [[-1, 1, 0], [1, -1, 0]]]) + [0, 0, LIFT_M]
    found, of = [np.zeros((0, 2, 3))], []
    for number, place in enumerate(places_m):
        for tile, uv in seen_in(place, tiles):
            found.append(tile.place(uv) + arms)
            of += [number, number]
    return np.concatenate(found), np.array(of, np.int64)


def box_edges(boxes: Boxes3D) -> NDArray[np.float64]:
    """Edges and headings of N boxes: segments (13 N, 2, 3); a heading leads from the bottom's middle to its front."""
    shape = np.asarray(corners(boxes.center_m, boxes.size_m, boxes.yaw_rad), np.float64)
    heading = np.stack([shape[:, :4].mean(1), shape[:, :2].mean(1)], 1)[:, None]
    return np.concatenate([shape[:, EDGES], heading], 1).reshape(-1, 2, 3)


def edges_on_images(segments_m: NDArray, tiles: Sequence[Tile]) -> NDArray[np.float64]:
    """The projections onto the images of those segments (S, 2, 3) that lie within an image: (T, 2, 3)."""
    found = [np.zeros((0, 2, 3))]
    for tile in tiles:
        uv = project_segments(tile.camera.lidar2img, segments_m)
        seen = in_image(uv, (tile.camera.width_px, tile.camera.height_px)).all(-1)
        found.append(tile.place(uv[seen]) + [0, 0, LIFT_M])
    return np.concatenate(found)
