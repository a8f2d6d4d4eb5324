"""Compares KITTI's 3D boxes with the image rectangles of the same label lines.

They agree in a correct label file. They do not if the sizes are in another order, or the places in another frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pdetr3d.importers.kitti_files import Calibration, Labels
from pdetr3d.importers.kitti_frames import KittiFrame

LEAST_IOU = 0.7  # of a box's outline in the image and its rectangle, in correct labels
ENOUGH = 5  # boxes that are needed for a judgment
NEAREST_M = 0.1  # least depth of a corner that can be projected


def outlines_px(labels: Labels, calibration: Calibration, size_px: tuple[int, int]) -> NDArray[np.float64]:
    """(N, 4) left, top, right, bottom [px] of the projected boxes, cut at the image's sides.

    Rows of boxes that reach behind the camera are NaN.

    Args:
        size_px: width, height of the image.
    """
    corner = np.array(list(itertools.product((-0.5, 0.5), (-1.0, 0.0), (-0.5, 0.5))))  # of a unit box above its ground
    x, y, z = (corner * labels.size_m[:, None, [2, 0, 1]]).transpose(2, 0, 1)  # along length, height, width
    cos, sin = np.cos(labels.rotation_y_rad)[:, None], np.sin(labels.rotation_y_rad)[:, None]
    turned = np.stack([cos * x + sin * z, y, cos * z - sin * x, np.ones_like(x)], -1)
    turned[..., :3] += labels.location_m[:, None]
    u, v, depth = (turned @ calibration.p2.T).transpose(2, 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = np.stack([u / depth, v / depth], -1)
    cut = np.concatenate([pixels.min(1), pixels.max(1)], 1).clip(0, np.tile(size_px, 2))
    cut[depth.min(1) < NEAREST_M] = np.nan
    return cut


def unlike_rectangles(frames: Sequence[KittiFrame]) -> str:
    """A warning when most boxes do not project into their rectangles; "" otherwise."""
    found, worst = list[float](), ("", 0, 1.0)
    for frame in (frame for frame in frames if frame.keyframe):
        labels = frame.labels
        iou = _iou(outlines_px(labels, frame.calibration, frame.size_px), labels.rectangle_px)
        iou = np.where(np.isnan(iou), 0.0, iou)
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
    return inside / (areas[0] + areas[1] - inside)
