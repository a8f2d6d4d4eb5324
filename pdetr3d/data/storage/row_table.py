"""Access to single rows of large Arrow tables without a Python object per row, and lookups in columns of texts."""

from __future__ import annotations

import ctypes
import functools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class RowTable:
    """Random access to a table whose columns share their chunk boundaries, as in mapped Arrow files.

    Attributes:
        table: the table. Pickling passes its buffers, which Ray shares between processes without copying.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._starts = [0, *accumulate(len(chunk) for chunk in table.column(0).chunks)]
        self._views: dict[tuple[str, int], Any] = {}

    def __reduce__(self) -> tuple[type[RowTable], tuple[pa.Table]]:
        return RowTable, (self.table,)

    def __len__(self) -> int:
        return self.table.num_rows

    def value(self, name: str, row: int) -> Any:
        """One number or text as a Python object."""
        chunk, place = self._place(row)
        return self.table.column(name).chunk(chunk)[place].as_py()

    def items(self, name: str, row: int) -> NDArray:
        """The items of a list: (n,); of fixed-size lists (n, width); of texts (n,) objects."""
        chunk, place = self._place(row)
        offsets, values = self._list(name, chunk)
        begin, end = offsets[place], offsets[place + 1]
        if isinstance(values, np.ndarray):
            return values[begin:end]
        return np.array(values.slice(begin, end - begin).to_pylist(), object)

    def matrix(self, name: str, row: int) -> NDArray[np.float64]:
        """A (4, 4) matrix that is stored as a row-major fixed-size list of 16 numbers."""
        chunk, place = self._place(row)
        if (name, chunk) not in self._views:
            flat = self.table.column(name).chunk(chunk).flatten()
            self._views[name, chunk] = flat.to_numpy(zero_copy_only=False).reshape(-1, 4, 4)
        return self._views[name, chunk][place]

    def span(self, names: tuple[str, ...], begin: int, end: int) -> pa.Table:
        """The columns ``names`` of rows begin .. end - 1, without copying."""
        first, place = self._place(begin)
        parts = []
        while begin < end:
            taken = min(end, self._starts[first + 1]) - begin
            parts.append(self._batch(first).select(names).slice(place, taken))
            begin, first, place = begin + taken, first + 1, 0
        return pa.Table.from_batches(parts, schema=pa.schema([self.table.schema.field(name) for name in names]))

    def take(self, rows: NDArray[np.int64], names: list[str]) -> RowTable:
        """A copy of the columns ``names`` of ``rows``, which must ascend."""
        bounds = np.searchsorted(rows, self._starts)
        parts = [
            self._batch(chunk).select(names).take(pa.array(rows[begin:end] - self._starts[chunk]))
            for chunk, (begin, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True))
            if end > begin
        ]
        schema = pa.schema([self.table.schema.field(name) for name in names])
        return RowTable(pa.Table.from_batches(parts, schema=schema))

    def _place(self, row: int) -> tuple[int, int]:
        chunk = bisect_right(self._starts, row) - 1
        return chunk, row - self._starts[chunk]

    def _batch(self, chunk: int) -> pa.RecordBatch:
        if ("", chunk) not in self._views:
            columns = [self.table.column(name).chunk(chunk) for name in self.table.column_names]
            self._views["", chunk] = pa.RecordBatch.from_arrays(columns, schema=self.table.schema)
        return self._views["", chunk]

    def _list(self, name: str, chunk: int) -> tuple[NDArray[np.int32], NDArray | pa.Array]:
        if (name, chunk) not in self._views:
            array = self.table.column(name).chunk(chunk)
            offsets, values, width = array.offsets.to_numpy(), array.values, 0
            if pa.types.is_fixed_size_list(values.type):
                width, values = values.type.list_size, values.flatten()
            if not pa.types.is_string(values.type):
                values = values.to_numpy(zero_copy_only=False)
                values = values.reshape(-1, width) if width else values
            self._views[name, chunk] = (offsets, values)
        return self._views[name, chunk]


class TextPlaces(Mapping[str, int]):
    """Maps each text of a column to its row number, like a dict, with four bytes per text.

    The texts stay in the mapped file. A lookup bisects them, which takes some 20 microseconds.

    Args:
        texts: the column; no text may occur twice.
    """

    def __init__(self, texts: pa.ChunkedArray) -> None:
        self.texts = texts
        self._order = pc.sort_indices(texts).to_numpy().astype(np.uint32)  # bytes of UTF-8 sort as Python's texts do
        give_back()

    def __getitem__(self, text: str) -> int:
        found = bisect_left(self._order, text, key=self._text)
        if found == len(self._order) or self._text(self._order[found]) != text:
            raise KeyError(text)
        return int(self._order[found])

    def _text(self, place: np.uint32) -> str:
        return self.texts[int(place)].as_py()

    def __iter__(self) -> Iterator[str]:
        return (text.as_py() for text in self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def repeated(self) -> pa.ChunkedArray:
        """Texts that occur more than once; a lookup of such a text returns any of its rows."""
        ordered = self.texts.take(pa.array(self._order))
        return ordered.slice(1).filter(pc.equal(ordered.slice(1), ordered.slice(0, max(0, len(ordered) - 1))))


def give_back() -> None:
    """Return freed memory to the system.

    Without this call Arrow's pool keeps several times the memory in use, and the C library keeps freed memory that
    lies between blocks in use.
    """
    pa.default_memory_pool().release_unused()
    if (trim := _malloc_trim()) is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """The function ``malloc_trim`` of the GNU C library; None with another C library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def text_column(texts: Sequence[str]) -> pa.ChunkedArray:
    """A string column of these texts."""
    return pa.chunked_array([list(texts)], pa.string())


def places(values: pa.ChunkedArray, among: pa.ChunkedArray) -> NDArray[np.int64]:
    """The row number in ``among`` of each text of ``values``, (n,) int64; -1 for a text that is not there.

    Args:
        among: a column in which no text occurs twice.
    """
    found = pc.index_in(values, value_set=among)
    return pc.fill_null(found, -1).to_numpy().astype(np.int64)
