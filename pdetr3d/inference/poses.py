"""Reads the poses of LiDAR files (CSV), and finds each file's earlier sweeps with their motion and age."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdetr3d.data.storage.csv_rows import plain_float, read_csv
from pdetr3d.geometry.rigid import chain, inverse, rigid
from pdetr3d.schema import DataError, SweepRecord

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
        DataError: names a file without a row, or a sweep that does not exist.
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
    return sweeps


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
