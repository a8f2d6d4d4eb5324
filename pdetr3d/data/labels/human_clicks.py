"""Reads people's clicks from CSV, JSON or Parquet into the LIDAR_TOP frame, and reports all bad rows at once.

``people_manifest.py`` makes a label manifest from them.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.manifest import CLICK_DIGITS, click_id
from pdetr3d.data.storage.csv_rows import FORM, NO_VALUE, header_problem, open_text, plain_float
from pdetr3d.formats import no_key_twice
from pdetr3d.geometry.rigid import apply, chain, inverse
from pdetr3d.schema import DataError
from pdetr3d.words import close_to, first

COLUMNS = ("sample_token", "x", "y", "z", "class", "frame")
OPTIONAL = ("track_id", "radius_m")
FRAMES = ("global", "ego", "lidar")
IGNORE = "ignore"  # instead of a class: the annotator could not identify the object
IGNORE_RADIUS_M = 2.0  # the radius of a region whose row has no radius_m
SURPLUS = "\0surplus"  # the key under which csv.DictReader keeps values beyond the header
MAX_DISTANCE_M = 200.0  # annotations are never so far from the LiDAR; the frame of a click beyond is wrong
MOST_LINES = 100  # about bad rows, in one message
DONE = ".done.json"  # the file beside the clicks that lists finished frames has this ending


@dataclass(frozen=True)
class PeoplesClicks:
    """People's clicks in a split.

    Attributes:
        clicks: rows of CLICKS_SCHEMA. ignore: rows of IGNORE_SCHEMA. row_of: click_id -> row of the file, from 1.
        done: tokens of the finished samples: all their objects are clicked, or they have no object. None if the file
            FILE.done.json, which lists them, does not exist. empty: the samples of ``done`` that have no object.
    """

    clicks: list[dict[str, Any]]
    ignore: list[dict[str, Any]]
    row_of: dict[str, int]
    done: frozenset[str] | None
    empty: frozenset[str]


def read_clicks(index: Index, split: str | None, file: Path) -> PeoplesClicks:
    """Read the clicks of a file, and the finished samples of ``FILE.done.json`` beside it, if that exists.

    Args:
        split: the split whose samples may be clicked; None allows all samples of the index.
        file: .csv (with a header line), .json (a list of objects) or .parquet; columns sample_token, x, y, z [m],
            class, frame (global | ego | lidar, at the keyframe's LiDAR time) and optionally track_id, radius_m. A row
            of class "ignore" is a region of ``radius_m`` [m] (default IGNORE_RADIUS_M) in which nobody could tell the
            objects.

    A track_id names one object of a scene: it has one class, and at most one click per sample.

    Raises:
        DataError: lists the bad rows (number from 1, value, reason) in one message of at most MOST_LINES lines; also
            for a file without clicks and regions if ``.done.json`` beside it names no empty sample.
    """
    rows = read_rows(Path(file))
    tokens = set(index.table.column("sample_token").to_pylist() if split is None else index.tokens(split))
    problems: list[str] = []
    clicks: list[dict[str, Any]] = []
    ignore: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        reasons = _reasons(row, index, tokens, split)
        if not reasons:
            click = _click(row, index)
            if np.linalg.norm([click["x"], click["y"], click["z"]]) > MAX_DISTANCE_M:
                where = ", ".join(f"{click[axis]:.1f}" for axis in "xyz")
                reasons = [
                    f"frame {row['frame']!r}: the click is at ({where}) m from the LiDAR, over {MAX_DISTANCE_M:g} m"
                    + (_nearer(row, index) if len(problems) < MOST_LINES else "")
                ]
            elif click["click_id"] in seen:
                reasons = [f"same click as row {seen[click['click_id']]}"]
            else:
                seen[click["click_id"]] = number
                if row["class"] == IGNORE:
                    ignore.append({name: click[name] for name in ("sample_token", *"xyz")} | {"radius_m": _radius(row)})
                else:
                    clicks.append(click)
        problems += [f"  row {number}: {reason}" for reason in reasons]
    problems += _track_problems(clicks, seen, index)
    if problems:
        count = len({problem.split(":")[0] for problem in problems})
        heading = f"{file}: {count} of {len(rows)} rows are bad, nothing was written:"
        raise DataError("\n".join([heading, *first(problems, MOST_LINES)]))
    marked = read_done(Path(file), index)
    clicked, bare = marked or ((), ())
    done = None if marked is None else frozenset((*clicked, *bare)) & tokens  # the file may also list other splits
    empty = frozenset(bare) & tokens
    if not (clicks or ignore or empty):
        raise DataError(
            f"{file}: holds no click, and no sample is marked as empty in {done_file(Path(file)).name}; nothing was "
            f"written. A row is one click: {', '.join(COLUMNS)}"
        )
    return PeoplesClicks(clicks, ignore, seen, done, empty)


def done_file(file: Path) -> Path:
    """The path of the file beside a file of clicks that lists the finished samples."""
    return file.with_name(file.name + DONE)


def read_done(file: Path, index: Index) -> tuple[list[str], list[str]] | None:
    """The tokens of the finished samples with clicks, and of those without, from FILE.done.json; None without a file.

    Args:
        file: the file of the clicks. index: of the samples.

    Raises:
        DataError: when FILE.done.json has another form, or names samples that are not in the index.
    """
    beside = done_file(file)
    if not beside.exists():
        return None
    try:
        found = json.loads(beside.read_text(encoding="utf-8"), object_pairs_hook=no_key_twice)
        if unknown := sorted(set(found) - {"done", "empty"}):
            raise ValueError(f"has key(s) {unknown}")
        done, empty = (found.get(key, []) for key in ("done", "empty"))
        if not (isinstance(done, list) and isinstance(empty, list)):
            raise ValueError("its values are lists")
        if not all(isinstance(token, str) for token in (*done, *empty)):
            raise ValueError("tokens are texts")
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(
            f'{beside}: must be {{"done": [sample tokens], "empty": [sample tokens]}} ({error}); correct or remove it'
        ) from error
    named = dict.fromkeys((*done, *empty))
    if strange := [token for token in named if token not in index]:
        raise DataError(
            f"{beside}: {len(strange)} of its {len(named)} samples are not in the index, e.g. {strange[0]!r}; correct "
            "them, or remove the file if it is of another dataset"
        )
    return done, empty


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The unchecked rows of a click file (CSV values are strings).

    Raises:
        DataError: when the file is missing, of another kind, unreadable, or lacks a column.
    """
    if not file.is_file():
        raise DataError(
            f"{file}: no such click file; name a .csv, .json or .parquet of clicks (pdetr3d click --out makes one)"
        )
    kind = file.suffix.lower()
    if kind not in (".csv", ".json", ".parquet"):
        raise DataError(f"{file}: click files are .csv, .json or .parquet, got {kind or 'no suffix'!r}")
    try:
        rows, columns = _read(file, kind)
    except (ValueError, OSError, csv.Error, pa.ArrowException, RecursionError) as error:
        fix = FORM if kind == ".csv" else "write it again"
        raise DataError(f"{file}: not readable as {kind[1:].upper()} ({error}); {fix}") from error
    if kind == ".csv" and (problem := header_problem(columns)):
        raise DataError(f"{file}: {problem}")
    missing = [name for name in COLUMNS if name not in columns]
    if kind == ".csv" and columns and len(missing) == len(COLUMNS):
        raise DataError(
            f"{file}: its first line, {', '.join(columns)!r}, names no column of clicks; put a header above it: "
            f"{','.join(COLUMNS)}"
        )
    if missing:
        raise DataError(
            f"{file}: column(s) {missing} missing, has {sorted(columns)}; needed: {list(COLUMNS)}, "
            f"optional: {', '.join(OPTIONAL)}"
        )
    return rows


def _read(file: Path, kind: str) -> tuple[list[dict[str, Any]], list[str]]:
    if kind == ".csv":
        with open_text(file) as stream:
            reader = csv.DictReader(stream, restkey=SURPLUS)
            return list(reader), list(reader.fieldnames or ())
    if kind == ".parquet":
        table = pq.read_table(file)
        return table.to_pylist(), table.column_names
    rows = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=no_key_twice)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("must be a list of objects")
    # An empty list is readable, and ``read_clicks`` refuses it; a key missing from some rows is reported per row.
    return rows, list(COLUMNS) if not rows else list(dict.fromkeys(key for row in rows for key in row))


def _reasons(row: dict[str, Any], index: Index, tokens: set[str], split: str | None) -> list[str]:
    """The problems of a row, one sentence per bad value."""
    if all(value in (None, "") for value in row.values()):
        return ["all its values are empty; remove the row"]
    reasons = []
    token = str(row.get("sample_token"))
    if token not in tokens:
        where = f"is in the index but not in split {split!r}" if token in index else "is not in the index"
        reasons.append(f"sample_token {token!r} {where}")
    for axis in "xyz":
        if _number(row.get(axis)) is None:
            reasons.append(f"{axis} {row.get(axis)!r} is not a finite number [m]")
    name = row.get("class")
    if name == IGNORE:
        if row.get("radius_m") not in (None, "") and not 0 < (_number(row["radius_m"]) or 0) <= MAX_DISTANCE_M:
            reasons.append(f"radius_m {row['radius_m']!r} is not a number above 0 and up to {MAX_DISTANCE_M:g} [m]")
    elif name not in index.classes.names:
        hint = close_to(name, index.classes.names)
        reasons.append(f"class {name!r} is no class here{hint}: {index.classes.allowed}, or {IGNORE}")
    if row.get("frame") not in FRAMES:
        reasons.append(f"frame {row.get('frame')!r} is not allowed: {', '.join(FRAMES)}")
    if (track := row.get("track_id")) is not None and str(track).lower() in NO_VALUE:
        reasons.append(f"track_id {track!r} stands for a missing value; leave the value empty")
    if SURPLUS in row:
        reasons.append(f"{len(row[SURPLUS])} values more than the header has columns")
    return reasons


def _track_problems(clicks: list[dict[str, Any]], number_of: dict[str, int], index: Index) -> list[str]:
    """The problems of tracks: a track must have one class, and one click per sample."""
    problems: list[str] = []
    classes: dict[tuple[str, str], tuple[int, str]] = {}  # (scene, track) -> first row and its class
    places: dict[tuple[str, str], int] = {}  # (sample, track) -> first row
    for click in clicks:
        if (track := click["track_id"]) is None:
            continue
        number, token = number_of[click["click_id"]], click["sample_token"]
        first, name = classes.setdefault((index.value(token, "scene_token"), track), (number, click["class"]))
        if name != click["class"]:
            problems.append(f"  row {number}: track_id {track!r} is a {click['class']}, but a {name} in row {first}")
        if places.setdefault((token, track), number) != number:
            problems.append(f"  row {number}: track_id {track!r} is in row {places[token, track]} of the same sample")
    return problems


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = plain_float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if np.isfinite(number) else None


def _click(row: dict[str, Any], index: Index) -> dict[str, Any]:
    """Convert a checked row to a row of CLICKS_SCHEMA, in the LIDAR_TOP frame."""
    given = [float(row[axis]) for axis in "xyz"]
    # + 0.0: no -0.0, which would be another digest
    xyz = _place(row, row["frame"], index).round(CLICK_DIGITS) + 0.0
    track = row.get("track_id")
    return {
        "click_id": click_id("human", row["sample_token"], row["class"], row["frame"], *given),
        "sample_token": row["sample_token"],
        "class": row["class"],
        "x": xyz[0],
        "y": xyz[1],
        "z": xyz[2],
        "source": "human",
        "annotation_token": None,
        "track_id": None if track in (None, "") else str(track),
    }


def _nearer(row: dict[str, Any], index: Index) -> str:
    """The frame in which the place of a row would be nearest to the LiDAR, as words; "" if it is beyond the limit."""
    far = {frame: float(np.linalg.norm(_place(row, frame, index))) for frame in FRAMES}
    best = min(far, key=lambda frame: far[frame])
    return f"; in frame {best!r} it would be {far[best]:.1f} m from it" if far[best] <= MAX_DISTANCE_M else ""


def _radius(row: dict[str, Any]) -> float:
    return IGNORE_RADIUS_M if row.get("radius_m") in (None, "") else float(row["radius_m"])


def _place(row: dict[str, Any], frame: str, index: Index) -> NDArray[np.float64]:
    """(3,) the x, y, z of a row in the LIDAR_TOP frame [m], if they are in ``frame``."""
    given = np.array([float(row[axis]) for axis in "xyz"])
    return apply(_to_lidar(row["sample_token"], frame, index), given)


def _to_lidar(token: str, frame: str, index: Index) -> NDArray[np.float64]:
    record = index.record(token)
    if frame == "lidar":
        return np.eye(4)
    if frame == "ego":
        return inverse(record.lidar2ego)
    return inverse(chain(record.lidar2ego, record.ego2global))
