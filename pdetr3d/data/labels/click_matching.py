"""Matches clicks to known boxes. Import, training records, reports and doctor all use this one rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdetr3d.geometry.boxes import points_in_boxes
from pdetr3d.schema import Boxes3D

_NEVER, _OUTSIDE = 1e6, 1e3  # costs [m] above any distance: of an impossible match, and of a click outside its box


def match_clicks(xyz_m: NDArray[np.floating], label: NDArray[np.integer], boxes: Boxes3D) -> NDArray[np.int64]:
    """Assign each of K clicks of one sample to a box.

    A click can belong to a box of its class that contains it, or whose center is no farther than half of its space
    diagonal. A box gets one click at most. The matches are chosen together (linear assignment): as many clicks as
    possible lie in their boxes; among such assignments the sum of the distances to the centers is smallest.

    Args:
        xyz_m: (K, 3) clicks [m], in the frame of ``boxes``. label: (K,) classes, as ``boxes.label``.

    Returns:
        (K,) int64 indices of boxes; -1 for a click without a box.
    """
    result = np.full(len(label), -1)
    if not len(label) or not len(boxes):
        return result
    points = np.asarray(xyz_m, np.float64).reshape(-1, 3)
    distance = np.linalg.norm(points[:, None] - boxes.center_m[None].astype(np.float64), axis=2)
    inside = points_in_boxes(points, boxes.center_m, boxes.size_m, boxes.yaw_rad).T
    same = np.asarray(label)[:, None] == boxes.label[None]
    possible = same & (inside | (distance <= np.linalg.norm(boxes.size_m, axis=1) / 2))
    cost = np.where(possible, distance + _OUTSIDE * ~inside, _NEVER)
    from scipy.optimize import linear_sum_assignment

    clicks, found = linear_sum_assignment(cost)
    kept = possible[clicks, found]
    result[clicks[kept]] = found[kept]
    return result
