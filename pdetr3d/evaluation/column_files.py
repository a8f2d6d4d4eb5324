"""Collects columns of numbers piece by piece in temporary files, and maps them back, so that memory holds one piece."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np
from numpy.typing import NDArray


class ColumnFiles:
    """Collects float64 columns. The files are unnamed: the system removes each when its mapped array is freed."""

    def __init__(self) -> None:
        self.files: dict[str, IO[bytes]] = {}
        self.rows = 0

    def add(self, columns: Mapping[str, NDArray[np.float64]]) -> None:
        """Append a piece: columns (n,), with the same names each time."""
        for name, values in columns.items():
            if name not in self.files:
                self.files[name] = tempfile.TemporaryFile(prefix="pdetr3d_column_")  # noqa: SIM115
            self.files[name].write(np.ascontiguousarray(values, np.float64).tobytes())
        self.rows += len(next(iter(columns.values())))

    def mapped(self) -> dict[str, NDArray[np.float64]]:
        """The columns (N,) float64 of all pieces, in mapped files; nothing can be added afterwards."""
        found = {}
        for name, file in self.files.items():
            with file:
                file.flush()
                # "c", not "r": np.interp copies arrays that cannot be written to.
                found[name] = np.memmap(file, np.float64, "c", shape=(self.rows,)) if self.rows else np.zeros(0)
        return found


def descending(values: NDArray[np.float64], part: int) -> NDArray[np.float64]:
    """The rows (N,) by descending value, of equal values the later row first; a mapped file, sorted in place.

    Args:
        values: (N,) without NaN. part: number of rows in memory at a time.
    """
    if not len(values):
        return np.zeros(0)
    with tempfile.TemporaryFile(prefix="pdetr3d_column_") as file:
        # Complex numbers are sorted by their real part, then by their imaginary part.
        keys = np.memmap(file, np.complex128, "w+", shape=(len(values),))
        for rows in slices(len(values), part):
            keys[rows].real, keys[rows].imag = -values[rows], -np.arange(rows.start, rows.stop)
        keys.sort()
        files = ColumnFiles()
        for rows in slices(len(values), part):
            files.add({"row": -keys[rows].imag})
    return files.mapped()["row"]


def backwards(values: NDArray[np.float64], part: int) -> NDArray[np.float64]:
    """The values (N,) from the last to the first, in a mapped file; ``part`` of them are in memory at a time."""
    if not len(values):
        return np.zeros(0)
    files = ColumnFiles()
    for rows in slices(len(values), part):
        files.add({"value": values[len(values) - rows.stop : len(values) - rows.start][::-1]})
    return files.mapped()["value"]


def slices(count: int, part: int) -> Iterator[slice]:
    """Slices of at most ``part`` rows that together cover the rows 0 .. count - 1."""
    return (slice(start, min(start + part, count)) for start in range(0, count, part))
