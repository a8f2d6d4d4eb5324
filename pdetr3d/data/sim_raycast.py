"""Ray casting against the frusta of a scene: poses at a time, culling windows, half-space intersection, z-buffer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdetr3d.data.sim_shapes import Parts

MIN_HIT = 0.05  # hits closer than this along the ray (in units of the ray's direction) are ignored


@dataclass(frozen=True)
class PosedParts:
    """Parts as seen from a sensor at one time: global axes, origin at the sensor. P parts.

    Attributes:
        corners_m: (P, 8, 3) float64.
        normals: (P, 6, 3) float32, outward. signed_m: (P, 6) float32, the sensor's signed distance in front of each face.
        nearest_m: (P,) float64, horizontal distance from the sensor to the part (0 if above or below it).
    """

    corners_m: NDArray[np.float64]
    normals: NDArray[np.float32]
    signed_m: NDArray[np.float32]
    nearest_m: NDArray[np.float64]


def pose_parts(parts: Parts, poses: NDArray[np.float64], sensor_m: NDArray[np.float64]) -> PosedParts:
    """Place parts by their actors' ``poses`` (A, 3) = (x, y, yaw) in the global frame and shift the origin to ``sensor_m`` (3,)."""
    x, y, yaw = poses[parts.actor].T
    c, s = np.cos(yaw), np.sin(yaw)
    position = np.stack([x, y, np.zeros_like(x)], axis=1) - sensor_m
    rotation = np.zeros((len(x), 3, 3))
    rotation[:, 0, 0], rotation[:, 0, 1], rotation[:, 1, 0], rotation[:, 1, 1], rotation[:, 2, 2] = c, -s, s, c, 1.0
    to_global = rotation.transpose(0, 2, 1)
    normals = parts.normals @ to_global
    signed = -(normals @ position[:, :, None])[:, :, 0] - parts.offsets_m
    sensor_local = -(position[:, None] @ rotation)[:, 0, :2]
    low, high = parts.corners_m[:, :, :2].min(axis=1), parts.corners_m[:, :, :2].max(axis=1)
    gap = np.maximum(np.maximum(low - sensor_local, sensor_local - high), 0.0)
    return PosedParts(
        corners_m=parts.corners_m @ to_global + position[:, None],
        normals=normals.astype(np.float32),
        signed_m=signed.astype(np.float32),
        nearest_m=np.hypot(gap[:, 0], gap[:, 1]),
    )


def expand_windows(
    row0: NDArray[np.int64], rows: NDArray[np.int64], column0: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """List every (part, row, column) of P rectangular windows: start and extent along both axes, extents may be 0."""
    count = rows * columns
    part = np.repeat(np.arange(len(count)), count)
    k = np.arange(len(part)) - np.repeat(np.cumsum(count) - count, count)
    width = columns[part]
    row = k // np.maximum(width, 1)
    return part, row0[part] + row, column0[part] + k - row * width


def intersect(
    posed: PosedParts, part: NDArray[np.int64], directions: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Intersect K rays from the sensor with one part each.

    Args:
        part: (K,) which part. directions: (K, 3) float32 in global axes, not necessarily unit.

    Returns:
        (K,) float32 ray parameter of the entry point (inf = miss) and (K,) int64 face entered.
    """
    enter = np.full(len(part), MIN_HIT, np.float32)
    leave = np.full(len(part), np.inf, np.float32)
    face = np.full(len(part), -1, np.int64)
    dx, dy, dz = directions.T
    for f in range(6):
        n = posed.normals[part, f]
        along = n[:, 0] * dx + n[:, 1] * dy + n[:, 2] * dz
        # A ray parallel to a face either always passes (sensor behind the face) or never does.
        along = np.where(np.abs(along) < 1e-7, np.float32(1e-7), along)
        t = -posed.signed_m[part, f] / along
        entering = along < 0
        later = entering & (t > enter)
        enter = np.where(later, t, enter)
        face = np.where(later, f, face)
        leave = np.where(entering, leave, np.minimum(leave, t))
    hit = (face >= 0) & (enter <= leave)
    return np.where(hit, enter, np.float32(np.inf)).astype(np.float32), face


def z_buffer(
    depth: NDArray[np.float32], ray: NDArray[np.int64], t: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Keep the nearest of all hits per ray.

    Args:
        depth: (R,) float32 background depth (ground, or inf). ray: (K,) index of each hit's ray. t: (K,) its depth.

    Returns:
        (R,) float32 depth and (R,) int64 index of the winning hit, -1 where the background wins.
    """
    nearest = depth.copy()
    np.minimum.at(nearest, ray, t)
    winner = np.full(len(depth), -1, np.int64)
    wins = np.flatnonzero((t == nearest[ray]) & np.isfinite(t) & (t < depth[ray]))
    winner[ray[wins[::-1]]] = wins[::-1]  # equal depths: the first hit wins, whatever the order of assignment
    return nearest, winner
