"""Reads the tables of the plain format (Parquet or CSV), and lists all faulty values by file and row (from 1)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pdetr3d.data.storage.csv_rows import NO_VALUE, plain_float, read_csv
from pdetr3d.geometry.regions import polygon_problem
from pdetr3d.schema import DataError

Row = dict[str, Any]
LONGEST_M = 100.0  # a longer side of a box is in centimeters or millimeters
# A kind of value: the allowed values in words; a function that converts a value, or raises ValueError, TypeError or
# KeyError.
Kind = tuple[str, Callable[[Any], Any]]


def _text(value: Any) -> str:
    if not isinstance(value, str | int) or isinstance(value, bool) or str(value) == "":
        raise ValueError
    return str(value)


def _track(value: Any) -> str:
    if (text := _text(value)).lower() in NO_VALUE:
        raise ValueError
    return text


def _name(value: Any) -> str:
    text = _text(value)
    if "/" in text or "\\" in text or text.startswith("."):
        raise ValueError
    return text


def _path(value: Any) -> str:
    text = _text(value)
    if Path(text).is_absolute() or ".." in Path(text).parts:
        raise ValueError
    return text


def _number(value: Any) -> float:
    number = plain_float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError
    return number


def _positive(value: Any) -> float:
    if (number := _number(value)) <= 0:
        raise ValueError
    return number


def _side(value: Any) -> float:
    if (number := _positive(value)) > LONGEST_M:
        raise ValueError
    return number


def _angle(value: Any) -> float:
    if abs(number := _number(value)) > 2 * math.pi + 1e-6:
        raise ValueError
    return number


def _microseconds(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.strip().isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]


def _polygons(value: Any) -> list:
    if isinstance(value, str):  # a cell of a CSV file
        value = json.loads(value)
    if not isinstance(value, list):
        raise ValueError
    polygons = [np.array(corners, np.float64) for corners in value]
    if any(polygon_problem(polygon) for polygon in polygons):
        raise ValueError
    return polygons


TEXT: Kind = ("a text", _text)
TRACK: Kind = (f"the name of an object, or empty where it is unknown, not one of {', '.join(NO_VALUE)}", _track)
NAME: Kind = ("a name without / and not beginning with a dot", _name)
PATH: Kind = ("a path relative to the root, without '..'", _path)
NUMBER: Kind = ("a finite number", _number)
ANGLE: Kind = ("an angle in radians, -2 pi to 2 pi", _angle)
SIDE: Kind = (f"meters, above 0 and up to {LONGEST_M:g}", _side)
POSITIVE: Kind = ("a number above 0", _positive)
TIME: Kind = ("a whole number of microseconds, 0 or more", _microseconds)
FLAG: Kind = ("true or false", _flag)
POLYGONS: Kind = (
    "a list of polygons of three corners (x, y) [m] or more, sides that do not cross; in CSV as JSON, such as "
    '"[[[0, 0], [50, 50], [50, -50]]]"',
    _polygons,
)


def read_rows(
    root: Path, stem: str, needed: Mapping[str, Kind], optional: Mapping[str, Kind], problems: list[str]
) -> tuple[list[tuple[int, Row]], Path | None]:
    """Read root/STEM.parquet or .csv.

    Args:
        needed, optional: column -> kind of its values. Missing or null values of optional columns are left out of a
            row. problems: gets a line for every faulty value.

    Returns:
        (number from 1, values) of the rows without faults, and the file. Without a file: no rows, None.

    Raises:
        DataError: when there are both files, or the file cannot be read or lacks a column.
    """
    files = [file for ending in (".parquet", ".csv") if (file := root / f"{stem}{ending}").is_file()]
    if len(files) > 1:
        raise DataError(f"{files[0]} and {files[1]}: there must be one of them; remove the other")
    if not files:
        return [], None
    rows, columns = _read(files[0])
    missing = [name for name in needed if name not in columns]
    unknown = [name for name in columns if name not in {*needed, *optional}]
    if missing or unknown:
        wrong = [f"column(s) {missing} missing"] * bool(missing) + [f"unknown column(s) {unknown}"] * bool(unknown)
        raise DataError(
            f"{files[0]}: {'; '.join(wrong)}; needed: {', '.join(needed)}; optional: {', '.join(optional) or 'none'}"
        )
    found = []
    for number, row in enumerate(rows, start=1):
        made: Row = {}
        bad = False
        if all(value in (None, "") for value in row.values()):
            problems.append(f"{files[0]}, row {number}: all its values are empty; remove the row")
            continue
        for name, (words, convert) in {**needed, **optional}.items():
            value = row.get(name)
            if name in optional and (value is None or value == ""):
                continue
            try:
                made[name] = convert(value)
            except (ValueError, TypeError, KeyError, RecursionError):
                problems.append(f"{files[0]}, row {number}: {name} {value!r} must be {words}")
                bad = True
        if not bad:
            found.append((number, made))
    return found, files[0]


def _read(file: Path) -> tuple[Sequence[Row], list[str]]:
    if file.suffix == ".csv":
        return read_csv(file, str(file))
    try:
        table = pq.read_table(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read ({error}); write it again") from error
    return table.to_pylist(), table.column_names
