"""Casts rays against a scene's frusta: poses at a given time, culling windows, half-space intersection, z-buffer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdetr3d.simulator.shapes import Parts

MIN_HIT = 0.05  # hits closer than this along the ray (in units of the ray's direction) are ignored


@dataclass(frozen=True)
class PosedParts:
    """P parts relative to a sensor at one time: global axes, origin at the sensor.

    Attributes:
        corners_m: (P, 8, 3) float64.
        normals: (P, 6, 3) float32, outward unit normals of the faces.
        signed_m: (P, 6) float32, signed distance of the sensor from each face's plane, positive in front of the face.
        nearest_m: (P,) float64, horizontal distance from the sensor to the part (0 if above or below it).
    """

    corners_m: NDArray[np.float64]
    normals: NDArray[np.float32]
    signed_m: NDArray[np.float32]
    nearest_m: NDArray[np.float64]


def pose_parts(parts: Parts, poses: NDArray[np.float64], sensor_m: NDArray[np.float64]) -> PosedParts:
    """Place parts by their actors' global ``poses`` (A, 3) = (x, y, yaw); the origin becomes ``sensor_m`` (3,)."""
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
    """List all pixels of P rectangular windows as (part, row, column), each (K,) int64.

    Args:
        row0, rows, column0, columns: (P,) start and extent of each window; extents may be 0.
    """
    # All rows of all windows are listed first, then each row's columns: this needs no division per pixel.
    row_part = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(len(row_part)) - np.repeat(np.cumsum(rows) - rows - row0, rows)
    count = columns[row_part]
    column = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - column0[row_part], count)
    return np.repeat(row_part, count), np.repeat(row, count), column


def intersect(
    posed: PosedParts, part: NDArray[np.int64], directions: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Intersect K rays from the sensor with one part each.

    Args:
        part: (K,) index of each ray's part. directions: (K, 3) float32 in global axes, of any length.

    Returns:
        (K,) float32, the ray parameter of the entry point (inf: the ray misses the part), and (K,) int64, the face
        through which the ray enters.
    """
    enter = np.full(len(part), MIN_HIT, np.float32)
    leave = np.full(len(part), np.inf, np.float32)
    face = np.full(len(part), -1, np.int8)
    dx, dy, dz = np.ascontiguousarray(directions.T)
    coefficients = np.concatenate([posed.normals, -posed.signed_m[..., None]], axis=2).transpose(1, 2, 0).copy()
    for f, (nx, ny, nz, behind) in enumerate(coefficients):
        along = nx.take(part) * dx
        along += ny.take(part) * dy
        along += nz.take(part) * dz
        # A ray parallel to a face passes always (if the sensor is behind the face) or never.
        along[np.abs(along) < 1e-7] = 1e-7
        t = behind.take(part) / along
        entering = along < 0
        later = entering & (t > enter)
        np.copyto(enter, t, where=later)
        np.copyto(face, f, where=later)
        np.minimum(leave, t, out=leave, where=~entering)
    hit = (face >= 0) & (enter <= leave)
    return np.where(hit, enter, np.float32(np.inf)), face.astype(np.int64)


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
