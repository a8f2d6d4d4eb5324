"""Rotated non-maximum suppression in BEV."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdetr3d.geometry.boxes import bev_iou
from pdetr3d.schema import Boxes3D


def nms_bev(boxes: Boxes3D, iou: float) -> NDArray[np.int64]:
    """Greedy NMS over all boxes given, whatever their class: indices kept, by falling score.

    A box is dropped when its rotated BEV IoU with a kept box of higher score exceeds ``iou``.
    """
    order = np.argsort(-boxes.score, kind="stable")
    rows = np.concatenate([boxes.center_m, boxes.size_m, boxes.yaw_rad[:, None]], 1)[order]
    overlaps = bev_iou(rows, rows) > iou
    dropped = np.zeros(len(order), bool)
    for i in range(len(order)):
        if not dropped[i]:
            dropped[i + 1 :] |= overlaps[i, i + 1 :]
    return order[~dropped]
