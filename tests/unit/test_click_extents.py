"""Tests of sizes from the LiDAR points around clicks: a car seen from behind, from the side, beside a neighbor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import DataConfig
from pdetr3d.data.loading.click_extents import MIN_CLICKS, MIN_POINTS, extents
from pdetr3d.data.loading.records import prior_size_m
from pdetr3d.schema import CLASSES, FALLBACK_SIZE_M, Boxes3D, PointLabels, SampleRecord

GROUND = -1.84
CAR, BARRIER = CLASSES.index("car"), CLASSES.index("barrier")
SHARE = FALLBACK_SIZE_M[CAR, 1] / FALLBACK_SIZE_M[CAR, 0]


def ground() -> np.ndarray:
    """A meshwork of points on the ground."""
    x, y = np.meshgrid(np.arange(-20, 20, 0.5), np.arange(-20, 20, 0.5))
    return np.column_stack([x.ravel(), y.ravel(), np.full(x.size, GROUND)])


def wall(start: tuple[float, float], end: tuple[float, float], height: float) -> np.ndarray:
    """Points on an upright face between two places, about every 10 cm."""
    along = np.linspace(start, end, 2 + int(10 * np.hypot(end[0] - start[0], end[1] - start[1])))
    levels = np.arange(0.0, height + 1e-9, 0.1)
    return np.column_stack([np.repeat(along, len(levels), 0), GROUND + np.tile(levels, len(along))])


def measured(points: list[np.ndarray], click: tuple[float, float, float], label: int, *others: tuple) -> np.ndarray:
    found = extents(
        np.concatenate([ground(), *points]), np.array(click), FALLBACK_SIZE_M[label], np.array([click, *others])
    )
    assert found is not None
    return found


def test_a_length_that_is_not_seen_is_twice_the_way_to_the_face_that_is() -> None:
    """A car of 4 x 2 x 1.5 m is seen from behind, so its rear is 2 m before the click at its center."""
    middle = (10.0, 0.0, GROUND + 0.75)
    size = measured([wall((8.0, -0.9), (8.0, 0.9), 1.5)], middle, CAR)
    np.testing.assert_allclose(size, [4.0, 4.0 * SHARE, 1.5], atol=0.05)


def test_a_length_seen_from_the_side_is_as_long_as_it_looks() -> None:
    """The measured length does not depend on the click, which here lies 0.4 m too far to the left."""
    size = measured([wall((-2.2, 8.0), (2.2, 8.0), 1.5)], (-0.4, 9.0, GROUND + 0.75), CAR)
    np.testing.assert_allclose(size[:2], [4.4, 4.4 * SHARE], atol=0.1)


def test_a_barrier_is_wider_than_long_and_ends_midway_to_its_neighbors() -> None:
    row = wall((8.0, -7.5), (8.0, 7.5), 1.0)  # five of 3 m without a gap
    clicks = [(8.2, y, GROUND + 0.5) for y in (0.0, -6.0, -3.0, 3.0, 6.0)]
    size = measured([row], clicks[0], BARRIER, *clicks[1:])
    np.testing.assert_allclose(size[1:], [3.0, 1.0], atol=0.12)
    assert size[0] == pytest.approx(3.0 * FALLBACK_SIZE_M[BARRIER, 0] / FALLBACK_SIZE_M[BARRIER, 1], abs=0.05)


def test_too_few_points_say_nothing() -> None:
    few = wall((8.0, -0.9), (8.0, 0.9), 1.5)[: MIN_POINTS - 1]
    click = np.array([10.0, 0.0, GROUND + 0.75])
    assert extents(np.concatenate([ground(), few]), click, FALLBACK_SIZE_M[CAR], click[None]) is None


@pytest.mark.parametrize("count", [MIN_CLICKS - 1, MIN_CLICKS])
def test_classes_without_boxes_take_their_size_from_clicks(tmp_path: Path, count: int) -> None:
    """With points and enough clicks sizes are measured; otherwise the documented size is used, with a message."""
    records = []
    for i in range(count):
        cloud = np.concatenate([ground(), wall((8.0, -0.9), (8.0, 0.9), 1.5)])
        path = tmp_path / f"{i}.pcd.bin"
        np.column_stack([cloud, np.zeros((len(cloud), 2))]).astype(np.float32).tofile(path)
        xyz = np.array([[10.0, 0.0, GROUND + 0.75]])
        clicks = PointLabels(np.array([f"c{i}"], object), xyz, np.array([CAR]), np.array([-1]))
        records.append(
            SampleRecord(
                f"s{i}", "scene", 0, "point", str(path), (), (None,) * 6, np.eye(4), np.eye(4), Boxes3D.empty(), clicks
            )
        )
    prior, fallback = prior_size_m(records, DataConfig(), classes=NUSCENES_CLASSES)
    enough = count == MIN_CLICKS
    expected = [4.0, 4.0 * SHARE, 1.5] if enough else FALLBACK_SIZE_M[CAR]
    np.testing.assert_allclose(prior[CAR], expected, atol=0.05)
    assert fallback == list(CLASSES[1:] if enough else CLASSES)
    np.testing.assert_array_equal(prior[1:], FALLBACK_SIZE_M[1:])
    assert prior_size_m(records, classes=NUSCENES_CLASSES)[1] == list(CLASSES)
