"""Non-maximum suppression of a student's boxes by ``student.nms``; on CUDA with mmcv's kernel."""

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
    """Indices of the kept boxes by falling score, at most ``student.max_boxes``; classes do not suppress each other.

    Args:
        boxes: the candidates of one sample. student: the keys of NMS. device: of the maps; on CUDA, mmcv's kernel runs.
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
    """Like ``nms_bev``, in float32: an IoU within rounding of the threshold may be decided differently."""
    if not len(boxes):
        return np.zeros(0, np.int64)  # the kernel would return None
    # The kernel's angles turn x towards y ("clockwise" with y downwards), like our yaw. It ignores its labels argument,
    # so each class's boxes are moved to a place of their own.
    rows = boxes.rows[:, [0, 1, 3, 4, 6]]
    rows[:, 0] += boxes.label * (np.ptp(rows[:, 0]) + np.hypot(rows[:, 2], rows[:, 3]).max())
    score = torch.from_numpy(boxes.score).to(device)
    kept = kernel(torch.from_numpy(rows).to(score), score, student.nms_iou)[1].cpu().numpy()
    return kept[np.argsort(-boxes.score[kept], kind="stable")][: student.max_boxes]


def rotated_kernel() -> RotatedKernel | None:
    """mmcv's rotated NMS, or None if mmcv was installed without compiled ops."""
    try:
        from mmcv.ops import nms_rotated
    except ImportError:
        return None
    return nms_rotated
