"""The score by kind of object, and headings taken apart: axis, direction. Vehicles, people and barriers differ in both.

Legend: N pairs of an object and its detection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.utils import center_distance, yaw_diff
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionMetrics

from pdetr3d.evaluation.distance_bins import ERROR_NAMES, mean_of

GROUPS = {
    "vehicles": ("car", "truck", "construction_vehicle", "bus", "trailer"),
    "cycles": ("motorcycle", "bicycle"),
    "people": ("pedestrian",),
    "barriers": ("barrier",),
    "cones": ("traffic_cone",),
}
WALKING = "pedestrian.moving"
PARTS = ("people_moving", "people_standing")  # of the people, by the attribute of the ground truth
MATCH_M = 2.0  # the devkit's distance for errors of true positives
NO_DIRECTION, NO_HEADING = ("barrier", "traffic_cone"), ("traffic_cone",)


def by_group(metrics: DetectionMetrics, gt: EvalBoxes, pred: EvalBoxes) -> dict[str, dict[str, Any]]:
    """Figures of each of GROUPS, and of people who move and who do not.

    Args:
        metrics: the devkit's, of these boxes. gt, pred: filtered by class range.

    Returns:
        JSON-safe, group -> ``mAP``, ``ATE``, ``ASE``, ``AOE``: means of the devkit's figures over the group's classes
        with ground truth (absent of PARTS: a false positive belongs to neither); ``n_gt``; ``matched``: how many of
        these have a detection (the devkit's matching at 2 m, all scores). Over the matched: ``yaw_error_rad``;
        ``axis_error_rad``, the same up to half a turn; ``reversed``, the share whose heading is off by over 90 degrees.
        None where undefined: barriers look the same from both sides, cones from all.
    """
    report = {}
    for group, classes in GROUPS.items():
        pairs = [pair for name in classes for pair in matches(gt, pred, name)]
        objects = [box for box in gt.all if box.detection_name in classes]
        known = [name for name in classes if any(box.detection_name == name for box in objects)]
        aps = metrics.mean_dist_aps
        means = {"mAP": mean_of([aps[name] for name in known])}
        for error in ("trans_err", "scale_err", "orient_err"):
            means[ERROR_NAMES[error]] = mean_of([metrics.get_label_tp(name, error) for name in known])
        report[group] = {**means, "n_gt": len(objects), **headings(pairs)}
        if group == "people":
            for part, moving in zip(PARTS, (True, False), strict=True):
                mine = [pair for pair in pairs if (pair[0].attribute_name == WALKING) == moving]
                count = sum((box.attribute_name == WALKING) == moving for box in objects)
                report[part] = {"n_gt": count, **headings(mine)}
    return report


def matches(gt: EvalBoxes, pred: EvalBoxes, name: str) -> list[tuple[DetectionBox, DetectionBox]]:
    """(object, detection) of a class as the devkit's ``accumulate`` pairs them: by falling score, each detection with
    the nearest object that is still free, if that is within 2 m."""
    pairs = []
    for token in pred.sample_tokens:
        free = [box for box in gt[token] if box.detection_name == name]
        found = [box for box in pred[token] if box.detection_name == name]
        for _, i in sorted(((box.detection_score, i) for i, box in enumerate(found)), reverse=True):
            if not free:
                break
            distance = [center_distance(box, found[i]) for box in free]
            nearest = int(np.argmin(distance))
            if distance[nearest] < MATCH_M:
                pairs.append((free.pop(nearest), found[i]))
    return pairs


def headings(pairs: list[tuple[DetectionBox, DetectionBox]]) -> dict[str, Any]:
    """``matched``, ``yaw_error_rad``, ``axis_error_rad``, ``reversed`` of N pairs."""
    axis = [yaw_diff(*pair, period=np.pi) for pair in pairs if pair[0].detection_name not in NO_HEADING]
    yaw = [yaw_diff(*pair) for pair in pairs if pair[0].detection_name not in NO_DIRECTION]
    undirected = [yaw_diff(*pair, period=np.pi) for pair in pairs if pair[0].detection_name == "barrier"]
    return {
        "matched": len(pairs),
        "yaw_error_rad": mean_of(yaw + undirected),
        "axis_error_rad": mean_of(axis),
        "reversed": mean_of([float(error > np.pi / 2) for error in yaw]),
    }
