"""Rotated non-maximum suppression in BEV."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdetr3d.geometry.boxes import bev_iou


def nms_bev(boxes: NDArray, score: NDArray, label: NDArray, iou: float) -> NDArray[np.int64]:
    """Greedy NMS within each class: indices kept, by falling score (ties: first row first).

    A box is dropped when its rotated BEV IoU with a kept box of its class and of higher score exceeds ``iou``.

    Args:
        boxes: (N, 7) x, y, z, l, w, h [m], yaw [rad]. score: (N,). label: (N,) class. iou: in 0..1.
    """
    order = np.argsort(-score, kind="stable")
    overlaps = (bev_iou(boxes[order], boxes[order]) > iou) & (label[order][:, None] == label[order])
    dropped = np.zeros(len(order), bool)
    for i in range(len(order)):
        if not dropped[i]:
            dropped[i + 1 :] |= overlaps[i, i + 1 :]
    return order[~dropped]
