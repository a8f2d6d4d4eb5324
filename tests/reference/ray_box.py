"""Slow oracle: intersection of a ray with an axis-aligned box by slabs, in plain loops."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def ray_box(origin: ArrayLike, direction: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """The t at which ``origin + t * direction`` enters the box, or inf. The origin is outside the box."""
    origin, direction, low, high = (np.asarray(v, dtype=float).tolist() for v in (origin, direction, low, high))
    enter, leave = 0.0, math.inf
    for axis in range(3):
        o, d = origin[axis], direction[axis]
        if d == 0.0:
            if not low[axis] <= o <= high[axis]:
                return math.inf
            continue
        a, b = (low[axis] - o) / d, (high[axis] - o) / d
        enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    return enter if 0.0 < enter <= leave else math.inf
