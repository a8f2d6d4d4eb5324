"""Describes an exported student's input, outputs and post-processing for its callers, as export.json contains them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pdetr3d.config import Config
from pdetr3d.geometry.center_code import CODE, CODE_CHANNELS

INFO_FILE = "export.json"  # beside every exported file
INPUT = [
    "points (P, 5) float32, P >= 0 and different in every call: x, y, z [m] in the keyframe's LIDAR_TOP frame "
    "(x right, y forward, z up), intensity 0..255, dt [s] >= 0 (keyframe time - sweep time; 0 for one "
    "sweep). nuScenes' own files have the ring there: what cannot be an age in seconds is refused.",
    "They are the keyframe's points, then those of the num_sweeps - 1 sweeps before it, newest first, each moved into "
    "the keyframe's frame; left out are the car's own: |x| < 1 m and |y| < 1 m in their own sweep's sensor frame.",
    "Nothing else is to be done: points out of range are dropped inside.",
]
OUTPUTS = {
    "heatmaps": "a tuple of one (1, classes of the task, H, W) float32 per entry of tasks: logits; rows = y, "
    "columns = x",
    "peak": "(N, 3) int64 task, row, column: the best 2 * max_boxes cells of each task where one of its classes has a "
    "3x3 maximum above score_threshold",
    "regression": f"(N, {CODE_CHANNELS}) float32 at the peaks, in order: "
    + ", ".join(f"{k} {n}" for k, n in CODE.items()),
}
ONNX_OUTPUTS = {
    "heatmap_0, heatmap_1, ...": "one (1, classes of the task, H, W) float32 per entry of tasks: logits; rows = y, "
    "columns = x",
    "peak": "(N, 3) int64 task, row, column: of each task the 2 * max_boxes cells (or all, where there are fewer) with "
    "the best 3x3 maxima of its classes, those below score_threshold, too",
    "regression": OUTPUTS["regression"],
}
POST_PROCESSING = [
    "For each peak and each class of its task: score = sigmoid(heatmaps[task][0, class, row, column]). It is a box "
    "where the score is the maximum of its 3x3 neighborhood and exceeds score_threshold.",
    "x = (column + offset[0]) * cell_m + range_m[0], y = (row + offset[1]) * cell_m + range_m[1], z = height: the "
    "gravity center [m]; (l, w, h) = exp(clamp(size, -4, 4)) [m]; yaw = a [rad], "
    "counter-clockwise about z from +x, where a = atan2(axis[0], axis[1]) / 2, or a + pi if direction[0] * cos(a) + "
    "direction[1] * sin(a) < 0; or, with heading direction, yaw = atan2(direction[1], direction[0]); (vx, vy) = "
    "velocity [m/s] over ground.",
    "By falling score, within each class: drop a box whose rotated BEV IoU with a kept one exceeds nms_iou (nms "
    "rotated), or whose center is within its class's circle_radius_m of a kept one's (nms circle). The best max_boxes "
    "are the answer. In Python pdetr3d.decode_maps does all of this.",
]


def refuse_no_ages(points: Tensor) -> Tensor:
    """Check that the fifth column of points can be ages [s]. TorchScript compiles this function, too.

    Rings and indices of sweeps are whole numbers; times of a clock, in any unit, are larger than 10.

    Args:
        points: (P, 5).

    Returns:
        The same points.

    Raises:
        ValueError: when the column holds whole numbers from 1 on, negative numbers, or numbers above 10.
    """
    if points.size(0) > 0:
        age = points[:, 4]
        whole = bool((age == age.round()).all()) and bool((age >= 1).any())
        if whole or not bool(((age >= 0) & (age <= 10.0)).all()):
            raise ValueError(
                "the fifth column of the points is no age in seconds (0 to 10, keyframe time - sweep time): nuScenes' "
                "own files have the ring there; put zeros there for the points of a single sweep"
            )
    return points


def describe(config: Config, outputs: Mapping[str, str] = OUTPUTS) -> dict[str, Any]:
    """The content of export.json for a config: input, outputs, post-processing, its thresholds, the whole config.

    Args:
        outputs: OUTPUTS or ONNX_OUTPUTS.
    """
    student, names = config.student, config.classes.names
    return {
        "classes": names,
        "tasks": [[names[c] for c in task] for task in config.tasks],
        "range_m": config.model.range_m,
        "cell_m": config.student_cell_m,
        "num_sweeps": config.data.num_sweeps,
        "heading": student.heading,
        "thresholds": student.model_dump(include={"score_threshold", "nms", "nms_iou", "circle_radius_m", "max_boxes"}),
        "input": INPUT,
        "outputs": dict(outputs),
        "post_processing": POST_PROCESSING,
        "config": json.loads(config.to_json()),
    }
