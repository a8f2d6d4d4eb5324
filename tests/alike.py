"""Compares boxes of two predictions, in which rounding may swap boxes of nearly equal scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist


def places_of(expected: ArrayLike, got: ArrayLike) -> NDArray[np.intp]:
    """For each row of ``expected`` the row of ``got`` that differs least in any column.

    Args:
        expected, got: (N, D) numbers, labels as numbers among them.

    Raises:
        AssertionError: when the numbers of rows differ, or a row of ``got`` is nearest to two rows.
    """
    one, other = (np.asarray(rows, np.float64) for rows in (expected, got))
    assert one.shape == other.shape
    place = cdist(np.nan_to_num(one, nan=-1e3), np.nan_to_num(other, nan=-1e3), "chebyshev").argmin(1)
    assert len(set(place.tolist())) == len(place), "a box is there once, and expected twice"
    return place
