"""Which of a student's boxes stay: NMS by the key ``student.nms``, by mmcv's kernel on CUDA."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pdetr3d.config import StudentConfig
from pdetr3d.geometry.nms import nms_bev, nms_circle
from pdetr3d.schema import Boxes3D

# mmcv.ops.nms_rotated: boxes (N, 5) x, y, l, w, yaw; scores (N,); IoU -> kept boxes, their indices.
RotatedKernel = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def suppress(boxes: Boxes3D, student: StudentConfig, device: torch.device) -> NDArray[np.int64]:
    """Indices of the boxes kept, by falling score, at most ``student.max_boxes``; classes do not suppress one another.

    Args:
        boxes: the candidates of one sample. device: where the maps were computed; CUDA takes mmcv's kernel.
    """
    if student.nms == "circle":
        radius = np.array(student.circle_radius_m)
        return nms_circle(boxes.center_m, boxes.score, boxes.label, radius, student.max_boxes)
    kernel = rotated_kernel() if device.type == "cuda" else None
    if kernel is None:
        return nms_bev(boxes.rows, boxes.score, boxes.label, student.nms_iou, student.max_boxes)
    return nms_by_kernel(kernel, boxes, student, device)


def nms_by_kernel(
    kernel: RotatedKernel, boxes: Boxes3D, student: StudentConfig, device: torch.device
) -> NDArray[np.int64]:
    """As ``nms_bev`` in float32 (pairs within rounding of the threshold may fall to the other side)."""
    if not len(boxes):
        return np.zeros(0, np.int64)  # the kernel answers None
    # Its angles turn x towards y ("clockwise" where y points down): our yaw. It takes labels, too, but does not look at
    # them: each class is moved to a place of its own.
    rows = boxes.rows[:, [0, 1, 3, 4, 6]]
    rows[:, 0] += boxes.label * (np.ptp(rows[:, 0]) + np.hypot(rows[:, 2], rows[:, 3]).max())
    score = torch.from_numpy(boxes.score).to(device)
    kept = kernel(torch.from_numpy(rows).to(score), score, student.nms_iou)[1].cpu().numpy()
    return kept[np.argsort(-boxes.score[kept], kind="stable")][: student.max_boxes]


def rotated_kernel() -> RotatedKernel | None:
    """mmcv's rotated NMS, or None where mmcv was installed without compiled ops."""
    try:
        from mmcv.ops import nms_rotated
    except ImportError:
        return None
    return nms_rotated
