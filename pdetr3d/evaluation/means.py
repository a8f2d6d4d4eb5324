"""Averages figures of which some may be undefined (NaN)."""

from __future__ import annotations

import math

import numpy as np


def mean_of(values: list[float]) -> float | None:
    """The mean of the values that are not NaN; None if there are none."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else None
