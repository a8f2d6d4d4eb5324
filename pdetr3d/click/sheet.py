"""Places the camera images in the scene, flat beside the LiDAR points, and finds the pixel that a ray meets.

One view from above then shows points and images, and a click on an image is a ray like any other. Sheet coordinates are
those of the keyframe's LIDAR_TOP frame [m]; the images lie in the plane z = SHEET_Z_M with their tops towards +y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdetr3d.click.rays import Ray, pixel_ray
from pdetr3d.schema import CAMERAS, CameraRecord

HALF_SIDE_M = 52.0  # half side of the square of LiDAR points between the images
GAP_M = 1.0
SHEET_Z_M = -2.0
# The left column has the cameras to the front, the right column those to the back.
COLUMNS = (("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"), ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"))


@dataclass(frozen=True)
class Tile:
    """An image on the sheet: name of the camera, its record, and middle and size (width, height) of the image [m]."""

    name: str
    camera: CameraRecord
    middle_m: tuple[float, float]
    size_m: tuple[float, float]

    def place(self, uv_px: NDArray) -> NDArray[np.float64]:
        """The places (..., 3) on the sheet of pixels (..., 2)."""
        share = np.asarray(uv_px, np.float64) / (self.camera.width_px, self.camera.height_px) - 0.5
        xy = np.asarray(self.middle_m) + share * (self.size_m[0], -self.size_m[1])
        return np.concatenate([xy, np.full((*xy.shape[:-1], 1), SHEET_Z_M)], -1)

    def pixel(self, xy_m: NDArray) -> NDArray[np.float64]:
        """The pixel (2,) at a place (2,) of the sheet, also outside the image."""
        share = (np.asarray(xy_m, np.float64) - self.middle_m) / (self.size_m[0], -self.size_m[1]) + 0.5
        return share * (self.camera.width_px, self.camera.height_px)


def tiles(cameras: Sequence[CameraRecord | None]) -> list[Tile]:
    """The images of a sample's cameras (order of CAMERAS); a missing camera leaves its place empty."""
    height = (2 * HALF_SIDE_M - 2 * GAP_M) / 3
    found = []
    for side, column in zip((-1, 1), COLUMNS, strict=True):
        for row, name in enumerate(column):
            camera = cameras[CAMERAS.index(name)]
            if camera is not None:
                width = height * camera.width_px / camera.height_px
                middle = (side * (HALF_SIDE_M + GAP_M + width / 2), (1 - row) * (height + GAP_M))
                found.append(Tile(name, camera, middle, (width, height)))
    return found


def width_m(found: Sequence[Tile]) -> float:
    """The width of the whole sheet [m]."""
    return 2 * max((abs(tile.middle_m[0]) + tile.size_m[0] / 2 for tile in found), default=HALF_SIDE_M)


def through(ray: Ray, found: Sequence[Tile]) -> tuple[Ray, Tile | None]:
    """The ray of the pixel at which a ray meets an image, and the image; without an image the ray itself, and None."""
    fall = float(ray.direction[2])
    if fall < -1e-6:
        place = ray.at((SHEET_Z_M - float(ray.origin_m[2])) / fall)
        for tile in found:
            uv = tile.pixel(place[:2])
            if (uv >= 0).all() and uv[0] < tile.camera.width_px and uv[1] < tile.camera.height_px:
                return pixel_ray(tile.camera.lidar2img, uv), tile
    return ray, None
