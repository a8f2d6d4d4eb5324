"""Reads the poses of LiDAR files (CSV), and finds each file's earlier sweeps with their motion and age."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdetr3d.data.storage.csv_rows import plain_float, read_csv
from pdetr3d.geometry.rigid import chain, inverse, rigid
from pdetr3d.schema import DataError, SweepRecord
from pdetr3d.tables.times import FASTEST_M_S, LEAST_US

COLUMNS = ("file", "timestamp_us", "x", "y", "z", "qw", "qx", "qy", "qz")  # the column sequence is optional
MAX_GAP_S = 1.0  # a longer time between two sweeps begins a new recording


@dataclass(frozen=True)
class Posed:
    """One row of the file of poses.

    Attributes:
        file: absolute. timestamp_us: of the sweep. lidar2world: (4, 4), the LiDAR's pose in any fixed frame.
        sequence: name of the recording; "" if the file names none.
    """

    file: Path
    timestamp_us: int
    lidar2world: NDArray[np.float64]
    sequence: str


def read_poses(file: Path) -> list[Posed]:
    """Read a file of poses.

    Columns: ``file`` (absolute, or relative to the folder of the poses), ``timestamp_us`` (integer), ``x, y, z`` [m]
    and ``qw, qx, qy, qz`` (LiDAR -> any fixed frame), optionally ``sequence`` (name of the recording).

    Raises:
        DataError: when the file cannot be read, lacks a column, or has bad rows; one message names all rows (from 1).
    """
    rows, _ = read_csv(file, f"--poses {file}", COLUMNS)
    posed, problems, seen = [], list[str](), dict[tuple[str, int] | Path, int]()
    for number, row in enumerate(rows, start=1):
        try:
            pose = _posed(row, file.parent)
        except (TypeError, ValueError) as error:
            problems.append(f"  row {number}: {error}")
            continue
        keys: dict[str, tuple[str, int] | Path] = {
            f"file {row['file']}": pose.file,
            f"timestamp_us {pose.timestamp_us}": (pose.sequence, pose.timestamp_us),
        }
        problems += [f"  row {number}: {what} as in row {seen[key]}" for what, key in keys.items() if key in seen]
        seen |= dict.fromkeys(keys.values(), number)
        posed.append(pose)
    if problems:
        count = len({problem.split(":")[0] for problem in problems})
        raise DataError("\n".join([f"--poses {file}: {count} of {len(rows)} rows are bad:", *problems]))
    return posed


def _posed(row: dict[str, str], folder: Path) -> Posed:
    """Parse a row; raises ValueError or TypeError with the reason when it is bad."""
    numbers = [plain_float(row[name]) for name in COLUMNS[2:]]
    time = str(row["timestamp_us"])
    if not (time.isascii() and time.strip().isdecimal()):
        raise ValueError(f"timestamp_us {row['timestamp_us']!r} is not a whole number of microseconds")
    rotation = np.array(numbers[3:])
    if not 0.99 < np.linalg.norm(rotation) < 1.01:
        raise ValueError(f"qw, qx, qy, qz {numbers[3:]} has not length 1")
    pose = rigid(rotation, np.array(numbers[:3]))
    return Posed((folder / row["file"]).resolve(), int(row["timestamp_us"]), pose, row.get("sequence") or "")


def earlier_sweeps(posed: list[Posed], num_sweeps: int, files: list[Path], source: Path) -> list[list[SweepRecord]]:
    """Find up to ``num_sweeps - 1`` earlier sweeps of each file, newest first, with their motion and age.

    These are the files before it in its sequence, up to a gap longer than MAX_GAP_S.

    Args:
        posed: from ``read_poses``. files: of the frames. source: the file of poses, for messages.

    Raises:
        DataError: names a file without a row, or a sweep that does not exist; for times and motions of other units.
    """
    recordings: dict[str, list[Posed]] = defaultdict(list)
    for pose in sorted(posed, key=lambda pose: pose.timestamp_us):
        recordings[pose.sequence].append(pose)
    place = {pose.file: (poses, number) for poses in recordings.values() for number, pose in enumerate(poses)}
    without = [file for file in files if file.resolve() not in place]
    if without:
        raise DataError(
            f"--poses {source}: no row for {len(without)} of {len(files)} files, e.g. {without[0]}; column file is "
            f"relative to {source.parent}, or absolute: add the rows, or leave out --poses"
        )
    sweeps = [_before(*place[file.resolve()], num_sweeps) for file in files]
    named = dict.fromkeys(sweep.path for mine in sweeps for sweep in mine)
    gone = [path for path in named if not Path(path).is_file()]
    if gone:
        raise DataError(
            f"--poses {source}: {len(gone)} files that are earlier sweeps do not exist, e.g. {gone[0]}; put them in "
            "place, or remove their rows"
        )
    if num_sweeps > 1:
        _refuse_other_units(list(recordings.values()), source)
    return sweeps


def _refuse_other_units(recordings: list[list[Posed]], source: Path) -> None:
    """Raise DataError for times and places of ``recordings``, each sorted by time, that no scanner on a car has."""
    pairs = [pair for poses in recordings for pair in pairwise(poses)]
    if not pairs:
        return
    gap_us = np.array([after.timestamp_us - before.timestamp_us for before, after in pairs])
    way_m = np.array([np.linalg.norm((b.lidar2world - a.lidar2world)[:3, 3]) for a, b in pairs])
    number = int(gap_us.argmin())
    least, files = int(gap_us[number]), " and ".join(pose.file.name for pose in pairs[number])
    if least < LEAST_US:
        raise DataError(
            f"--poses {source}: {files} are {least} us apart in time, but scans of a LiDAR are {LEAST_US} us apart or "
            "more: write timestamp_us in microseconds, and name each recording in the column sequence"
        )
    if least > MAX_GAP_S * 1e6:
        raise DataError(
            f"--poses {source}: no two files of a recording are within {MAX_GAP_S:g} s, the nearest, {files}, are "
            f"{least * 1e-6:g} s apart, so that no earlier file would be accumulated: write timestamp_us in "
            "microseconds (are these nanoseconds?), or leave out --poses"
        )
    near = gap_us <= MAX_GAP_S * 1e6
    speed_m_s = float(np.median(way_m[near] / (1e-6 * gap_us[near])))
    if speed_m_s > FASTEST_M_S:
        raise DataError(
            f"--poses {source}: the LiDAR moves at {speed_m_s:.0f} m/s (median), over {FASTEST_M_S:g} m/s: write x, y, "
            "z in meters and timestamp_us in microseconds, and name each recording in the column sequence"
        )


def _before(poses: list[Posed], number: int, num_sweeps: int) -> list[SweepRecord]:
    """The earlier sweeps of row ``number`` of a recording, newest first."""
    key, sweeps = poses[number], list[SweepRecord]()
    for place in range(number - 1, max(-1, number - num_sweeps), -1):
        if poses[place + 1].timestamp_us - poses[place].timestamp_us > MAX_GAP_S * 1e6:
            break
        pose = poses[place]
        sweep2lidar = chain(pose.lidar2world, inverse(key.lidar2world))
        sweeps.append(SweepRecord(str(pose.file), sweep2lidar, 1e-6 * (key.timestamp_us - pose.timestamp_us)))
    return sweeps
