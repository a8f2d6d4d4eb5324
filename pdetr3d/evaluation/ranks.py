"""Spearman's rank correlation of columns that may be longer than what should be held at a time."""

from __future__ import annotations

import tempfile

import numpy as np
from numpy.typing import NDArray

PART = 1 << 18  # rows that are held at a time, but for the order of one column


def rank_correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float | None:
    """Pearson's correlation of the ranks (1 .. N, equal values have their mean rank); None where it is undefined: under
    two rows, or all values of a column equal.

    Args:
        one, other: (N,), parallel, without NaN; arrays in mapped files stay there.
    """
    count = len(one)
    if count < 2:
        return None
    mean = (count + 1) / 2  # of ranks, equal values or not
    product, squares = 0.0, [0.0, 0.0]
    both = [ranks(one), ranks(other)]
    for start in range(0, count, PART):
        a, b = (np.asarray(column[start : start + PART]) - mean for column in both)
        product += float(a @ b)
        squares = [squares[0] + float(a @ a), squares[1] + float(b @ b)]
    return product / float(np.sqrt(squares[0] * squares[1])) if all(squares) else None


def ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """``scipy.stats.rankdata`` (mean ranks), in a mapped file without a name; held is the order of the values alone."""
    count = len(values)
    with tempfile.TemporaryFile(prefix="pdetr3d_ranks_") as file:
        file.truncate(8 * count)
        found = np.memmap(file, np.float64, "r+", shape=(count,))
    order = np.argsort(values)
    start = 0
    while start < count:  # a run of equal values that a part ends in is taken with the next one
        stop = min(start + PART, count)
        part = np.asarray(values[order[start:stop]])
        if stop < count:
            last = int(np.searchsorted(part, part[-1]))
            if last == 0:  # equal values alone: to their end
                stop = start + _equal(values, order, start)
                part = np.broadcast_to(part[:1], stop - start)
            else:
                stop, part = start + last, part[:last]
        begin = np.flatnonzero(np.r_[True, part[1:] != part[:-1]])
        length = np.diff(np.r_[begin, len(part)])
        found[order[start:stop]] = np.repeat(start + begin + (length + 1) / 2, length)
        start = stop
    return found


def _equal(values: NDArray[np.floating], order: NDArray[np.int64], start: int) -> int:
    """How many values from ``start`` on, in order, are equal to the one there."""
    first = values[order[start]]
    low, high = start, len(order)  # the first that is greater
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if values[order[middle]] <= first else (low, middle)
    return low - start
