"""Reading CSV files that people write: scenes, poses and plain tables, all with named columns."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from pdetr3d.schema import DataError

FORM = "write it as text in UTF-8, with commas between columns and points in numbers"

NO_VALUE = ("nan", "none", "null", "<na>")  # texts that tools write for a missing value, in small letters


def plain_float(value: Any) -> float:
    """``float(value)``, but a ValueError for texts that only Python reads as numbers: 1_0 and full-width digits."""
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def header_problem(columns: Sequence[str]) -> str:
    """A complaint about a header: another separator than a comma, a name twice, or blanks around names; else ""."""
    if len(columns) == 1 and (marks := [mark for mark in ";\t|" if mark in columns[0]]):
        return f"its header is one column, {columns[0]!r}, with {marks[0]!r} between names; {FORM}"
    if twice := [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]:
        return f"column(s) {twice} are in its header more than once, has {list(columns)}; keep one of each"
    if blank := [name for name in columns if name != name.strip()]:
        return f"names in its header have blanks around them, {blank}; remove the blanks"
    return ""


def open_text(file: Path) -> TextIO:
    """Open a file for ``csv``. A byte order mark is skipped.

    Raises:
        ValueError: when the file begins as UTF-16 does.
    """
    with file.open("rb") as stream:
        if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError('it is in UTF-16, as Excel\'s "Unicode text"')
    return file.open(newline="", encoding="utf-8-sig")


def read_csv(file: Path, name: str, needed: Sequence[str] = ()) -> tuple[list[dict[str, str]], list[str]]:
    """Return the rows (column -> text) and the columns of the header, in order. A byte order mark is skipped.

    Args:
        name: the file's name in messages. needed: columns that the file must have.

    Raises:
        DataError: when the file cannot be read as CSV, or lacks a needed column.
    """
    try:
        with open_text(file) as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{name}: cannot be read as CSV ({error}); {FORM}") from error
    if problem := header_problem(columns):
        raise DataError(f"{name}: {problem}")
    if missing := [column for column in needed if column not in columns]:
        raise DataError(f"{name}: column(s) {missing} missing, has {columns}; needed: {', '.join(needed)}")
    return rows, columns
