"""Sequences of records that are made on access from mapped tables: a million records take the memory of row numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pdetr3d.data.index.rows import RecordTable
from pdetr3d.data.storage.row_table import RowTable, text_column
from pdetr3d.geometry.regions import EVERYWHERE, Polygon
from pdetr3d.schema import ROLES, Boxes3D, PointLabels, SampleRecord

CLICK_COLUMNS = ("click_id", "x", "y", "z", "class")


@dataclass(frozen=True)
class Records(Sequence[SampleRecord]):
    """N records, each made when it is accessed.

    Records are without the clicks and boxes at places where labels do not hold (``SampleRecord.regions``).

    Attributes:
        table: files and poses. row: (N,) int64, each record's row in ``table``. role: (N,) int8, index into ROLES.
        boxes: of all records. box_range: (N, 2) int64, a record's boxes are ``begin .. end - 1`` of ``boxes``.
        clicks: rows with CLICK_COLUMNS. click_range: (N, 2) int64, a record's clicks are ``begin .. end - 1``.
        click_box: (M,) int64, the box of a click, as an index among its record's boxes, or -1. click_box_of: (N,)
            int64, where the entries of a record's clicks begin in ``click_box``; -1: the boxes of its clicks are
            unknown.
        not_sure: sample token -> regions in which people could not tell the objects; they are ignored like the
            dataset's own regions to ignore.
    """

    table: RecordTable
    row: NDArray[np.int64]
    role: NDArray[np.int8]
    boxes: Boxes3D
    box_range: NDArray[np.int64]
    clicks: RowTable
    click_range: NDArray[np.int64]
    click_box: NDArray[np.int64]
    click_box_of: NDArray[np.int64]
    not_sure: Mapping[str, Sequence[Polygon]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)

    @overload
    def __getitem__(self, place: int) -> SampleRecord: ...
    @overload
    def __getitem__(self, place: slice) -> Records: ...
    def __getitem__(self, place: int | slice) -> SampleRecord | Records:
        if isinstance(place, slice):
            return self.select(np.arange(len(self))[place])
        begin, end = self.box_range[place]
        boxes, role = self.boxes[begin:end], ROLES[self.role[place]]
        record = self.table.record(int(self.row[place]), role, boxes, self._clicks(place))
        if marks := self.not_sure.get(record.sample_token):
            record = replace(record, regions=(record.regions or EVERYWHERE).joined(marks))
        return within_regions(record)

    def __iter__(self) -> Iterator[SampleRecord]:
        return (self[place] for place in range(len(self)))

    def _clicks(self, place: int) -> PointLabels:
        begin, end = (int(bound) for bound in self.click_range[place])
        if begin == end:
            return PointLabels.empty()
        columns = self.clicks.span(CLICK_COLUMNS, begin, end)
        first = self.click_box_of[place]
        return PointLabels(
            click_id=np.array(columns["click_id"].to_pylist(), object),
            xyz_m=np.stack([columns[axis].to_numpy() for axis in "xyz"], 1),
            label=np.array([self.table.classes.label_of[name] for name in columns["class"].to_pylist()], np.int64),
            box_index=np.full(end - begin, -1) if first < 0 else self.click_box[first : first + end - begin],
        )

    @property
    def has_regions(self) -> bool:
        """Whether some records may have regions."""
        return self.table.has_regions or bool(self.not_sure)

    @property
    def tokens(self) -> list[str]:
        """Sample tokens, in order."""
        return self.token_column.to_pylist()

    @property
    def token_column(self) -> pa.ChunkedArray:
        """``tokens`` as a column, without a Python object per token."""
        return self.table.rows.table["sample_token"].take(pa.array(self.row))

    @property
    def boxed(self) -> NDArray[np.bool_]:
        """(N,) bool: box-labeled records."""
        return self.role == ROLES.index("box")

    @property
    def labeled(self) -> NDArray[np.bool_]:
        """(N,) bool: records that somebody labeled in some way: all but the unlabeled ones."""
        return self.role != ROLES.index("unlabeled")

    @property
    def whole(self) -> NDArray[np.bool_]:
        """(N,) bool: records all of whose objects have human boxes: the box-labeled and the empty ones."""
        return self.boxed | (self.role == ROLES.index("empty"))

    @property
    def clicked(self) -> NDArray[np.bool_]:
        """(N,) bool: records with clicks."""
        return self.click_range[:, 1] > self.click_range[:, 0]

    def select(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Records:
        """The records at ``places``, which are numbers (also repeated ones) or a mask."""
        each = {name: getattr(self, name)[places] for name in ("row", "role", "box_range", "click_range")}
        return replace(self, **each, click_box_of=self.click_box_of[places])

    def __reduce__(self) -> tuple[type[Records], tuple[Any, ...]]:
        """Pickle a copy of the rows and clicks of these records, since other nodes do not have the mapped files."""
        rows, row = np.unique(self.row, return_inverse=True)
        chosen = np.unique(self.click_range[self.clicked], axis=0)
        flat = ranges(chosen)
        moved = np.searchsorted(flat, self.click_range[:, 0])  # a record's clicks stay neighbors
        length = self.click_range[:, 1] - self.click_range[:, 0]
        return Records, (
            self.table.take(rows),
            row.reshape(-1),
            self.role,
            self.boxes,
            self.box_range,
            self.clicks.take(flat, list(CLICK_COLUMNS)),
            np.stack([moved, moved + length], 1),
            self.click_box,
            self.click_box_of,
            self.not_sure,
        )


class Joined(Sequence[SampleRecord]):
    """Several sequences of records as one; records are made when they are accessed."""

    def __init__(self, *parts: Sequence[SampleRecord]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @overload
    def __getitem__(self, place: int) -> SampleRecord: ...
    @overload
    def __getitem__(self, place: slice) -> list[SampleRecord]: ...
    def __getitem__(self, place: int | slice) -> SampleRecord | list[SampleRecord]:
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        number = range(len(self))[place]
        part = int(np.searchsorted(self.ends, number, side="right"))
        return self.parts[part][number - (int(self.ends[part - 1]) if part else 0)]


def tokens_of(records: Sequence[SampleRecord]) -> pa.ChunkedArray:
    """The sample tokens of records as a column, in order."""
    if isinstance(records, Joined):
        parts = [chunk for part in records.parts for chunk in tokens_of(part).chunks]
        return pa.chunked_array(parts, pa.string())
    if isinstance(records, Records):
        return records.token_column
    return text_column([record.sample_token for record in records])


def within_regions(record: SampleRecord) -> SampleRecord:
    """The record without the clicks and boxes outside its valid region or in its regions to ignore."""
    if record.regions is None or not (len(record.boxes) or len(record.clicks)):
        return record
    boxes, clicks = record.boxes, record.clicks
    kept = record.regions.known_at(boxes.center_m)
    place = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)  # index -1, a click without a box, gives the last -1
    mine = clicks[record.regions.known_at(clicks.xyz_m)]
    return replace(record, boxes=boxes[kept], clicks=replace(mine, box_index=place[mine.box_index]))


def has_regions(records: Sequence[SampleRecord]) -> bool:
    """Whether some records may have regions."""
    if isinstance(records, Records):
        return records.has_regions
    if isinstance(records, Joined):
        return any(map(has_regions, records.parts))
    return any(record.regions is not None for record in records)


def ranges(bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join the numbers begin .. end - 1 of every row of ``bounds`` (N, 2)."""
    length = bounds[:, 1] - bounds[:, 0]
    shift = np.repeat(bounds[:, 0] - np.cumsum(length) + length, length)
    return np.arange(length.sum()) + shift


def boxed(records: Sequence[SampleRecord]) -> NDArray[np.bool_]:
    """(N,) bool: box-labeled records."""
    return records.boxed if isinstance(records, Records) else np.array([r.role == "box" for r in records], bool)


def boxes_of(records: Sequence[SampleRecord]) -> Boxes3D:
    """The boxes of all the records, joined in order."""
    if isinstance(records, Records):
        return records.boxes[ranges(records.box_range)]
    return Boxes3D.concatenate([record.boxes for record in records])


def pick(records: Sequence[SampleRecord], places: NDArray[np.int64] | NDArray[np.bool_]) -> Sequence[SampleRecord]:
    """The records at ``places``, which are numbers or a mask, in that order."""
    if isinstance(records, Records):
        return records.select(places)
    return [records[place] for place in np.arange(len(records))[places]]
