"""Reads users' own LiDAR files: .bin, .pcd.bin and .npy with named columns, and .pcd."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pypcd4 import PointCloud

from pdetr3d.data.storage.points import STRANGE, misfit, read_file, too_far, unit_of
from pdetr3d.finished.deploy.contract import refuse_no_ages
from pdetr3d.formats import format_of
from pdetr3d.schema import DataError

SUFFIXES = (".pcd.bin", ".bin", ".npy", ".pcd")
NEEDED = ("x", "y", "z", "intensity")
UNUSED = "-"
COLUMNS = (*NEEDED, "age", "ring", UNUSED)  # allowed names of columns; ring and "-" are not read
NUSCENES = ("x", "y", "z", "intensity", "ring")  # the columns of a .pcd.bin file unless --columns names others
MOST_AGES = 64  # ages are of sweeps, so a file has few different ones
FULL_SCALE = 255.0  # the highest intensity in the students' training data


@dataclass(frozen=True)
class Cloud:
    """The points of one file.

    Attributes:
        points: (P, 5) float32 x, y, z [m], intensity [0..255], age [s] (0 if the file has no ages), all finite.
        dropped: number of points that were left out because a value was not finite.
        aged: whether the file has ages, i.e. is accumulated from several sweeps already.
    """

    points: NDArray[np.float32]
    dropped: int
    aged: bool


@dataclass(frozen=True)
class CloudReader:
    """Reads LiDAR files with the same settings.

    Attributes:
        columns: of .bin, .pcd.bin and .npy files, in order. None: nuScenes' in .pcd.bin files, and unknown in others.
        intensity_max: the intensity in the files that becomes 255.
    """

    columns: tuple[str, ...] | None = None
    intensity_max: float = FULL_SCALE

    @staticmethod
    def of(columns: str | None, intensity_max: float) -> CloudReader:
        """Make a reader from options of a command line.

        Args:
            columns: names separated by commas, or None. intensity_max: as the attribute.

        Raises:
            DataError: for a name that is unknown, repeated or missing, or a scale that is no number > 0.
        """
        if not (np.isfinite(intensity_max) and intensity_max > 0):
            raise DataError(f"--intensity-max {intensity_max:g}: must be a number above 0 (nuScenes: 255, KITTI: 1)")
        if columns is None:
            return CloudReader(None, intensity_max)
        names = tuple(name.strip() for name in columns.split(","))
        unknown = [name for name in names if name not in COLUMNS]
        twice = sorted({name for name in names if name != UNUSED and names.count(name) > 1})
        missing = [name for name in NEEDED if name not in names]
        if unknown or twice or missing:
            wrong = [f"unknown {unknown}"] * bool(unknown) + [f"twice {twice}"] * bool(twice)
            wrong += [f"missing {missing}"] * bool(missing)
            raise DataError(
                f"--columns {columns}: {', '.join(wrong)}; name each column of the files in order, with commas between "
                f"them: x, y, z, intensity must be there, age [s], ring and {UNUSED!r} (not read) may be"
            )
        return CloudReader(names, intensity_max)

    def read(self, file: Path) -> Cloud:
        """Read the points of a file.

        Raises:
            DataError: when the file cannot be read, has other columns or implausible values, or has no point that is
                finite and not (0, 0, 0).
        """
        table, names = self._table(file)
        values = [table[:, names.index(name)] for name in NEEDED]
        aged = "age" in names
        age = table[:, names.index("age")] if aged else np.zeros(len(table))
        points = np.stack([*values, age], 1).astype(np.float32)
        finite = np.isfinite(points).all(1)
        if not len(points):
            raise DataError(f"{file}: holds no point; a scan has thousands: export the file again, or leave it out")
        if not finite.any():
            raise DataError(f"{file}: none of its {len(points)} points is finite; export the file again")
        points = points[finite]
        if not points[:, :3].any():
            raise DataError(
                f"{file}: all of its {len(points)} points lie at (0, 0, 0), in the sensor itself; export the file again"
            )
        if reason := too_far(points):
            raise DataError(
                f"{file}: these are not points in meters: {reason}; "
                + (f"they fit {unit}: write x, y, z in meters" if (unit := unit_of(points)) else "see --columns")
            )
        _refuse_implausible(file, points, names)
        bright = points[:, 3] > 1.001 * self.intensity_max  # 1.001: rounding
        if bright.sum() > STRANGE * len(points):
            raise DataError(
                f"{file}: {bright.mean():.0%} of the intensities are above {self.intensity_max:g}, the largest is "
                f"{points[:, 3].max():g}; --intensity-max {self.intensity_max:g} says that {self.intensity_max:g} is "
                "their full scale: name the files' own (1, 255, 65535, say)"
            )
        points[:, 3] *= np.float32(FULL_SCALE / self.intensity_max)
        return Cloud(points, int((~finite).sum()), aged)

    def _table(self, file: Path) -> tuple[NDArray, tuple[str, ...]]:
        """(P, C) numbers and the names of their columns."""
        kind = suffix_of(file)
        if kind == ".pcd":
            return _read_pcd(file, self.columns)
        names = self.columns or (NUSCENES if kind == ".pcd.bin" else None)
        if names is None:
            raise DataError(
                f"{file}: a {kind} file does not say what its columns are; name them with --columns, e.g. --columns "
                "x,y,z,intensity or x,y,z,intensity,ring"
            )
        return _read_npy(file, names) if kind == ".npy" else _read_bin(file, names), names


def suffix_of(file: Path) -> str:
    """The one of SUFFIXES with which a file's name ends.

    Raises:
        DataError: when it ends with none.
    """
    for suffix in SUFFIXES:
        if file.name.lower().endswith(suffix):
            return suffix
    raise DataError(f"{file}: not a LiDAR file; allowed are {', '.join(SUFFIXES)}")


def _read_bin(file: Path, names: tuple[str, ...]) -> NDArray[np.float32]:
    raw, width = read_file(file, "LiDAR"), len(names)
    if other := format_of(raw, numbers=True):
        raise DataError(f"{file}: this is {other}, not float32 numbers ({', '.join(names)}); name it by what it is")
    if not raw or len(raw) % (4 * width):
        state = "empty" if not raw else f"{len(raw)} bytes, not a multiple of {4 * width}"
        raise DataError(
            f"{file}: {state}; a point is {width} float32 ({', '.join(names)}): copy the file again if it was cut, or "
            "name other columns with --columns"
        )
    reason = misfit(raw, width, "float32", names[4:5] == ("ring",))
    if reason and not unit_of(np.frombuffer(raw, np.float32).reshape(-1, width)):
        raise DataError(
            f"{file}: these are not points of {width} float32 ({', '.join(names)}): {reason}; name what its columns "
            "are with --columns"
        )
    return np.frombuffer(raw, np.float32).reshape(-1, width)


def _read_npy(file: Path, names: Sequence[str]) -> NDArray:
    try:
        table = np.load(io.BytesIO(read_file(file, "LiDAR")), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{file}: no .npy file of numbers ({error}); write it again with numpy.save") from error
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "fiu" or table.shape[1:] != (len(names),):
        found = f"{table.dtype} of shape {table.shape}" if isinstance(table, np.ndarray) else "an archive"
        raise DataError(
            f"{file}: holds {found}; it must hold numbers of shape (points, {len(names)}): {', '.join(names)}; name "
            "other columns with --columns"
        )
    return table


def _read_pcd(file: Path, columns: Sequence[str] | None) -> tuple[NDArray, tuple[str, ...]]:
    if columns is not None:
        raise DataError(f"{file}: a .pcd file names its own columns; leave out --columns, or name other files")
    raw = read_file(file, "LiDAR")
    try:
        cloud = PointCloud.from_fileobj(io.BufferedReader(io.BytesIO(raw)))
        names = tuple(cloud.fields)
        missing = [name for name in NEEDED if name not in names]
        kept = tuple(name for name in (*NEEDED, "age") if name in names)
        table = np.zeros((0, 0)) if missing else cloud.numpy(kept)
    except Exception as error:  # pypcd4 raises ValueError, KeyError, IndexError, ... for broken files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{file}: cannot be read as PCD ({reason}); write the file again") from error
    if missing:
        raise DataError(f"{file}: has the fields {', '.join(names)}; {missing} missing: x, y, z, intensity are needed")
    if len(table) != cloud.metadata.points:
        raise DataError(
            f"{file}: holds {len(table)} points, but its header says POINTS {cloud.metadata.points}: it was cut or "
            "edited; copy it again"
        )
    return table, kept


def _refuse_implausible(file: Path, points: NDArray[np.float32], names: Sequence[str]) -> None:
    """Raise DataError when the values do not fit the names of their columns: negative intensities, impossible ages."""
    order = f"the columns are said to be {', '.join(names)}"
    low = points[:, 3].min(initial=0)
    if low < 0:
        raise DataError(
            f"{file}: intensity {low:g} of a point; it must be at least 0, and {order}: is this their order, and their "
            "number? See --columns"
        )
    try:
        refuse_no_ages(torch.from_numpy(points))
    except ValueError as error:
        least, most = points[:, 4].min(), points[:, 4].max()
        raise DataError(
            f"{file}: age goes from {least:g} to {most:g}; allowed are 0 to 10 s (keyframe time - sweep time), not "
            f"whole numbers alone; {order}: if it is the ring, call the column ring, which is not read"
        ) from error
    ages = len(np.unique(points[:, 4]))
    if ages > MOST_AGES:
        raise DataError(
            f"{file}: the points have {ages} different ages; allowed are {MOST_AGES}, because all points of a sweep "
            f"have one age (keyframe time - sweep time); {order}: if it is a point's time within the scan, call the "
            f"column {UNUSED}, which is not read (in a .pcd: rename the field)"
        )
