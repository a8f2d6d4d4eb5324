"""Tests of schema.py: guarantees of Boxes3D and PointLabels, empty inputs and refused inputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pdetr3d.schema import (
    CAMERAS,
    CLASSES,
    FALLBACK_SIZE_M,
    SOURCE_HUMAN,
    SOURCE_PSEUDO,
    Boxes3D,
    DataError,
    PointLabels,
)


def two_boxes() -> Boxes3D:
    return Boxes3D.build(
        center_m=np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        size_m=np.array([[4.0, 2.0, 1.5], [10.0, 3.0, 3.5]]),
        yaw_rad=np.array([0.5, np.pi]),
        label=np.array([0, 3]),
        velocity_m_s=np.array([[1.0, 0.0], [np.nan, np.nan]]),
    )


def test_the_fixed_orders() -> None:
    """Labels, heads, goldens and pseudo-label files depend on these orders."""
    assert CLASSES == (
        "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian",
        "traffic_cone",
    )  # fmt: skip
    assert CAMERAS[0] == "CAM_FRONT" and len(set(CAMERAS)) == 6


def test_classes_and_cameras_are_the_devkits() -> None:
    from nuscenes.eval.detection.constants import DETECTION_NAMES

    assert set(CLASSES) == set(DETECTION_NAMES)


def test_fallback_sizes_are_plausible() -> None:
    """One row per class; only the barrier is wider than long; a traffic cone is the smallest."""
    assert FALLBACK_SIZE_M.shape == (10, 3) and (FALLBACK_SIZE_M > 0.3).all()
    wider = {CLASSES[i] for i in np.flatnonzero(FALLBACK_SIZE_M[:, 1] > FALLBACK_SIZE_M[:, 0])}
    assert wider == {"barrier"}
    assert CLASSES[int(FALLBACK_SIZE_M.prod(axis=1).argmin())] == "traffic_cone"


def test_build_casts_and_fills() -> None:
    boxes = Boxes3D.build(np.array([[1, 2, 3]]), np.array([[4, 2, 1]]), np.array([7.0]), np.array([2]))
    assert len(boxes) == 1
    dtypes = {field.name: getattr(boxes, field.name).dtype for field in dataclasses.fields(boxes)}
    assert dtypes == {
        "center_m": np.float32,
        "size_m": np.float32,
        "yaw_rad": np.float32,
        "velocity_m_s": np.float32,
        "label": np.int64,
        "score": np.float32,
        "direction": np.float32,
        "source": np.int8,
    }
    assert boxes.yaw_rad[0] == pytest.approx(7.0 - 2 * np.pi)
    assert np.isnan(boxes.velocity_m_s).all() and boxes.velocity_m_s.shape == (1, 2)
    assert boxes.score.tolist() == boxes.direction.tolist() == [1.0] and boxes.source.tolist() == [SOURCE_HUMAN]
    assert Boxes3D.build(*[np.zeros((0, 3))] * 2, *[np.zeros(0)] * 2, source=SOURCE_PSEUDO).source.dtype == np.int8


def test_yaw_of_half_a_turn_is_minus_pi() -> None:
    """[-pi, pi): +pi wraps to -pi in float64, before the cast."""
    assert two_boxes().yaw_rad[1] == pytest.approx(-np.pi)


def test_selection_keeps_all_fields_in_step() -> None:
    boxes = two_boxes()
    by_mask, by_index = boxes[np.array([False, True])], boxes[np.array([1, 0, 1])]
    assert by_mask.label.tolist() == [3] and by_mask.center_m.tolist() == [[4, 5, 6]]
    assert by_index.label.tolist() == [3, 0, 3] and by_index.size_m[:, 0].tolist() == [10, 4, 10]
    assert boxes[:1].label.tolist() == [0] and len(boxes[np.zeros(2, bool)]) == 0
    by_mask.validate()
    by_index.validate()


def test_concatenate() -> None:
    joined = Boxes3D.concatenate([two_boxes(), Boxes3D.empty(), two_boxes()[:1]])
    assert joined.label.tolist() == [0, 3, 0]
    joined.validate()
    assert len(Boxes3D.concatenate([])) == 0


def test_empty_is_a_shape() -> None:
    boxes, clicks = Boxes3D.empty(), PointLabels.empty()
    boxes.validate()
    assert len(boxes) == 0 and boxes.center_m.shape == (0, 3) and boxes.velocity_m_s.shape == (0, 2)
    assert len(clicks) == 0 and clicks.xyz_m.shape == (0, 3) and clicks.xyz_m.dtype == np.float64
    assert len(clicks[np.zeros(0, bool)]) == 0


def test_clicks_select_in_step() -> None:
    clicks = PointLabels(
        np.array(["a", "b"], object), np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([0, 1]), np.array([-1, 5])
    )
    picked = clicks[np.array([1])]
    assert (
        picked.click_id.tolist() == ["b"] and picked.xyz_m.tolist() == [[4, 5, 6]] and picked.box_index.tolist() == [5]
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("center_m", np.array([[0, 0, np.nan], [0, 0, 0]]), "center_m.*not finite"),
        ("size_m", np.array([[1, 1, 0.0], [1, 1, 1]]), "side of 0.0 m"),
        ("size_m", np.array([[1, -1, 1.0], [1, 1, 1]]), "side of -1.0 m"),
        ("yaw_rad", np.array([np.inf, 0]), "not finite"),
        ("score", np.array([np.nan, 1]), "score.*not finite"),
        ("label", np.array([-1, 0]), "label must be a place in the list of classes, got -1"),
        ("velocity_m_s", np.zeros((2, 3)), r"velocity_m_s has shape \(2, 3\), must be \(2, 2\)"),
        ("source", np.zeros(3, np.int8), r"source has shape \(3,\)"),
    ],
)
def test_validate_names_what_is_wrong(field: str, value: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(two_boxes(), **{field: value}).validate()


def test_build_validates() -> None:
    with pytest.raises(ValueError, match="side of 0"):
        Boxes3D.build(np.zeros((1, 3)), np.zeros((1, 3)), np.zeros(1), np.zeros(1))


def test_contracts_are_frozen_and_data_errors_are_value_errors() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        two_boxes().label = np.zeros(2)  # type: ignore[misc]
    assert issubclass(DataError, ValueError)
