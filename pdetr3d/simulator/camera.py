"""Renders the simulated cameras: one ray per pixel center, shaded by face, with street, sky, facades and light haze."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdetr3d.geometry.boxes import EDGES
from pdetr3d.simulator import constants as const
from pdetr3d.simulator.raycast import PosedParts, expand_windows, intersect, pose_parts, z_buffer
from pdetr3d.simulator.shapes import LEAVES, WINDOWS
from pdetr3d.simulator.world import World, modulo

NEAR_M = 0.2
FAR_M = 150.0
PAIRS_PER_PASS = 2_000_000  # (part, pixel) pairs that are intersected at once, which bounds memory for large images
# Rows as in World.region: grass, sidewalk, asphalt, marking.
GROUND_COLOR = np.array([(104, 122, 74), (158, 154, 148), (86, 87, 90), (214, 214, 208)], np.float32)
SKY = np.array([(200, 214, 232), (-170, -120, -40)], np.float32)  # at the horizon, and change towards the zenith
HAZE, HAZE_M = np.array([186, 198, 212], np.float32), 220.0


def render(
    world: World, cam2global: NDArray[np.float64], intrinsic: NDArray[np.float64], size_px: tuple[int, int], t_s: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Render one image.

    Args:
        cam2global: (4, 4), camera frame x right, y down, z forward. intrinsic: (3, 3) [px]. size_px: (width, height).
        t_s: time in the scene. rng: draws the pixel noise.

    Returns:
        image (H, W, 3) uint8 RGB; actor (H, W) int64, the index of each pixel's actor, -1 for ground and sky;
        silhouette (A,) int64, the number of pixels that each actor would cover with nothing in front of it.
    """
    width, height = size_px
    rotation, origin = cam2global[:3, :3], cam2global[:3, 3]
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], axis=1)
    rays = (pixels @ np.linalg.inv(intrinsic).T @ rotation.T).astype(np.float32)  # ray parameter: depth along the axis

    posed = pose_parts(world.parts, world.poses(t_s), origin)
    depth = np.where(rays[:, 2] < -1e-4, -origin[2] / np.minimum(rays[:, 2], -1e-4), np.inf).astype(np.float32)
    seen_part, seen_face = np.full(len(rays), -1, np.int64), np.zeros(len(rays), np.int64)
    covered: list[NDArray[np.int64]] = []  # actor * pixels + pixel of every hit, with hidden ones
    for chunk in _passes(_windows(posed, rotation, intrinsic, size_px)):
        part, row, column = expand_windows(*chunk[1:])
        part = chunk[0][part]
        pixel = row * width + column
        t, face = intersect(posed, part, rays[pixel])
        depth, winner = z_buffer(depth, pixel, t)
        on = np.flatnonzero(winner >= 0)
        seen_part[on], seen_face[on] = part[winner[on]], face[winner[on]]
        hit = np.flatnonzero(np.isfinite(t))
        covered.append(np.unique(world.parts.actor[part[hit]] * len(rays) + pixel[hit]))
    once = np.unique(np.concatenate(covered)) if len(covered) > 1 else covered[0] if covered else np.zeros(0, np.int64)
    silhouette = np.bincount(once // len(rays), minlength=len(world.actors))
    image = _shade(world, posed, rays, origin, depth, seen_part, seen_face)
    image += rng.standard_normal(image.shape, np.float32) * const.PIXEL_NOISE
    actor = np.where(seen_part >= 0, world.parts.actor[seen_part], -1).reshape(height, width)
    return np.clip(image, 0, 255).astype(np.uint8).reshape(height, width, 3), actor, silhouette


def _windows(
    posed: PosedParts, rotation: NDArray[np.float64], intrinsic: NDArray[np.float64], size_px: tuple[int, int]
) -> tuple[NDArray[np.int64], ...]:
    """(part, row0, rows, column0, columns) of the parts in view: the pixel bounds of the part, cut at depth NEAR_M."""
    corners = posed.corners_m @ rotation
    a, b = corners[:, EDGES[:, 0]], corners[:, EDGES[:, 1]]
    crossing = (a[..., 2] < NEAR_M) != (b[..., 2] < NEAR_M)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (NEAR_M - a[..., 2]) / (b[..., 2] - a[..., 2])
        cut = a + share[..., None] * (b - a)
    points = np.concatenate([corners, cut], axis=1)
    valid = np.concatenate([corners[..., 2] >= NEAR_M, crossing], axis=1)
    depth = np.where(valid, np.maximum(points[..., 2], NEAR_M), 1.0)
    u = intrinsic[0, 0] * points[..., 0] / depth + intrinsic[0, 2]
    v = intrinsic[1, 1] * points[..., 1] / depth + intrinsic[1, 2]
    with np.errstate(invalid="ignore"):
        bounds = [
            f(np.where(valid, p, fill), axis=1) for p in (u, v) for f, fill in ((np.min, np.inf), (np.max, -np.inf))
        ]
    near = np.where(valid, points[..., 2], np.inf).min(axis=1)
    width, height = size_px
    # The center of pixel i is at i + 0.5: pixels from ceil(min - 0.5) to floor(max - 0.5) can be hit.
    u0, u1 = np.ceil(np.clip(bounds[0] - 0.5, 0, width)), np.floor(np.clip(bounds[1] - 0.5, -1, width - 1))
    v0, v1 = np.ceil(np.clip(bounds[2] - 0.5, 0, height)), np.floor(np.clip(bounds[3] - 0.5, -1, height - 1))
    part = np.flatnonzero((u1 >= u0) & (v1 >= v0) & (near < FAR_M))
    row0, rows = v0[part].astype(np.int64), (v1 - v0 + 1)[part].astype(np.int64)
    column0, columns = u0[part].astype(np.int64), (u1 - u0 + 1)[part].astype(np.int64)
    return part, row0, rows, column0, columns


def _passes(windows: tuple[NDArray[np.int64], ...]) -> list[tuple[NDArray[np.int64], ...]]:
    """Cut the windows into groups of at most PAIRS_PER_PASS pairs (or a single window)."""
    if not len(windows[0]):
        return []
    group = np.cumsum(windows[2] * windows[4]) // PAIRS_PER_PASS
    cuts = np.flatnonzero(np.diff(group)) + 1
    return list(zip(*(np.split(w, cuts) for w in windows), strict=True))


def _shade(
    world: World, posed: PosedParts, rays: NDArray[np.float32], origin: NDArray[np.float64], depth: NDArray[np.float32],
    part: NDArray[np.int64], face: NDArray[np.int64],
) -> NDArray[np.float32]:  # fmt: skip
    """Color (R, 3) float32 0..255 of every ray."""
    # Sky: bluer towards the zenith.
    up = np.clip(rays[:, 2] / np.sqrt((rays * rays).sum(axis=1)), 0, 0.5)
    image = SKY[0] + up[:, None] * SKY[1]
    on = np.flatnonzero(part >= 0)
    normal = posed.normals[part[on], face[on]]
    light = (
        world.ambient
        + (1.05 - world.ambient) * np.maximum(normal @ world.sun.astype(np.float32), 0)
        + 0.08 * normal[:, 2]
    )
    light *= _texture(world, normal, origin, depth[on, None] * rays[on], part[on])
    image[on] = world.parts.colors[part[on], face[on]] * light[:, None].astype(np.float32)
    down = np.flatnonzero((part < 0) & (depth < FAR_M))
    image[down] = _ground(world, origin, depth[down, None] * rays[down, :2], depth[down])
    haze = (1 - np.exp(np.minimum(depth, 1e4) * np.float32(-1 / HAZE_M)))[:, None]
    haze[(part < 0) & (depth >= FAR_M)] = 0
    image += haze * (HAZE - image)
    return image * np.float32(world.brightness)


def _ground(
    world: World, origin: NDArray[np.float64], offset: NDArray[np.float32], depth: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Color (N, 3) of ground points at ``origin`` + ``offset``: region, grain, joints of the sidewalk."""
    region, x, y = world.region(origin, offset)
    light = 1.0 + 0.10 * (_hash(np.floor(x * 2), np.floor(y * 2)) - 0.5) * np.minimum(1.0, 12.0 / depth)
    paved = np.flatnonzero((region == 1) & (depth < 25))
    joint = (modulo(x[paved], 1.5) < 0.08) | (modulo(y[paved], 1.5) < 0.08)
    light[paved[joint]] *= 0.85
    light *= np.float32(world.ambient + (1.05 - world.ambient) * world.sun[2])
    return GROUND_COLOR[region] * light[:, None].astype(np.float32)


def _texture(
    world: World,
    normal: NDArray[np.float32],
    origin: NDArray[np.float64],
    offset: NDArray[np.float32],
    part: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Factors (N,) on the colors: windows on facades, spots on leaves, 1 elsewhere."""
    factor = np.ones(len(part), np.float32)
    kind = world.parts.texture[part]
    wall = np.flatnonzero((kind == WINDOWS) & (np.abs(normal[:, 2]) < 0.5))
    # The pattern is fixed in the global frame, so that windows do not move with the camera.
    x, y = offset[wall, 0] + origin[0], offset[wall, 1] + origin[1]
    along = modulo(y * normal[wall, 0] - x * normal[wall, 1], 3.0)
    z = modulo(offset[wall, 2] + origin[2], 3.2)
    factor[wall] = np.where((along < 1.5) & (z > 1.0) & (z < 2.5), 0.45, 1.0)
    leaf = np.flatnonzero(kind == LEAVES)
    cell = np.floor((offset[leaf] + origin) * 4)
    factor[leaf] = 0.7 + 0.5 * _hash(cell[:, 0] + 57 * cell[:, 2], cell[:, 1])
    return factor


def _hash(a: NDArray, b: NDArray) -> NDArray[np.float32]:
    """A pseudo-random number 0..1 for each pair of integers, without state."""
    h = (a.astype(np.int64) * 73856093) ^ (b.astype(np.int64) * 19349663)
    return ((h ^ (h >> 13)) * 60493 & 0xFFFF).astype(np.float32) / np.float32(65535)
