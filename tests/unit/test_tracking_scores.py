"""Tests of the names of scores in MLflow, by hand."""

from __future__ import annotations

import numpy as np

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.evaluation.pseudo_label_quality import pseudo_label_quality
from pdetr3d.schema import CLASSES, Boxes3D
from pdetr3d.tracking.scores import score_metrics


def test_classes_and_distances_of_a_metric_are_one_family() -> None:
    report = {
        "mAP": 0.5,
        "mAP_present": None,
        "n_gt": {"car": 3, "bus": 0},
        "per_class": {"car": {"AP": 0.25, "AP@0.5": 0.125, "AOE": None, "n_gt": 3}, "bus": {"AP": 0.0, "n_gt": 0}},
        "by_distance": {
            "0-10": {"mAP": 1.0, "ATE": 0.5, "classes": ["car"], "n_gt": {"car": 2, "bus": 0}},
            "30-40": {"mAP": None, "ATE": None, "classes": [], "n_gt": {"car": 1, "bus": 0}},
        },
    }
    assert score_metrics("val", report) == {
        "val/mAP": 0.5,
        "val/AP/car": 0.25,
        "val/AP_0.5/car": 0.125,
        "val/n_gt/car": 3,
        "val/AP/bus": 0,
        "val/n_gt/bus": 0,
        "val/mAP/0-10m": 1,
        "val/ATE/0-10m": 0.5,
        "val/n_gt/0-10m": 2,
        "val/n_gt/30-40m": 1,
    }


def test_quality_of_pseudo_labels() -> None:
    car, size = CLASSES.index("car"), np.array([[4.0, 2.0, 1.5]])
    truth = Boxes3D.build(np.array([[35.0, 0.0, 0.0]]), size, np.zeros(1), np.array([car]), score=np.ones(1))
    report = pseudo_label_quality(truth, truth, np.array([35.0]), classes=NUSCENES_CLASSES)
    found = score_metrics("select", report)
    ones = ("select/bev_iou", "select/bev_iou/car", "select/bev_iou/30-40m", "select/n/car", "select/n/30-40m")
    assert [found[name] for name in ones] == [1.0] * 5
    assert found["select/n/bus"] == found["select/n/0-10m"] == 0 and "select/bev_iou/bus" not in found
    assert found["select/calibration/ece"] == 0  # a score of 1 for an IoU of 1
    assert not [name for name in found if "per_class" in name or "by_distance" in name]
