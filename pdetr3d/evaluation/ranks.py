"""Computes Spearman's rank correlation of columns that are too long to be held in memory as a whole."""

from __future__ import annotations

import tempfile

import numpy as np
from numpy.typing import NDArray

PART = 1 << 18  # number of rows in memory at a time; only the order of one column is held as a whole


def rank_correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float | None:
    """Spearman's correlation: Pearson's of the ranks 1 .. N, where equal values have their mean rank.

    Args:
        one, other: (N,), parallel, without NaN; mapped files are read in parts.

    Returns:
        The correlation; None where it is undefined: fewer than two rows, or all values of a column equal.
    """
    count = len(one)
    if count < 2:
        return None
    mean = (count + 1) / 2  # of the ranks, with or without equal values
    product, squares = 0.0, [0.0, 0.0]
    both = [ranks(one), ranks(other)]
    for start in range(0, count, PART):
        a, b = (np.asarray(column[start : start + PART]) - mean for column in both)
        product += float(a @ b)
        squares = [squares[0] + float(a @ a), squares[1] + float(b @ b)]
    return product / float(np.sqrt(squares[0] * squares[1])) if all(squares) else None


def ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean ranks (N,) as ``scipy.stats.rankdata``, in an unnamed mapped file; memory holds the values' order alone."""
    count = len(values)
    with tempfile.TemporaryFile(prefix="pdetr3d_ranks_") as file:
        file.truncate(8 * count)
        found = np.memmap(file, np.float64, "r+", shape=(count,))
    order = np.argsort(values)
    start = 0
    while start < count:  # a part that ends within a run of equal values is cut before the run
        stop = min(start + PART, count)
        part = np.asarray(values[order[start:stop]])
        if stop < count:
            last = int(np.searchsorted(part, part[-1]))
            if last == 0:  # the part has equal values only: it is extended to the end of the run
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
    """The length of the run of equal values that begins at position ``start`` of the order, by binary search."""
    first = values[order[start]]
    low, high = start, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if values[order[middle]] <= first else (low, middle)
    return low - start
