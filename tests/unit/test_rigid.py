"""Tests of geometry/rigid.py: the devkit, transforms derived by hand, and the LIDAR_TOP axes of a real row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nuscenes.utils.geometry_utils import transform_matrix
from pyquaternion import Quaternion

from pdetr3d.geometry.rigid import apply, chain, inverse, move_points, rigid, wrap_angle, yaw_of

QUARTER_TURN = [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)]  # 90 degrees about +z, as (w, x, y, z)
numbers = st.floats(-1e3, 1e3)


@given(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1), st.tuples(*[numbers] * 3))
def test_rigid_equals_the_devkit(rotation: tuple[float, ...], translation: tuple[float, ...]) -> None:
    expected = transform_matrix(np.array(translation), Quaternion(rotation))
    np.testing.assert_allclose(rigid(rotation, translation), expected, atol=1e-12)
    np.testing.assert_allclose(
        inverse(rigid(rotation, translation)),
        transform_matrix(np.array(translation), Quaternion(rotation), inverse=True),
        atol=1e-9,
    )


def test_apply_rotates_then_translates() -> None:
    """(1, 2, 3) turned by 90 degrees about z is (-2, 1, 3); then + (10, 20, 30)."""
    lidar2ego = rigid(QUARTER_TURN, [10.0, 20.0, 30.0])
    moved = apply(lidar2ego, np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(moved, [[8.0, 21.0, 33.0], [10.0, 20.0, 30.0]], atol=1e-12)
    assert moved.dtype == np.float64


def test_apply_keeps_float64_where_float32_would_lose_centimeters() -> None:
    """Global coordinates are kilometers: a float32 composition is off by about 0.1 mm per meter at 2 km."""
    ego2global = rigid([1, 0, 0, 0], [2000.123456789, 1000.987654321, 0.0])
    moved = apply(ego2global, np.array([0.001, 0.0, 0.0], dtype=np.float32))
    assert moved[0] == pytest.approx(2000.124456789, abs=1e-9)


def test_apply_takes_no_points_and_any_leading_shape() -> None:
    assert apply(np.eye(4), np.zeros((0, 3))).shape == (0, 3)
    assert apply(np.eye(4), np.zeros((2, 7, 3))).shape == (2, 7, 3)


def test_move_points_equals_apply_and_leaves_the_other_columns() -> None:
    src2dst = rigid([0.9, 0.1, -0.2, 0.3], [3.0, -40.0, 1.5]) @ np.diag([1.05, -1.05, 1.05, 1.0])
    cloud = np.random.default_rng(0).uniform(-100, 100, (1000, 5)).astype(np.float32)
    moved = cloud.copy()
    move_points(src2dst, moved)
    np.testing.assert_allclose(moved[:, :3], apply(src2dst, cloud[:, :3].astype(np.float64)), atol=5e-5)
    np.testing.assert_array_equal(moved[:, 3:], cloud[:, 3:])
    move_points(src2dst, np.empty((0, 5), np.float32))


def test_chain_reads_left_to_right() -> None:
    """Turn, then shift: the point (1, 0, 0) goes to (0, 1, 0), then to (5, 1, 0). The other order gives (0, 6, 0)."""
    turn, shift = rigid(QUARTER_TURN, [0, 0, 0]), rigid([1, 0, 0, 0], [5, 0, 0])
    point = np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(apply(chain(turn, shift), point), [5, 1, 0], atol=1e-12)
    np.testing.assert_allclose(apply(chain(shift, turn), point), [0, 6, 0], atol=1e-12)
    np.testing.assert_array_equal(chain(), np.eye(4))


def test_inverse_undoes_also_scale_and_mirror() -> None:
    """Augmentation is affine, not rigid: the inverse must not assume an orthonormal rotation."""
    lidar2augmented = np.diag([-1.1, 1.1, 1.1, 1.0])
    lidar2augmented[:3, 3] = [1.0, 2.0, 3.0]
    point = np.array([0.3, -4.0, 7.0])
    np.testing.assert_allclose(apply(inverse(lidar2augmented), apply(lidar2augmented, point)), point, atol=1e-12)


def test_yaw_of_is_the_heading_of_the_x_axis() -> None:
    assert yaw_of(rigid(QUARTER_TURN, [1, 2, 3])) == pytest.approx(np.pi / 2)
    assert yaw_of(rigid([0, 0, 0, 1], [0, 0, 0])) == pytest.approx(-np.pi)  # half a turn: -pi, never +pi


@pytest.mark.parametrize(
    ("angle", "expected"),
    [(0.0, 0.0), (np.pi, -np.pi), (-np.pi, -np.pi), (3 * np.pi / 2, -np.pi / 2), (-7.0, 2 * np.pi - 7.0)],
)
def test_wrap_angle_by_hand(angle: float, expected: float) -> None:
    assert wrap_angle(angle) == pytest.approx(expected)


@given(st.lists(st.floats(-1e4, 1e4), max_size=5))
def test_wrap_angle_stays_in_range_and_keeps_the_direction(angles: list[float]) -> None:
    wrapped = wrap_angle(angles)
    assert wrapped.shape == (len(angles),)
    assert ((wrapped >= -np.pi) & (wrapped < np.pi)).all()
    np.testing.assert_allclose(np.cos(wrapped), np.cos(angles), atol=1e-8)
    np.testing.assert_allclose(np.sin(wrapped), np.sin(angles), atol=1e-8)


@pytest.mark.parametrize(
    ("rotation", "translation", "message"),
    [
        ([1, 0, 0, np.nan], [0, 0, 0], "not finite"),
        ([1, 0, 0, 0], [0, np.inf, 0], "not finite"),
        ([0, 0, 0, 0], [0, 0, 0], "quaternion"),
        ([1, 0, 0], [0, 0, 0], r"\(4,\)"),
        ([1, 0, 0, 0], [0, 0], r"\(3,\)"),
    ],
)
def test_bad_poses_are_refused(rotation: list[float], translation: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rigid(rotation, translation)


def test_lidar_axes_of_a_real_calibrated_sensor(real_data: Path) -> None:
    """LIDAR_TOP: x right, y forward, z up; ego: x forward, y left, z up. So +x is ego -y, +y is ego +x."""
    tables = real_data / "v1.0-mini"
    sensors = json.loads((tables / "sensor.json").read_text())
    lidar = next(sensor["token"] for sensor in sensors if sensor["channel"] == "LIDAR_TOP")
    rows = json.loads((tables / "calibrated_sensor.json").read_text())
    row = next(row for row in rows if row["sensor_token"] == lidar)
    lidar2ego = rigid(row["rotation"], row["translation"])
    # Mounted a little askew: 0.03 is 1.7 degrees.
    np.testing.assert_allclose(lidar2ego[:3, :3] @ [1, 0, 0], [0, -1, 0], atol=0.03)
    np.testing.assert_allclose(lidar2ego[:3, :3] @ [0, 1, 0], [1, 0, 0], atol=0.03)
    np.testing.assert_allclose(lidar2ego[:3, :3] @ [0, 0, 1], [0, 0, 1], atol=0.03)
    np.testing.assert_allclose(lidar2ego[:3, 3], row["translation"])
