"""Compares KITTI's 3D boxes with the image rectangles of the same label lines.

They agree in a correct label file. They do not if the sizes are in another order, or the places in another frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pdetr3d.evaluation.kitti_score import image_rectangles
from pdetr3d.importers.kitti_files import Calibration, Labels
from pdetr3d.importers.kitti_frames import KittiFrame
from pdetr3d.schema import CameraRecord

LEAST_IOU = 0.7  # of a box's outline in the image and its rectangle, in correct labels
ENOUGH = 5  # boxes that are needed for a judgment


def outlines_px(labels: Labels, calibration: Calibration, size_px: tuple[int, int]) -> NDArray[np.float64]:
    """(N, 4) left, top, right, bottom [px] of the projected boxes, as ``image_rectangles``.

    Args:
        size_px: width, height of the image.
    """
    lidar2img = np.vstack([calibration.p2, [0.0, 0, 0, 1]]) @ np.linalg.inv(calibration.rect2lidar)
    return image_rectangles(labels.boxes(calibration), CameraRecord("", *size_px, lidar2img))


def unlike_rectangles(frames: Sequence[KittiFrame]) -> str:
    """A warning when most boxes do not project into their rectangles; "" otherwise."""
    found, worst = list[float](), ("", 0, 1.0)
    for frame in (frame for frame in frames if frame.keyframe):
        labels = frame.labels
        iou = _iou(outlines_px(labels, frame.calibration, frame.size_px), labels.rectangle_px)
        drawn = (labels.rectangle_px[:, 2:] > labels.rectangle_px[:, :2]).all(1)  # not the 0 0 0 0 of converted labels
        for i in np.flatnonzero(labels.cared & drawn):
            found.append(float(iou[i]))
            if iou[i] < worst[2]:
                worst = (frame.name, int(labels.line[i]), float(iou[i]))
    if len(found) < ENOUGH or np.median(found) >= LEAST_IOU:
        return ""
    return (
        f"{sum(iou < LEAST_IOU for iou in found)} of {len(found)} 3D boxes do not lie where the rectangles of their "
        f"lines are: half of them overlap by {np.median(found):.2f} or less (intersection over union), such as "
        f"label_2/{worst[0]}.txt:{worst[1]}. Are the sizes in KITTI's order (height, width, length), and the places in "
        "the frame of the rectified camera (x right, y down, z forward, at the underside)?"
    )


def _iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) intersection over union of rectangles (N, 4)."""
    side = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    inside = side.clip(0).prod(1)
    areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (one, other)]
    return inside / np.maximum(areas[0] + areas[1] - inside, 1e-9)
