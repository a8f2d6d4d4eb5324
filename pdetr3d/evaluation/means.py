"""Means of figures of which some are undefined."""

from __future__ import annotations

import math

import numpy as np


def mean_of(values: list[float]) -> float | None:
    """Mean of the values that are not NaN; None when there are none."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else None
