"""From a ray to a click: the ray of a pixel, and where a ray meets the LiDAR points or the ground.

Everything is in the keyframe's LIDAR_TOP frame (x right, y forward, z up), meters, float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

TOLERANCE_M = (0.15, 0.5)  # least and most distance of a point from the ray that hits it
TOLERANCE_SHARE = 0.01  # of the point's distance from the LiDAR: two columns of points are 0.006 of it apart
BEHIND_M = 0.7  # of the points up to so far behind the first that is hit, the nearest to the ray counts
HEIGHTS_M = (-1.0, 5.0)  # over the ground: what is lower (reflections) or higher (trees, signs) is not hit
START_M = 0.5  # along the ray: nothing nearer to its origin is hit
MAX_GROUND_M = 120.0  # from the LiDAR: a ray that meets the ground farther off meets none


@dataclass(frozen=True)
class Ray:
    """``origin_m`` (3,) and unit ``direction`` (3,), float64."""

    origin_m: NDArray[np.float64]
    direction: NDArray[np.float64]

    @staticmethod
    def of(origin_m: ArrayLike, direction: ArrayLike) -> Ray:
        """A ray of any direction of length > 0."""
        along = np.asarray(direction, np.float64)
        return Ray(np.asarray(origin_m, np.float64), along / np.linalg.norm(along))

    def at(self, distance_m: float) -> NDArray[np.float64]:
        """(3,): the place ``distance_m`` along the ray."""
        return self.origin_m + distance_m * self.direction

    def apart(self, points_m: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Distance along the ray, and from it, of points (P, 3): two arrays (P,) [m]."""
        offset = np.asarray(points_m, np.float64) - self.origin_m
        along = offset @ self.direction
        return along, np.linalg.norm(offset - along[:, None] * self.direction, axis=1)


@dataclass(frozen=True)
class Hit:
    """Where a ray ends: ``xyz_m`` (3,) float64, always on the ray; ``on`` is "lidar" or "ground"."""

    xyz_m: NDArray[np.float64]
    on: str


def pixel_ray(lidar2img: NDArray[np.float64], uv_px: ArrayLike) -> Ray:
    """The ray from the camera through a pixel.

    Args:
        lidar2img: (4, 4) of the image: ``lidar2img @ (x, y, z, 1) = (u d, v d, d, 1)``.
        uv_px: (2,) continuous pixel, corners at integers.
    """
    u, v = np.asarray(uv_px, np.float64)
    back = np.linalg.inv(lidar2img[:3, :3])
    return Ray.of(-back @ lidar2img[:3, 3], back @ np.array([u, v, 1.0]))


def height_m(lidar2ego: NDArray[np.float64], points_m: NDArray) -> NDArray[np.float64]:
    """(...,): height over the ground, the ego frame's plane z = 0 (where wheels stand), of points (..., 3)."""
    return np.asarray(points_m, np.float64) @ lidar2ego[2, :3] + lidar2ego[2, 3]


def cut(ray: Ray, points_m: NDArray, lidar2ego: NDArray[np.float64]) -> Hit | None:
    """Where a ray meets the scene.

    The LiDAR points (P, 3) that lie within a tolerance of the ray are hit. The first of them along the ray counts, or
    the one nearest to the ray of those that follow within BEHIND_M. The click is the place of the ray beside that
    point: sideways it lies where it was aimed. A ray that hits no point ends on the ground; one that goes up hits
    nothing (None).
    """
    points = np.asarray(points_m, np.float64)
    along, off = ray.apart(points)
    heights = height_m(lidar2ego, points)
    tolerance = np.clip(TOLERANCE_SHARE * np.linalg.norm(points, axis=1), *TOLERANCE_M)
    hit = (along > START_M) & (off <= tolerance) & (heights > HEIGHTS_M[0]) & (heights < HEIGHTS_M[1])
    if hit.any():
        near = hit & (along <= along[hit].min() + BEHIND_M)
        best = int(np.argmin(np.where(near, off, np.inf)))
        return Hit(ray.at(float(along[best])), "lidar")
    fall = float(lidar2ego[2, :3] @ ray.direction)
    if fall >= -1e-6:
        return None
    place = ray.at(-float(height_m(lidar2ego, ray.origin_m)) / fall)
    # A ray that starts below the ground would meet it behind its origin.
    ahead = float((place - ray.origin_m) @ ray.direction) > START_M
    return Hit(place, "ground") if ahead and float(np.linalg.norm(place)) <= MAX_GROUND_M else None


def nearest(ray: Ray, places_m: NDArray) -> int | None:
    """Which of the places (K, 3) a ray means: the nearest to it within 0.5 m, or 2 % of the distance; None: none."""
    if not len(places_m):
        return None
    along, off = ray.apart(places_m)
    off = np.where((along > START_M) & (off <= np.maximum(0.5, 0.02 * along)), off, np.inf)
    best = int(np.argmin(off))
    return best if np.isfinite(off[best]) else None
