"""Builds, composes and applies rigid transforms: 4x4 float64 matrices ``src2dst`` with ``p_dst = src2dst @ p_src``."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pyquaternion import Quaternion


def rigid(rotation_wxyz: ArrayLike, translation_m: ArrayLike) -> NDArray[np.float64]:
    """Build a 4x4 float64 transform from a unit quaternion (w, x, y, z) and a translation [m].

    Source: ``nuscenes.utils.geometry_utils.transform_matrix``, which this equals.

    Raises:
        ValueError: when a shape is wrong, a number is not finite, or the quaternion is zero.
    """
    rotation = np.asarray(rotation_wxyz, dtype=np.float64)
    translation = np.asarray(translation_m, dtype=np.float64)
    if rotation.shape != (4,) or translation.shape != (3,):
        raise ValueError(f"pose needs rotation (4,) and translation (3,), got {rotation.shape} and {translation.shape}")
    if not (np.isfinite(rotation).all() and np.isfinite(translation).all()):
        raise ValueError(f"pose has a number that is not finite: rotation {rotation}, translation {translation}")
    if np.linalg.norm(rotation) < 1e-6:
        raise ValueError(f"rotation {rotation} is not a quaternion (w, x, y, z) of unit length")
    transform = np.eye(4)
    transform[:3, :3] = Quaternion(rotation).rotation_matrix
    transform[:3, 3] = translation
    return transform


def inverse(src2dst: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert a 4x4 affine transform: ``src2dst`` -> ``dst2src`` (float64)."""
    return np.linalg.inv(np.asarray(src2dst, dtype=np.float64))


def chain(*transforms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compose transforms in float64: ``chain(a2b, b2c, c2d)`` is ``a2d`` (read from left to right)."""
    result = np.eye(4)
    for src2dst in transforms:
        result = np.asarray(src2dst, dtype=np.float64) @ result
    return result


def apply(src2dst: NDArray[np.float64], points_m: NDArray[np.floating]) -> NDArray[np.float64]:
    """Transform points ``(..., 3)`` [m]; returns float64 ``(..., 3)``."""
    points = np.asarray(points_m)
    # With one row per coordinate this is five times as fast as points @ rotation.T for the points of a sweep.
    rows = np.ascontiguousarray(points.reshape(-1, 3).T, dtype=np.float64)
    return (src2dst[:3, :3] @ rows + src2dst[:3, 3:]).T.reshape(points.shape)


def move_points(src2dst: NDArray[np.float64], points: NDArray[np.float32]) -> None:
    """Transform the first three columns [m] of a cloud ``(P, C)`` in place, in float32.

    It takes a third of the time of ``apply``. Float32 suffices for coordinates around a sensor (up to some 100 m), but
    not for those of a map.
    """
    rows = np.ascontiguousarray(points[:, :3].T)
    points[:, :3] = (src2dst[:3, :3].astype(np.float32) @ rows + src2dst[:3, 3:].astype(np.float32)).T


def yaw_of(src2dst: NDArray[np.float64]) -> float:
    """Heading [rad] of the source frame's +x axis in the destination's x-y plane, in [-pi, pi)."""
    return float(wrap_angle(np.arctan2(src2dst[1, 0], src2dst[0, 0])))


def wrap_angle(angle_rad: ArrayLike) -> NDArray[np.float64]:
    """Wrap angles [rad] into [-pi, pi)."""
    return (np.asarray(angle_rad, dtype=np.float64) + np.pi) % (2 * np.pi) - np.pi
