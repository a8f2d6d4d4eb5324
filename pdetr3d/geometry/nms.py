"""Non-maximum suppression in BEV, within each class: by rotated overlap, or by the distance of centers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pdetr3d.geometry.boxes import footprints, rotate_z

# (indices i (P,), indices j (P,)), pairs of one class each, i scored higher -> (P,) bool: box i suppresses box j
Suppresses = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]

BLOCK = 64  # candidates per step: few enough that most tested pairs are with boxes that are kept


def nms_bev(boxes: NDArray, score: NDArray, label: NDArray, iou: float, most: int | None = None) -> NDArray[np.int64]:
    """Greedy NMS within each class by overlap.

    A box is dropped when its rotated BEV IoU with a kept box of its class and of higher score exceeds ``iou``.

    Args:
        boxes: (N, 7) x, y, z, l, w, h [m], yaw [rad]. score: (N,). label: (N,) class. iou: in 0..1.
        most: the largest number of boxes to keep, over all classes; None: no limit.

    Returns:
        Indices (K,) int64 of the kept boxes, in descending score (of equal scores the first row first).
    """
    import shapely

    rows = np.asarray(boxes, np.float64).reshape(-1, 7)
    reach = np.hypot(rows[:, 3], rows[:, 4]) / 2
    polygon, area, made = np.empty(len(rows), object), np.zeros(len(rows)), np.zeros(len(rows), bool)

    def suppresses(better: NDArray[np.int64], worse: NDArray[np.int64]) -> NDArray[np.bool_]:
        # Only pairs whose circumscribed circles meet can overlap; the exact test takes microseconds per pair.
        near = np.linalg.norm(rows[better, :2] - rows[worse, :2], axis=-1) < reach[better] + reach[worse]
        near[near] = may_overlap(rows[better[near]], rows[worse[near]], iou)
        one, other = better[near], worse[near]
        new = np.unique(np.concatenate([one, other]))
        new = new[~made[new]]
        polygon[new] = footprints(rows[new, :3], rows[new, 3:6], rows[new, 6])
        area[new], made[new] = shapely.area(polygon[new]), True
        shared = shapely.area(shapely.intersection(polygon[one], polygon[other]))
        near[near] = shared / (area[one] + area[other] - shared) > iou
        return near

    return _greedy(score, label, suppresses, most)


def may_overlap(a: NDArray, b: NDArray, iou: float) -> NDArray[np.bool_]:
    """A fast test before the exact one: False only where the BEV IoU of a pair is certainly at most ``iou``.

    In the frame of either box, the shared area is at most the product of the overlaps along the two axes.

    Args:
        a, b: (P, 7) float64 x, y, z, l, w, h [m], yaw [rad]; box i of ``a`` and box i of ``b`` are a pair.

    Returns:
        (P,) bool.
    """
    bound = np.full(len(a), np.inf)
    for own, other in ((a, b), (b, a)):
        offset = rotate_z(other[:, :2] - own[:, :2], -own[:, 6])
        turn = other[:, 6] - own[:, 6]
        cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
        extent = np.stack([other[:, 3] * cos + other[:, 4] * sin, other[:, 3] * sin + other[:, 4] * cos], 1)
        shared = np.minimum((own[:, 3:5] + extent) / 2 - np.abs(offset), np.minimum(own[:, 3:5], extent))
        bound = np.minimum(bound, np.maximum(shared, 0).prod(1))
    area = a[:, 3] * a[:, 4] + b[:, 3] * b[:, 4]
    return bound * (1 + 1e-9) >= iou / (1 + iou) * area  # IoU > t means: shared > t / (1 + t) of both areas


def nms_circle(
    center_m: NDArray, score: NDArray, label: NDArray, radius_m: NDArray, most: int | None = None
) -> NDArray[np.int64]:
    """Greedy NMS within each class by distance: a box is dropped when its center lies within its class's radius of a
    kept one (CenterPoint's circle NMS).

    Args:
        center_m: (N, 2+) x, y [m]. score: (N,). label: (N,) class. radius_m: (classes,) [m]. most: as ``nms_bev``.

    Returns:
        As ``nms_bev``.
    """
    x, y = np.asarray(center_m, np.float64)[:, :2].T
    limit = np.square(np.asarray(radius_m, np.float64))

    def suppresses(better: NDArray[np.int64], worse: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (x[better] - x[worse]) ** 2 + (y[better] - y[worse]) ** 2 <= limit[label[better]]

    return _greedy(score, label, suppresses, most)


def _greedy(score: NDArray, label: NDArray, suppresses: Suppresses, most: int | None) -> NDArray[np.int64]:
    """Test blocks of boxes in descending score, against the kept boxes and then within the block, up to ``most``."""
    order = np.argsort(-score, kind="stable")
    kept = order[:0]
    for start in range(0, len(order), BLOCK):
        if most is not None and len(kept) >= most:
            break
        block = order[start : start + BLOCK]
        block = block[~_hits(kept, block, label, suppresses).any(0)]
        hits = _hits(block, block, label, suppresses)
        dropped = np.zeros(len(block), bool)
        for i in range(len(block)):
            if not dropped[i]:
                dropped |= hits[i]
        kept = np.concatenate([kept, block[~dropped]])
    return kept[:most]


def _hits(better: NDArray, worse: NDArray, label: NDArray, suppresses: Suppresses) -> NDArray[np.bool_]:
    """(I, J) bool: box ``better[i]`` suppresses box ``worse[j]``. If both are the same list, only for j > i."""
    hits = label[better][:, None] == label[worse]
    i, j = np.nonzero(np.triu(hits, 1) if better is worse else hits)
    hits[:] = False
    hits[i, j] = suppresses(better[i], worse[j])
    return hits
