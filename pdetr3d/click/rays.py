"""Computes the ray of a pixel, and the place of a click: where a ray meets the LiDAR points or the ground.

Everything is in the keyframe's LIDAR_TOP frame (x right, y forward, z up), meters, float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# A ray hits points within TOLERANCE_SHARE of their distance from the LiDAR, but at least and at most TOLERANCE_M.
TOLERANCE_M = (0.15, 0.5)
TOLERANCE_SHARE = 0.01  # neighboring columns of points are 0.006 of the distance apart
BEHIND_M = 0.7  # of the points up to this far behind the first one hit, the nearest to the ray counts
HEIGHTS_M = (-1.0, 5.0)  # above the ground; lower points (reflections) and higher ones (trees, signs) are not hit
START_M = 0.5  # nothing nearer to the ray's origin is hit
MAX_GROUND_M = 120.0  # ground farther from the LiDAR is not hit


@dataclass(frozen=True)
class Ray:
    """``origin_m`` (3,) and unit ``direction`` (3,), float64."""

    origin_m: NDArray[np.float64]
    direction: NDArray[np.float64]

    @staticmethod
    def of(origin_m: ArrayLike, direction: ArrayLike) -> Ray:
        """A ray in a direction of any length > 0."""
        along = np.asarray(direction, np.float64)
        return Ray(np.asarray(origin_m, np.float64), along / np.linalg.norm(along))

    def at(self, distance_m: float) -> NDArray[np.float64]:
        """The place (3,) at ``distance_m`` along the ray."""
        return self.origin_m + distance_m * self.direction

    def apart(self, points_m: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The distances of points (P, 3) along the ray, and from the ray: two arrays (P,) [m]."""
        offset = np.asarray(points_m, np.float64) - self.origin_m
        along = offset @ self.direction
        return along, np.linalg.norm(offset - along[:, None] * self.direction, axis=1)


@dataclass(frozen=True)
class Hit:
    """The end of a ray: ``xyz_m`` (3,) float64, a place on the ray; ``on`` is "lidar" or "ground"."""

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
    """The height (...) of points (..., 3) above the ground, i.e. the plane z = 0 of the ego frame."""
    return np.asarray(points_m, np.float64) @ lidar2ego[2, :3] + lidar2ego[2, 3]


def cut(ray: Ray, points_m: NDArray, lidar2ego: NDArray[np.float64]) -> Hit | None:
    """The place where a ray meets the scene; None if it meets nothing.

    The ray hits LiDAR points (P, 3) within a tolerance. Of the first hit point along the ray and those up to BEHIND_M
    behind it, the nearest to the ray counts. The result is the ray's place beside this point, so that it lies exactly
    where the annotator aimed. A ray that hits no point ends on the ground.
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
    """The index of the place (K, 3) nearest to a ray, within 0.5 m or 2 % of the distance; None if there is none."""
    if not len(places_m):
        return None
    along, off = ray.apart(places_m)
    off = np.where((along > START_M) & (off <= np.maximum(0.5, 0.02 * along)), off, np.inf)
    best = int(np.argmin(off))
    return best if np.isfinite(off[best]) else None
