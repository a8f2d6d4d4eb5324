"""Box geometry against hand-made cases, shapely-free arithmetic and the devkit's Box."""

from __future__ import annotations

import numpy as np
import pytest
from nuscenes.eval.common.utils import quaternion_yaw
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion

from pdetr3d.geometry import boxes
from pdetr3d.geometry.rigid import inverse, rigid

# A bus 12 m long, 3 m wide, crossing in front: it heads along +x, 10 m ahead (y) of the LiDAR.
BUS = {"center_m": np.array([[0.0, 10.0, 0.0]]), "size_m": np.array([[12.0, 3.0, 3.5]]), "yaw_rad": np.array([0.0])}


def test_crossing_bus_is_long_along_its_heading() -> None:
    shape = boxes.corners(**BUS)[0]
    assert np.ptp(shape[:, 0]) == pytest.approx(12) and np.ptp(shape[:, 1]) == pytest.approx(3)
    # UNIT_CORNERS: the first two of the bottom are the front, left before right (left of +x is +y).
    np.testing.assert_allclose(shape[0], [6, 11.5, -1.75])
    np.testing.assert_allclose(shape[1], [6, 8.5, -1.75])
    inside = boxes.points_in_boxes(np.array([[5.9, 10, 0], [0, 11.6, 0], [0, 10, 1.76], [6, 11.5, 1.75]]), **BUS)
    assert inside.tolist() == [[True, False, False, True]]


def test_ahead_driving_car_has_yaw_half_pi() -> None:
    shape = boxes.corners(np.zeros((1, 3)), np.array([[4.0, 2.0, 1.5]]), np.array([np.pi / 2]))[0]
    np.testing.assert_allclose(shape[:2, :2], [[-1, 2], [1, 2]], atol=1e-12)  # front edge at +y, its left end at -x


def test_points_in_boxes_counts_like_the_devkit() -> None:
    from nuscenes.utils.geometry_utils import points_in_box

    rng = np.random.default_rng(0)
    center, size, yaw = rng.uniform(-5, 5, (6, 3)), rng.uniform(1, 6, (6, 3)), rng.uniform(-np.pi, np.pi, 6)
    points = rng.uniform(-8, 8, (500, 3))
    ours = boxes.points_in_boxes(points, center, size, yaw)
    for i in range(6):
        box = Box(center[i], size[i][[1, 0, 2]], Quaternion(axis=(0, 0, 1), radians=yaw[i]))
        np.testing.assert_array_equal(ours[i], points_in_box(box, points.T))
    assert ours.any() and not ours.all()


def test_from_nuscenes_equals_the_devkits_box_chain() -> None:
    rng = np.random.default_rng(1)
    sensor = rigid(Quaternion(axis=(0.02, -0.03, 1), degrees=131).elements, [3, -4, 1.8])
    translation, size = rng.uniform(-60, 60, (5, 3)), rng.uniform(0.4, 12, (5, 3))
    rotation = np.array([Quaternion(axis=(0, 0, 1), radians=r).elements for r in rng.uniform(-4, 4, 5)])
    center, lwh, yaw = boxes.from_nuscenes(translation, size, rotation, inverse(sensor))
    for i in range(5):
        box = Box(translation[i], size[i], Quaternion(rotation[i]))
        box.translate(-sensor[:3, 3])
        box.rotate(Quaternion(matrix=sensor[:3, :3]).inverse)
        np.testing.assert_allclose(center[i], box.center, atol=1e-9)
        np.testing.assert_allclose(lwh[i], box.wlh[[1, 0, 2]])
        assert yaw[i] == pytest.approx(quaternion_yaw(box.orientation), abs=1e-9)


def test_round_trip_with_nuscenes() -> None:
    rng = np.random.default_rng(2)
    lidar2global = rigid(Quaternion(axis=(0, 0, 1), degrees=77).elements, [400, 1200, 1.8])
    center, size = rng.uniform(-50, 50, (8, 3)), rng.uniform(0.5, 10, (8, 3))
    yaw = np.append(rng.uniform(-np.pi, np.pi, 7), -np.pi)
    there = boxes.to_nuscenes(center, size, yaw, lidar2global)
    np.testing.assert_array_equal(there[1], size[:, [1, 0, 2]])
    np.testing.assert_allclose(np.linalg.norm(there[2], axis=1), 1)
    back = boxes.from_nuscenes(*there, inverse(lidar2global))
    np.testing.assert_allclose(back[0], center, atol=1e-9)
    np.testing.assert_allclose(back[1], size)
    np.testing.assert_allclose(np.exp(1j * back[2]), np.exp(1j * yaw), atol=1e-9)
    assert (back[2] >= -np.pi).all() and (back[2] < np.pi).all()


def test_bev_iou_by_hand() -> None:
    square = [0, 0, 0, 2, 2, 1, 0]
    shifted = [1, 0, 5, 2, 2, 1, np.pi / 2]  # overlap 1 x 2 of 4 + 4 - 2; height does not count
    turned = [0, 0, 0, 2, 2, 1, np.pi / 4]  # a regular octagon of side 2 (sqrt 2 - 1) remains
    octagon = 8 * (np.sqrt(2) - 1)
    far = [9, 0, 0, 2, 2, 1, 0]
    iou = boxes.bev_iou_aligned([square, square, square, square, shifted], [square, shifted, turned, far, square])
    np.testing.assert_allclose(iou, [1, 1 / 3, octagon / (8 - octagon), 0, 1 / 3], atol=1e-12)


def test_points_in_each_box_are_those_in_boxes() -> None:
    rng = np.random.default_rng(3)
    center, size, yaw = rng.uniform(-5, 5, (9, 3)), rng.uniform(1, 6, (9, 3)), rng.uniform(-np.pi, np.pi, 9)
    points = rng.uniform(-8, 8, (900, 5)).astype(np.float32)
    got = boxes.points_in_each_box(points, center, size, yaw)
    expected = [np.flatnonzero(row) for row in boxes.points_in_boxes(points, center, size, yaw)]
    assert [index.tolist() for index in got] == [index.tolist() for index in expected]
    corner = boxes.corners(center[:1], size[:1], yaw[:1])[0] * 0.9999 + center[0] * 0.0001
    assert len(boxes.points_in_each_box(corner, center[:1], size[:1], yaw[:1])[0]) == 8
    assert boxes.points_in_each_box(points, center[:0], size[:0], yaw[:0]) == []


def test_bev_overlaps_by_hand() -> None:
    """A square of side 2 at the origin, and one turned by 45 degrees: its corners lie sqrt(2) from its center."""
    square = [0, 0, 0, 2, 2, 1, 0]
    turned = [[x, 0, 0, 2, 2, 1, np.pi / 4] for x in (2.4, 2.42)]  # 1 + sqrt(2) = 2.414
    diagonal = [2.0, 2.0, 0, 2, 2, 1, np.pi / 4]  # its nearest side is 2.83 - 1 from the origin, the corner sqrt(2)
    above = [0.5, 0.5, 9, 2, 2, 1, 0]
    got = boxes.bev_overlaps([square, above], [square, *turned, diagonal, above])
    assert got.tolist() == [[True, True, False, False, True], [True, True, True, True, True]]
    assert boxes.bev_overlaps(np.zeros((0, 7)), [square]).shape == (0, 1)
    assert boxes.bev_overlaps([square], np.zeros((0, 7))).shape == (1, 0)


def test_empty() -> None:
    none = np.zeros((0, 7))
    assert boxes.corners(none[:, :3], none[:, 3:6], none[:, 6]).shape == (0, 8, 3)
    assert boxes.points_in_boxes(np.zeros((4, 3)), none[:, :3], none[:, 3:6], none[:, 6]).shape == (0, 4)
    assert boxes.points_in_boxes(np.zeros((0, 3)), **BUS).shape == (1, 0)
    assert boxes.bev_iou_aligned(none, none).shape == (0,)
    assert [x.shape for x in boxes.from_nuscenes(none[:, :3], none[:, 3:6], none[:, :4], np.eye(4))] == [
        (0, 3),
        (0, 3),
        (0,),
    ]
    assert [x.shape for x in boxes.to_nuscenes(none[:, :3], none[:, 3:6], none[:, 6], np.eye(4))] == [
        (0, 3),
        (0, 3),
        (0, 4),
    ]


def test_an_overlap_with_a_box_that_is_not_finite_is_nan() -> None:
    """A model that predicts NaN is found by its loss; the geometry library must not raise an error before that."""
    box = np.array([0.0, 0.0, 0.0, 2.0, 2.0, 1.0, 0.0])
    broken = box.copy()
    broken[3] = np.inf
    iou = boxes.bev_iou_aligned([box, broken, box], [box, box, box * np.nan])
    assert iou[0] == 1.0 and np.isnan(iou[1:]).all()
