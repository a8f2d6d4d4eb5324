"""Which known box a click means. The one rule for it: import, training records, reports and doctor all use it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdetr3d.geometry.boxes import points_in_boxes
from pdetr3d.schema import Boxes3D

_NEVER, _OUTSIDE = 1e6, 1e3  # costs [m]: far above any distance in a sample, and containing before near


def match_clicks(xyz_m: NDArray[np.floating], label: NDArray[np.integer], boxes: Boxes3D) -> NDArray[np.int64]:
    """The box that each of K clicks of one sample means, (K,); -1: none.

    A click means a box of its class that contains it, of several the one with the nearest center; where none does, one
    whose half space diagonal reaches the click. A box is meant by one click at most: matches are chosen together, so
    that as many clicks as possible lie in their boxes, with the least sum of distances to the centers.

    Args:
        xyz_m: (K, 3) [m] and boxes: in one frame. label: (K,) as those of the boxes.
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
