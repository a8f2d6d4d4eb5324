"""Casts the simulated LiDAR's rays against the scene: one instantaneous turn of 32 beams."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdetr3d.geometry.rigid import yaw_of
from pdetr3d.simulator import constants as const
from pdetr3d.simulator.raycast import PosedParts, expand_windows, intersect, pose_parts, z_buffer
from pdetr3d.simulator.world import World

GROUND_REFLECTIVITY = np.array([0.10, 0.12, 0.06, 0.45], np.float32)  # grass, sidewalk, asphalt, marking


def scan(
    world: World, lidar2global: NDArray[np.float64], t_s: float, azimuth_steps: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Cast one turn.

    Args:
        lidar2global: (4, 4) pose of LIDAR_TOP. t_s: time in the scene. azimuth_steps: number of directions per turn.
        rng: draws noise and lost returns.

    Returns:
        (N, 5) float32 as in a nuScenes .pcd.bin: x, y, z [m] in LIDAR_TOP, intensity 0..255, ring 0 (lowest) .. 31.
    """
    phase = rng.uniform(0, 1)
    azimuth = (np.arange(azimuth_steps) + phase) * (2 * np.pi / azimuth_steps)
    elevation = np.deg2rad(np.linspace(*const.LIDAR_ELEVATION_DEG, const.LIDAR_BEAMS))
    flat = np.stack([np.cos(azimuth), np.sin(azimuth), np.zeros_like(azimuth)], axis=1)
    local = np.cos(elevation)[:, None, None] * flat + np.sin(elevation)[:, None, None] * np.array([0.0, 0.0, 1.0])
    local = local.reshape(-1, 3)
    rotation, origin = lidar2global[:3, :3], lidar2global[:3, 3]
    rays = (local @ rotation.T).astype(np.float32)

    posed = pose_parts(world.parts, world.poses(t_s), origin)
    part, row, column = expand_windows(*_windows(posed, lidar2global, elevation, azimuth_steps, phase))
    ray = row * azimuth_steps + column % azimuth_steps
    t, face = intersect(posed, part, rays[ray])
    ground = np.where(rays[:, 2] < -1e-3, -origin[2] / np.minimum(rays[:, 2], -1e-3), np.inf).astype(np.float32)
    depth, winner = z_buffer(ground, ray, t)

    reflectivity, cosine = _surface(world, posed, rays, origin, depth, winner, part, face)
    strength = reflectivity * np.sqrt(np.maximum(cosine, 0.02))
    far = np.minimum(depth / const.LIDAR_MAX_RANGE_M, 1.0)
    lost = const.LIDAR_DROPOUT_BASE + const.LIDAR_DROPOUT_FAR * far**2 * (1 - np.sqrt(strength))
    noise, luck, speckle = rng.standard_normal(len(rays)), rng.random(len(rays)), rng.lognormal(0.0, 0.25, len(rays))
    keep = (depth < const.LIDAR_MAX_RANGE_M) & (luck > lost)
    distance = (depth + const.LIDAR_NOISE_M * noise)[keep]
    intensity = np.clip(np.round(255 * 0.35 * strength * speckle), 0, 255)[keep]
    ring = np.repeat(np.arange(const.LIDAR_BEAMS), azimuth_steps)[keep]
    return np.column_stack([local[keep] * distance[:, None], intensity, ring]).astype(np.float32)


def _surface(
    world: World, posed: PosedParts, rays: NDArray[np.float32], origin: NDArray[np.float64], depth: NDArray[np.float32],
    winner: NDArray[np.int64], part: NDArray[np.int64], face: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:  # fmt: skip
    """Reflectivity and cosine of incidence (R,) float32 of the surface that each ray hits; 0 where it hits nothing."""
    reflectivity, cosine = np.zeros(len(rays), np.float32), np.zeros(len(rays), np.float32)
    on = np.flatnonzero(winner >= 0)
    hit_part, hit_face = part[winner[on]], face[winner[on]]
    reflectivity[on] = world.parts.reflectivity[hit_part]
    cosine[on] = -(posed.normals[hit_part, hit_face] * rays[on]).sum(axis=1)
    down = np.flatnonzero((winner < 0) & (depth < const.LIDAR_MAX_RANGE_M))
    reflectivity[down] = GROUND_REFLECTIVITY[world.region(origin, depth[down, None] * rays[down, :2])[0]]
    cosine[down] = -rays[down, 2]
    return reflectivity, cosine


def _windows(
    posed: PosedParts,
    lidar2global: NDArray[np.float64],
    elevation: NDArray[np.float64],
    azimuth_steps: int,
    phase: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Windows (row0, rows, column0, columns) of rings and directions that contain all rays that can hit each part."""
    # The windows are computed for an upright sensor, and widened by its tilt.
    tilt = np.arccos(np.clip(lidar2global[2, 2], -1, 1)) + 1e-3
    step = 2 * np.pi / azimuth_steps
    corners = posed.corners_m
    bearing = np.arctan2(corners[..., 1], corners[..., 0]) - yaw_of(lidar2global)
    middle = np.arctan2(corners[..., 1].mean(axis=1), corners[..., 0].mean(axis=1)) - yaw_of(lidar2global)
    offset = (bearing - middle[:, None] + np.pi) % (2 * np.pi) - np.pi
    column0 = np.ceil((middle + offset.min(axis=1) - tilt) / step - phase).astype(np.int64)
    columns = np.floor((middle + offset.max(axis=1) + tilt) / step - phase).astype(np.int64) - column0 + 1
    around = posed.nearest_m < 0.1
    columns = np.where(around, azimuth_steps, np.clip(columns, 0, azimuth_steps))
    near, far = np.maximum(posed.nearest_m, 1e-3), np.hypot(corners[..., 0], corners[..., 1]).max(axis=1)
    low, high = corners[..., 2].min(axis=1), corners[..., 2].max(axis=1)
    e_low = np.arctan2(low, np.where(low < 0, near, far)) - tilt
    e_high = np.arctan2(high, np.where(high > 0, near, far)) + tilt
    row0 = np.searchsorted(elevation, e_low)
    rows = np.maximum(np.searchsorted(elevation, e_high, side="right") - row0, 0)
    rows[posed.nearest_m > const.LIDAR_MAX_RANGE_M] = 0
    return row0, rows, column0, columns
