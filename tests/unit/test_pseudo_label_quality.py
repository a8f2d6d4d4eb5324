"""Tests of pseudo-label quality, against polygon clipping, the devkit and values by hand, and of its table."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from nuscenes.eval.common.utils import scale_iou, yaw_diff
from nuscenes.eval.detection.data_classes import DetectionBox

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.data.labels.pseudo_table import read_pseudo_labels, write_pseudo_labels
from pdetr3d.evaluation.pseudo_label_quality import (
    bev_iou,
    heading_errors,
    iou_3d,
    pseudo_label_quality,
    score_calibration,
    size_error,
    turned_by_direction,
    yaw_error_rad,
)
from pdetr3d.pseudo_labels import COLUMNS, class_mean_boxes, class_mean_pca_boxes, contains_click, to_pseudo_labels
from pdetr3d.schema import CLASSES, FALLBACK_SIZE_M, SOURCE_PSEUDO, Boxes3D, PointLabels, SampleRecord
from tests.reference.bev_overlap import intersection_area, rectangle


def random_boxes(n: int, seed: int, near: Boxes3D | None = None) -> Boxes3D:
    rng = np.random.default_rng(seed)
    center = rng.uniform(-50, 50, (n, 3)) if near is None else near.center_m + rng.normal(0, 1, (n, 3))
    label = rng.integers(0, 10, n) if near is None else near.label
    return Boxes3D.build(center, rng.uniform(0.4, 8, (n, 3)), rng.uniform(-np.pi, np.pi, n), label)


def one(center=(0, 0, 0), size=(4, 2, 1), yaw=0.0, label=0) -> Boxes3D:
    return Boxes3D.build(np.array([center]), np.array([size]), np.array([yaw]), np.array([label]))


def test_iou_by_hand():
    base = one()
    assert bev_iou(base, base)[0] == pytest.approx(1)
    assert bev_iou(base, one(yaw=np.pi))[0] == pytest.approx(1)
    assert bev_iou(base, one(yaw=np.pi / 2))[0] == pytest.approx(4 / 12)  # a 2 x 2 cross of two 8 m^2 boxes
    assert bev_iou(base, one(center=(2, 0, 0)))[0] == pytest.approx(4 / 12)
    assert bev_iou(base, one(center=(0, 1, 5)))[0] == pytest.approx(4 / 12)  # height does not count
    assert bev_iou(base, one(center=(9, 0, 0)))[0] == 0
    assert iou_3d(base, one(center=(0, 1, 0.5)))[0] == pytest.approx(2 / 14)  # half across, half in height
    assert iou_3d(base, one(center=(0, 0, 5)))[0] == 0
    # Unit square against itself turned by 45 degrees: a regular octagon of area 2 sqrt(2) - 2.
    octagon = 2 * np.sqrt(2) - 2
    assert bev_iou(one(size=(1, 1, 1)), one(size=(1, 1, 1), yaw=np.pi / 4))[0] == pytest.approx(octagon / (2 - octagon))


def test_bev_iou_equals_polygon_clipping():
    a = random_boxes(200, 0)
    b = random_boxes(200, 1, near=a)
    expected = []
    for i in range(len(a)):
        ra, rb = (rectangle(*map(float, (*x.center_m[i, :2], *x.size_m[i, :2], x.yaw_rad[i]))) for x in (a, b))
        inter = intersection_area(ra, rb)
        area = float(a.size_m[i, 0]) * float(a.size_m[i, 1]) + float(b.size_m[i, 0]) * float(b.size_m[i, 1])
        expected.append(inter / (area - inter))
    assert 0.2 < np.mean(np.array(expected) > 0.1)
    np.testing.assert_allclose(bev_iou(a, b), expected, atol=1e-9)
    np.testing.assert_allclose(bev_iou(a, b), bev_iou(b, a), atol=1e-12)


def test_size_and_yaw_error_equal_the_devkit():
    truth = random_boxes(100, 2)
    pred = random_boxes(100, 3, near=truth)

    def devkit(boxes: Boxes3D, i: int) -> DetectionBox:
        length, width, height = map(float, boxes.size_m[i])
        half = float(boxes.yaw_rad[i]) / 2
        return DetectionBox(size=(width, length, height), rotation=(np.cos(half), 0, 0, np.sin(half)))

    sizes, yaws = size_error(pred, truth), yaw_error_rad(pred, truth, classes=NUSCENES_CLASSES)
    for i in range(100):
        assert sizes[i] == pytest.approx(1 - scale_iou(devkit(truth, i), devkit(pred, i)))
        name = CLASSES[truth.label[i]]
        if name == "traffic_cone":
            assert np.isnan(yaws[i])
        else:
            period = np.pi if name == "barrier" else 2 * np.pi
            assert yaws[i] == pytest.approx(yaw_diff(devkit(truth, i), devkit(pred, i), period), abs=1e-6)
    assert {"barrier", "traffic_cone", "car"} <= {CLASSES[k] for k in truth.label}


def test_quality_groups_by_true_class_and_distance():
    truth = Boxes3D.concatenate([one(), one(label=0), one(label=9, size=(1, 1, 1)), one(label=5)])
    pred = Boxes3D.concatenate(
        [one(), one(center=(2, 0, 0)), one(center=(0, 3, 0), size=(1, 1, 1), yaw=1, label=0), one(yaw=np.pi)]
    )
    report = pseudo_label_quality(pred, truth, np.array([0.0, 9.99, 10.0, 60.0]), classes=NUSCENES_CLASSES)
    assert report["n"] == 4
    assert report["bev_iou"] == pytest.approx((1 + 1 / 3 + 0 + 1) / 4)
    assert report["center_error_m"] == pytest.approx((0 + 2 + 3 + 0) / 4)
    assert report["yaw_error_rad"] == pytest.approx(
        0, abs=1e-6
    )  # the cone's does not count, the barrier's period is pi
    assert report["per_class"]["car"]["n"] == 2 and report["per_class"]["car"]["bev_iou"] == pytest.approx(2 / 3)
    assert report["per_class"]["traffic_cone"]["yaw_error_rad"] is None
    assert report["per_class"]["bus"] == dict.fromkeys(report["per_class"]["bus"], None) | {"n": 0}
    assert [report["by_distance"][b]["n"] for b in ("0-10", "10-20", "20-30", "30-40", "40-52")] == [2, 1, 0, 0, 0]
    assert report["by_distance"]["0-10"]["bev_iou"] == pytest.approx(2 / 3)
    json.dumps(report, allow_nan=False)


def test_a_heading_error_is_that_of_the_axis_and_whether_it_is_reversed():
    """One car is off by 0.3 rad, one is reversed, too; a barrier is reversed (its period is pi); a cone has no yaw."""
    truth = Boxes3D.concatenate([one(label=0), one(label=0), one(label=5), one(label=9)])
    pred = Boxes3D.concatenate([one(yaw=0.3), one(yaw=np.pi - 0.3), one(yaw=np.pi + 0.2), one(yaw=1.0)])
    errors = heading_errors(pred, truth, classes=NUSCENES_CLASSES)
    np.testing.assert_allclose(errors["yaw_error_rad"], [0.3, np.pi - 0.3, 0.2, np.nan], atol=1e-6)
    np.testing.assert_allclose(errors["axis_error_rad"], [0.3, 0.3, 0.2, np.nan], atol=1e-6)
    np.testing.assert_array_equal(errors["reversed"], [0, 1, np.nan, np.nan])
    report = pseudo_label_quality(pred, truth, np.zeros(4), classes=NUSCENES_CLASSES)
    assert report["reversed"] == 0.5 and report["by_group"]["vehicles"]["n"] == 2
    assert list(report["by_group"]) == ["vehicles", "barriers", "cycles", "people", "cones"]
    assert report["by_group"]["barriers"]["axis_error_rad"] == pytest.approx(0.2)
    assert report["by_group"]["cones"]["n"] == 1 and report["by_group"]["cycles"]["bev_iou"] is None


def test_oracles_say_what_each_error_costs():
    """Of two 4 x 2 m boxes one is off by a quarter turn (IoU 4 of 12), one by 1 m along its length (IoU 3 of 5)."""
    truth = Boxes3D.concatenate([one(size=(4, 2, 1)), one(size=(4, 2, 1))])
    pred = Boxes3D.concatenate([one(size=(4, 2, 1), yaw=np.pi / 2), one(center=(1, 0, 0), size=(4, 2, 1))])
    found = pseudo_label_quality(pred, truth, np.zeros(2), classes=NUSCENES_CLASSES)["oracles"]
    turned, ahead = 4 / 12, 3 / 5
    expected = {
        "true_yaw": (1 + ahead) / 2,
        "true_center": (turned + 1) / 2,
        "true_size": (turned + ahead) / 2,
        "true_center_and_size": (turned + 1) / 2,
        "true_size_and_yaw": (1 + ahead) / 2,
    }
    assert found == pytest.approx(expected, abs=1e-6)


def test_quality_of_nothing_is_none():
    report = pseudo_label_quality(Boxes3D.empty(), Boxes3D.empty(), np.zeros(0), classes=NUSCENES_CLASSES)
    assert report["n"] == 0 and report["bev_iou"] is None and report["by_distance"]["40-52"]["iou_3d"] is None
    assert bev_iou(Boxes3D.empty(), Boxes3D.empty()).shape == (0,)
    with pytest.raises(ValueError, match="parallel"):
        pseudo_label_quality(one(), Boxes3D.empty(), np.zeros(1), classes=NUSCENES_CLASSES)


def clicks(xyz: list, label: list) -> PointLabels:
    ids = np.array([f"click{i}" for i in range(len(label))], dtype=object)
    return PointLabels(
        ids, np.array(xyz, np.float64).reshape(-1, 3), np.array(label, np.int64), np.full(len(label), -1)
    )


def record(points: PointLabels) -> SampleRecord:
    return SampleRecord("sample", "scene", 0, "point", "", (), (), np.eye(4), np.eye(4), Boxes3D.empty(), points)


def test_class_mean_boxes_sit_on_their_clicks():
    points = clicks([[1, 2, 3], [4, 5, 6]], [8, 0])
    boxes = class_mean_boxes(points, FALLBACK_SIZE_M)
    np.testing.assert_array_equal(boxes.center_m, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(boxes.size_m, FALLBACK_SIZE_M[[8, 0]])
    assert (
        boxes.yaw_rad.tolist() == pytest.approx([np.pi / 2] * 2)
        and boxes.label.tolist() == [8, 0]
        and (boxes.source == SOURCE_PSEUDO).all()
    )
    assert class_mean_boxes(points, FALLBACK_SIZE_M, np.array([1.0, 2.0])).yaw_rad.tolist() == [1, 2]
    assert len(class_mean_boxes(PointLabels.empty(), FALLBACK_SIZE_M)) == 0


def test_contains_click_turns_with_the_box():
    box = one(center=(10, 0, 0), size=(4, 2, 2), yaw=np.pi / 2)  # long along y
    inside = [(10, 1.9, 0), (10.9, 0, 0), (10, 0, -0.9), (10, 2.05, 0)]
    outside = [(10, 2.2, 0), (11.9, 0, 0), (10, 0, 1.2)]
    assert [contains_click(box, np.array([p]))[0] for p in inside] == [True] * 4
    assert [contains_click(box, np.array([p]))[0] for p in outside] == [False] * 3


def test_turned_headings_by_rank_of_their_direction():
    """Of five boxes the fourth has no direction; the two surest are right, the others are turned."""
    found = turned_by_direction(np.array([0.9, 0.6, 0.7, 0.99, 0.8]), np.array([0, 1, 1, np.nan, 0.0]), parts=2)
    assert found == [
        {"n": 2, "direction": pytest.approx(0.65), "turned": 1.0},
        {"n": 2, "direction": pytest.approx(0.85), "turned": 0.0},
    ]
    assert turned_by_direction(np.zeros(0), np.zeros(0)) == []


def test_pseudo_label_rows(tmp_path):
    points = clicks([[10, 0, 0], [10, 0, 0], [0, 0, 0], [5, 5, 0], [51, 0, 0]], [0, 0, 8, 8, 0])
    prior = FALLBACK_SIZE_M
    boxes = Boxes3D.build(
        [[10.5, 0, 0], [10, 3, 0], [0, 0, 0], [5, 5, 0], [52, 0, 0]],
        [prior[0], prior[0], prior[8] * [1, 1, 3.1], prior[8] * [0.34, 1, 1], prior[0]],
        np.array([0.1, 0.2, 0.3, 0.4, 0.5]),
        np.array([3, 3, 3, 3, 3]),  # the teacher's class does not count
        score=np.array([0.9, 0.8, 0.7, 0.6, 0.5]),
        direction=np.array([0.5, 0.6, 0.7, 0.8, 1]),
    )
    table = to_pseudo_labels(record(points), boxes, prior, "digest", classes=NUSCENES_CLASSES)
    assert list(table.columns) == list(COLUMNS)
    assert table["click_id"].tolist() == [f"click{i}" for i in range(5)]
    assert table["class"].tolist() == ["car", "car", "pedestrian", "pedestrian", "car"]
    assert table["reason"].tolist() == ["", "click outside box", "implausible size", "", "outside range"]
    assert table["accepted"].tolist() == [True, False, False, True, False]
    assert set(table["teacher_digest"]) == {"digest"} and set(table["sample_token"]) == {"sample"}
    written = read_pseudo_labels(
        write_pseudo_labels(tmp_path / "pseudo_labels.parquet", table, classes=NUSCENES_CLASSES),
        classes=NUSCENES_CLASSES,
    ).to_pandas()
    assert written["vx"].isna().all() and written["vy"].isna().all()
    np.testing.assert_array_equal(written[["x", "y", "z"]].to_numpy(np.float32), boxes.center_m)
    np.testing.assert_array_equal(written[["l", "w", "h"]].to_numpy(np.float32), boxes.size_m)
    np.testing.assert_array_equal(written["yaw"].to_numpy(np.float32), boxes.yaw_rad)
    np.testing.assert_array_equal(written["score"].to_numpy(np.float32), boxes.score)
    np.testing.assert_array_equal(written["direction"].to_numpy(np.float32), boxes.direction)


def test_no_clicks_give_an_empty_table_of_the_same_types(tmp_path):
    table = to_pseudo_labels(
        record(PointLabels.empty()), Boxes3D.empty(), FALLBACK_SIZE_M, "digest", classes=NUSCENES_CLASSES
    )
    full = to_pseudo_labels(
        record(clicks([[0, 0, 0]], [0])), one(), FALLBACK_SIZE_M, "digest", classes=NUSCENES_CLASSES
    )
    assert len(table) == 0 and table.dtypes.to_dict() == full.dtypes.to_dict()
    both = pd.concat([table, full], ignore_index=True)
    assert (
        len(
            read_pseudo_labels(
                write_pseudo_labels(tmp_path / "both.parquet", both, classes=NUSCENES_CLASSES), classes=NUSCENES_CLASSES
            )
        )
        == 1
    )
    assert (
        len(
            read_pseudo_labels(
                write_pseudo_labels(tmp_path / "none.parquet", table, classes=NUSCENES_CLASSES),
                classes=NUSCENES_CLASSES,
            )
        )
        == 0
    )


def test_pseudo_label_errors():
    with pytest.raises(ValueError, match="2 clicks"):
        to_pseudo_labels(
            record(clicks([[0, 0, 0], [1, 1, 1]], [0, 0])), one(), FALLBACK_SIZE_M, "digest", classes=NUSCENES_CLASSES
        )


def test_calibration_by_hand():
    score = np.array([0.05, 0.15, 0.15, 0.95, 1.0])
    reached = np.array([0.05, 0.4, 0.2, 0.8, 0.85])
    report = score_calibration(score, reached)
    # Bins: {0.05}: gap 0; {0.15, 0.15}: |0.15 - 0.3|; {0.95, 1.0}: |0.975 - 0.825|.
    assert report["ece"] == pytest.approx((0 + 2 * 0.15 + 2 * 0.15) / 5)
    assert [row["n"] for row in report["bins"]] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert report["bins"][1] == {
        "low": 0.1, "high": 0.2, "n": 2, "score": pytest.approx(0.15), "bev_iou": pytest.approx(0.3)
    }  # fmt: skip
    assert report["bins"][5]["score"] is None
    # Ranks 1, 2.5, 2.5, 4, 5 against 1, 3, 2, 4, 5: deviations' products 9.5, squares 9.5 and 10.
    assert report["rank_correlation"] == pytest.approx(9.5 / np.sqrt(9.5 * 10))
    assert score_calibration(score, score**3)["rank_correlation"] == pytest.approx(1)
    assert score_calibration(score, -reached)["rank_correlation"] < -0.9
    json.dumps(report, allow_nan=False)


def test_calibration_of_nothing_and_of_constant_scores():
    nothing = score_calibration(np.zeros(0), np.zeros(0))
    assert nothing["ece"] is None and nothing["rank_correlation"] is None and len(nothing["bins"]) == 10
    constant = score_calibration(np.ones(3), np.array([0.2, 0.4, 0.6]))
    assert constant["ece"] == pytest.approx(0.6) and constant["rank_correlation"] is None


def test_the_report_holds_the_calibration_of_its_scores():
    truth = Boxes3D.concatenate([one(), one()])
    pred = Boxes3D.build([[0, 0, 0], [2, 0, 0]], [[4, 2, 1]] * 2, [0, 0], [0, 0], score=np.array([1.0, 0.0]))
    calibration = pseudo_label_quality(pred, truth, np.zeros(2), classes=NUSCENES_CLASSES)["calibration"]
    assert calibration["ece"] == pytest.approx((0 + 1 / 3) / 2) and calibration["rank_correlation"] == pytest.approx(1)


def test_the_pca_floor_turns_the_class_mean_box_along_the_points():
    points = clicks([[10, 0, 0], [0, 10, 0]], [0, 0])
    along = np.linspace(-2, 2, 9)[:, None] * [[np.cos(0.5), np.sin(0.5), 0]] + [10, 0, 0]
    boxes = class_mean_pca_boxes(points, FALLBACK_SIZE_M, along)
    assert boxes.yaw_rad.tolist() == pytest.approx([0.5, np.pi / 2])
    np.testing.assert_array_equal(boxes.size_m, FALLBACK_SIZE_M[[0, 0]])
    np.testing.assert_array_equal(boxes.center_m, [[10, 0, 0], [0, 10, 0]])
