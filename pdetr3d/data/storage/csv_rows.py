"""CSV files with named columns, as people write them: the one reader of scenes, poses and plain tables."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from pdetr3d.schema import DataError


def read_csv(file: Path, name: str, needed: Sequence[str] = ()) -> tuple[list[dict[str, str]], list[str]]:
    """Rows (column -> text) and the columns of the header, in order; a byte order mark is skipped.

    Args:
        name: what messages call the file. needed: columns that there must be.

    Raises:
        DataError: when the file cannot be read as CSV, or lacks a needed column.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{name}: cannot be read as CSV ({error}); write it again") from error
    if missing := [column for column in needed if column not in columns]:
        raise DataError(f"{name}: column(s) {missing} missing, has {columns}; needed: {', '.join(needed)}")
    return rows, columns
