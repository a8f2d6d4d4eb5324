"""Reading CSV files that people write: scenes, poses and plain tables, all with named columns."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from pdetr3d.schema import DataError

FORM = "write it as text in UTF-8, with commas between columns and points in numbers"


def not_parted(columns: Sequence[str]) -> str:
    """A complaint when the whole header was read as one column (another separator than a comma); else ""."""
    if len(columns) != 1 or not (marks := [mark for mark in ";\t|" if mark in columns[0]]):
        return ""
    return f"its header is one column, {columns[0]!r}, with {marks[0]!r} between names; {FORM}"


def read_csv(file: Path, name: str, needed: Sequence[str] = ()) -> tuple[list[dict[str, str]], list[str]]:
    """Return the rows (column -> text) and the columns of the header, in order. A byte order mark is skipped.

    Args:
        name: the file's name in messages. needed: columns that the file must have.

    Raises:
        DataError: when the file cannot be read as CSV, or lacks a needed column.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{name}: cannot be read as CSV ({error}); {FORM}") from error
    if problem := not_parted(columns):
        raise DataError(f"{name}: {problem}")
    if missing := [column for column in needed if column not in columns]:
        raise DataError(f"{name}: column(s) {missing} missing, has {columns}; needed: {', '.join(needed)}")
    return rows, columns
