"""Reads and writes the files of a click session: clicks as CSV, finished frames as JSON, a lock beside them."""

from __future__ import annotations

import csv
import getpass
import io
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.human_clicks import FRAMES, IGNORE, IGNORE_RADIUS_M, done_file, read_rows
from pdetr3d.data.storage.files import atomic_path
from pdetr3d.geometry.rigid import apply, chain, inverse
from pdetr3d.schema import DataError

COLUMNS = ("sample_token", "x", "y", "z", "class", "frame", "radius_m", "track_id")


@dataclass(frozen=True)
class Click:
    """A click on an object, or a region to ignore, in the LIDAR_TOP frame of its keyframe.

    Attributes:
        sample_token: of the keyframe. xyz_m: (x, y, z) [m].
        name: one of the index's classes, or IGNORE for a region. radius_m: of a region [m]; None for clicks.
        track_id: as in the file; clicks that are made on the page have "".
    """

    sample_token: str
    xyz_m: tuple[float, float, float]
    name: str
    radius_m: float | None = None
    track_id: str = ""


def read_clicks(file: Path, index: Index) -> list[Click]:
    """Read the clicks of a CSV file in its order, converted to LIDAR_TOP; none if the file does not exist.

    Raises:
        DataError: for bad rows (one message names all), and for columns that would be lost when the file is written.
    """
    if file.suffix.lower() != ".csv":
        raise DataError(f"--out {file}: clicks are written as CSV; name a file that ends with .csv")
    if not file.exists():
        return []
    rows = read_rows(file)
    surplus = sorted({name for row in rows for name in row} - set(COLUMNS))
    if surplus:
        raise DataError(
            f"--out {file}: column(s) {surplus} would be lost, known are {list(COLUMNS)}; name another file with --out"
        )
    found: list[Click] = []
    problems: list[str] = []
    for number, row in enumerate(rows, start=1):
        try:
            found.append(_click(row, index))
        except DataError as error:
            problems.append(f"  row {number}: {error}")
    if problems:
        raise DataError("\n".join([f"--out {file}: {len(problems)} of {len(rows)} rows are no clicks:", *problems]))
    return found


def _click(row: dict[str, Any], index: Index) -> Click:
    token, name, frame = row["sample_token"], row["class"], row["frame"]
    if token not in index:
        raise DataError(f"sample_token {token!r} is not in {index.path}")
    if name not in index.classes.names and name != IGNORE:
        raise DataError(f"class {name!r} is neither {IGNORE} nor a class here: {index.classes.allowed}")
    if frame not in FRAMES:
        raise DataError(f"frame {frame!r} is not allowed: {', '.join(FRAMES)}")
    try:
        xyz = np.array([float(row[axis]) for axis in "xyz"])
        radius = float(row.get("radius_m") or IGNORE_RADIUS_M) if name == IGNORE else None
    except (TypeError, ValueError) as error:
        raise DataError(f"x, y, z and radius_m must be numbers [m] ({error})") from error
    if not np.isfinite(xyz).all():
        raise DataError(f"x, y, z must be finite, got {xyz.tolist()}")
    if frame != "lidar":
        record = index.record(token)
        lidar2frame = record.lidar2ego if frame == "ego" else chain(record.lidar2ego, record.ego2global)
        xyz = apply(inverse(lidar2frame), xyz)
    x, y, z = xyz.tolist()
    return Click(token, (x, y, z), name, radius, row.get("track_id") or "")


def write_clicks(file: Path, clicks: list[Click]) -> None:
    """Replace the CSV file atomically; numbers are written with all their digits."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for click in clicks:
        radius = "" if click.radius_m is None else repr(click.radius_m)
        place = (repr(value) for value in click.xyz_m)
        writer.writerow([click.sample_token, *place, click.name, "lidar", radius, click.track_id])
    _replace(file, text.getvalue())


def write_done(file: Path, done: list[str], empty: list[str]) -> None:
    """Replace FILE.done.json atomically.

    Args:
        file: the CSV file of the clicks. done: tokens of finished frames with clicks. empty: of those without.
    """
    _replace(done_file(file), json.dumps({"done": done, "empty": empty}, indent=1) + "\n")


def _replace(file: Path, text: str) -> None:
    with atomic_path(file) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextmanager
def only_annotator(file: Path) -> Iterator[None]:
    """Hold the click file for this process. The system releases the lock when the process ends, however it ends.

    Raises:
        DataError: when another process holds the file; the message names the user and the time.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    holder = file.with_name(f".{file.name}.annotator")
    try:
        with FileLock(_lock(file), timeout=0):
            since = time.strftime("%Y-%m-%d %H:%M")
            _replace(holder, f"{getpass.getuser()} on {socket.gethostname()}, process {os.getpid()}, since {since}")
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
    except Timeout as error:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise DataError(
            f"--out {file}: is being clicked by {who}; two annotators cannot share a file: give each an --out of their "
            "own (and a split of their own), or wait until the other has ended"
        ) from error


def refuse_second(file: Path) -> None:
    """Refuse a click file that another process holds; writes nothing if no process has ever held it.

    Raises:
        DataError: as ``only_annotator``.
    """
    if _lock(file).exists():
        with only_annotator(file):
            pass


def _lock(file: Path) -> Path:
    return file.with_name(f".{file.name}.lock")
