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
        """The columns (N,) float64 of all pieces, mapped read-only; nothing can be added afterwards."""
        found = {}
        for name, file in self.files.items():
            with file:
                file.flush()
                found[name] = np.memmap(file, np.float64, "r", shape=(self.rows,)) if self.rows else np.zeros(0)
        return found


def slices(count: int, part: int) -> Iterator[slice]:
    """Slices of at most ``part`` rows that together cover the rows 0 .. count - 1."""
    return (slice(start, min(start + part, count)) for start in range(0, count, part))
