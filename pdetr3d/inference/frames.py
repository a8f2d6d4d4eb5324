"""Lists and loads the frames to predict: users' own LiDAR files, or the samples of an indexed split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pdetr3d.config import Config
from pdetr3d.data.index.index import Index
from pdetr3d.data.loading.load import load_sample, place_sweep
from pdetr3d.data.loading.records import eval_records
from pdetr3d.finished.deploy.sweeps import to_sample
from pdetr3d.geometry.boxes import in_range
from pdetr3d.inference.clouds import FULL_SCALE, SUFFIXES, CloudReader, suffix_of
from pdetr3d.inference.poses import earlier_sweeps, read_poses
from pdetr3d.inference.student import unpacked
from pdetr3d.schema import DataError, Sample, SampleRecord, SweepRecord


@dataclass(frozen=True)
class Loaded:
    """A loaded frame.

    Attributes:
        sample: the decoded frame.
        dropped: number of its files' points that were left out because a value was not finite.
        intensity: the largest intensity [0..255] of the other points.
        near: number of points in the student's range.
        steep: whether a file's points extend further along z than along x or y, as those of no scan of a street do.
        ages: number of different ages of a file's points, i.e. of sweeps in it.
    """

    sample: Sample
    dropped: int
    intensity: float
    near: int
    steep: bool = False
    ages: int = 1


@dataclass(frozen=True)
class FileFrame:
    """A LiDAR file with its earlier sweeps.

    Attributes:
        name: the frame's name in the output. file: the keyframe. sweeps: earlier files, with their motion and age.
        reader: reads all these files.
    """

    name: str
    file: Path
    sweeps: tuple[SweepRecord, ...]
    reader: CloudReader

    def key(self) -> tuple[object, ...]:
        """The facts that its boxes depend on: names, sizes and times of its files, their motion, the reader."""
        sweeps = [(_stat(Path(s.path)), s.sweep2lidar.tolist(), s.dt_s) for s in self.sweeps]
        return self.name, _stat(self.file), sweeps, self.reader

    def load(self, config: Config) -> Loaded:
        """Read and accumulate the points as in training; a file with ages is not accumulated further.

        Args:
            config: the student's.

        Raises:
            DataError: for a broken file, when a file with ages has earlier sweeps or is one, or when no point lies in
                the student's range.
        """
        own = self.reader.read(self.file)
        parts, dropped = [own.points if own.aged else place_sweep(own.points, None, 0.0)], own.dropped
        for sweep in self.sweeps:
            cloud = self.reader.read(Path(sweep.path))
            if own.aged or cloud.aged:
                file = self.file if own.aged else sweep.path
                raise DataError(f"{file}: has ages, so it is accumulated already: leave out --poses")
            parts.append(place_sweep(cloud.points, sweep.sweep2lidar, sweep.dt_s))
            dropped += cloud.dropped
        points = np.concatenate(parts)
        near = int(in_range(points, config.model.range_m).sum())
        if not near:
            low, high = config.model.range_m[:3], config.model.range_m[3:]
            middle = np.median(own.points[:, :3], 0).tolist()
            raise DataError(
                f"{self.file}: none of its {len(own.points)} points lies in the student's range, x, y, z from "
                f"{_place(low)} to {_place(high)} m; their median is {_place(middle)} m: write them in the frame of "
                "the LiDAR itself (x right, y forward, z up), not of a map or the world; see --columns for their order"
            )
        sample = to_sample({"points": points}, self.name, config.data)
        low, high = np.percentile(own.points[:, :3], (5, 95), axis=0)
        x, y, z = (high - low).tolist()
        ages = len(np.unique(own.points[:, 4]))
        return Loaded(sample, dropped, float(points[:, 3].max(initial=0)), near, z > min(x, y), ages)


@dataclass(frozen=True)
class RecordFrame:
    """A sample of an index; its token is the frame's name."""

    record: SampleRecord

    @property
    def name(self) -> str:
        """The sample's token."""
        return self.record.sample_token

    def load(self, config: Config) -> Loaded:
        """Load the sample as evaluation does, without images.

        Raises:
            DataError: as ``load_sample``.
        """
        sample = load_sample(self.record, unpacked(config), cameras=False)
        near = int(in_range(sample.points, config.model.range_m).sum())
        return Loaded(sample, 0, float(sample.points[:, 3].max(initial=0)), near)


Frame = FileFrame | RecordFrame


class SplitFrames(Sequence[RecordFrame]):
    """The samples of a split, read from the index on access.

    Args:
        file: the index. split: name of a split in it.

    Raises:
        DataError: when there is no such index or split.
    """

    def __init__(self, file: Path, split: str) -> None:
        index = Index.open(file)
        self.digest, self.split = index.digest, split
        self.records = eval_records(index, split)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        if isinstance(place, slice):
            return [RecordFrame(self.records[number]) for number in range(*place.indices(len(self)))]
        return RecordFrame(self.records[place])


def file_frames(lidar: Sequence[Path], reader: CloudReader, poses: Path | None, num_sweeps: int) -> list[FileFrame]:
    """List the frames of files and folders (with their subfolders, sorted by name).

    A frame's name is the file's path as given; for a single folder it is relative to this folder.

    Args:
        lidar: files and folders. reader: for all files.
        poses: a file of poses (``poses.py``), by which each frame gets its earlier sweeps. None: no earlier sweeps.
        num_sweeps: number of sweeps of a frame at most, with the keyframe.

    Raises:
        DataError: when a path does not exist, is no LiDAR file, or comes twice, when a folder has no LiDAR file, or as
            ``read_poses`` and ``earlier_sweeps``.
    """
    found = [file for path in lidar for file in _files(path)]
    twice = {file for file in found if found.count(file) > 1} if len(set(found)) < len(found) else set()
    if twice:
        raise DataError(f"--lidar: {min(twice)} is named twice; name each file, or the folder that it is in, once")
    base = lidar[0] if len(lidar) == 1 and lidar[0].is_dir() else Path()
    names = [(file.relative_to(base) if base != Path() else file).as_posix() for file in found]
    sweeps: list[list[SweepRecord]] = [[] for _ in found]
    if poses is not None:
        sweeps = earlier_sweeps(read_poses(poses), num_sweeps, found, poses)
    return [FileFrame(n, f.absolute(), tuple(s), reader) for n, f, s in zip(names, found, sweeps, strict=True)]


def _place(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"


def _stat(file: Path) -> tuple[str, int, int]:
    stat = file.stat()
    return str(file), stat.st_size, stat.st_mtime_ns


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        suffix_of(path)
        yield path
        return
    if not path.is_dir():
        raise DataError(
            f"--lidar {path}: no such file or folder; allowed are {', '.join(SUFFIXES)}, and folders of them"
        )
    inside = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    files = [file for file in inside if file.name.lower().endswith(SUFFIXES)]
    if not files:
        others = f"{len(inside)} files of other kinds" if inside else "nothing"
        raise DataError(f"--lidar {path}: the folder holds {others}; allowed are {', '.join(SUFFIXES)}")
    yield from files


@dataclass(frozen=True)
class Asked:
    """The frames to predict, as options of a command line: LiDAR files, or a split of an index.

    Attributes:
        lidar: files and folders (--lidar). columns, intensity_max: see ``CloudReader``. poses: a file of poses.
        index: the index, for a split. split: its name.
    """

    lidar: Sequence[Path]
    columns: str | None = None
    intensity_max: float = FULL_SCALE
    poses: Path | None = None
    index: Path | None = None
    split: str | None = None

    def frames(self, num_sweeps: int) -> Sequence[FileFrame] | SplitFrames:
        """List the frames.

        Raises:
            DataError: when the options contradict each other or name nothing, or files cannot be found.
        """
        if bool(self.lidar) == (self.index is not None):
            raise DataError("name what to predict: either --lidar FOLDER (or files), or --index FILE with --split NAME")
        if self.index is None:
            if self.split is not None:
                raise DataError(f"--split {self.split} goes with --index; LiDAR files have no splits")
            reader = CloudReader.of(self.columns, self.intensity_max)
            return file_frames(self.lidar, reader, self.poses, num_sweeps)
        if self.columns is not None or self.poses is not None:
            raise DataError("--columns and --poses go with --lidar: the tables of an index say what its files are")
        if self.split is None:
            raise DataError(f"--index {self.index}: name the split, too: --split NAME")
        return SplitFrames(self.index, self.split)
