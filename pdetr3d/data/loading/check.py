"""Checks every file that a run will read before training begins, so that a broken file does not stop it hours later.

With ``data.on_error=skip`` the samples that read a broken file are left out instead (``data/loading/skipped.py``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pdetr3d.config import DataConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.loading.load import check_header, decode_image
from pdetr3d.data.storage.files import atomic_path
from pdetr3d.data.storage.points import check_lidar_size, check_points, read_file
from pdetr3d.json_files import read_json
from pdetr3d.progress import progress
from pdetr3d.schema import CameraRecord, DataError, SampleRecord
from pdetr3d.words import listed

MEMORY = "files_checked.json"  # beside the index: the arguments of a check without problems; a rerun skips it
SWEEPS_READ = 20_000  # up to so many sweep files are read whole; of more, only the sizes are checked
SEEN = 50  # keyframes, spread over the dataset, whose images are looked at when it is indexed
IMAGES_DECODED = 5_000  # up to so many images are decoded; of more, only header and end marker are checked
THREADS = 16  # the threads mostly wait for the disk, or run libraries that release the GIL
CHUNK = 64  # files per task

# (file, check, argument): the check raises DataError, or returns None or the number of points that are left out.
Job = tuple[str, Callable[[Any], int | None], Any]


@dataclass(frozen=True)
class Checked:
    """The result of checking files.

    Attributes:
        problems: path -> problem, of the files that cannot be used. files: number of checked files. points_left_out:
            path of a LiDAR file -> number of points that are left out because they are not finite.
    """

    problems: dict[str, str]
    files: int
    points_left_out: dict[str, int]


def check_files(index: Index, splits: list[str], num_sweeps: int, cameras: bool) -> None:
    """Check the files of ``splits``. A check that found no problem is recorded beside the index and not repeated.

    LiDAR files of keyframes are read whole with the loader's reader, and their numbers are checked (``check_points``).
    Sweeps of the index must exist and hold whole points; up to SWEEPS_READ are read whole, too. (The index names no
    sweep that was missing when it was made.) Images must exist, have the size of the tables and be complete; up to
    IMAGES_DECODED are decoded. The number of points that are not finite is printed.

    Args:
        index: names the files. splits: of the run. num_sweeps: ``data.num_sweeps``. cameras: whether to check images.

    Raises:
        DataError: lists the first broken files with their problems; also when a split has no samples.
    """
    asked = {
        "index": index.digest,
        "dataroot": str(index.dataroot),
        "splits": sorted(set(splits)),
        "num_sweeps": num_sweeps,
        "cameras": cameras,
    }
    memory = index.path.with_name(MEMORY)
    with suppress(DataError):  # an unreadable file counts as none
        if read_json(memory, "") == asked:
            return
    checked = broken_files(index, splits, num_sweeps, cameras)
    if checked.problems:
        raise DataError(
            f"{len(checked.problems)} of {checked.files} data files under {index.dataroot} cannot be used:"
            f"{listed(sorted(checked.problems.values()))}\nEvery file that the tables name must be whole; copy or "
            "unpack these again and rerun the same command, or leave out what reads them: data.on_error=skip"
        )
    say_points_left_out(checked)
    with atomic_path(memory) as temporary:
        temporary.write_text(json.dumps(asked, indent=1))


def broken_files(index: Index, splits: list[str], num_sweeps: int, cameras: bool, *, whole: bool = False) -> Checked:
    """Check files like ``check_files``, but return the result.

    Args:
        index, splits, num_sweeps, cameras: as for ``check_files``. whole: read every sweep and decode every image,
            however many there are (nuScenes: 300,000 and 200,000). Then a file without a problem can be loaded later.
    """
    return _run(_jobs(index, splits, num_sweeps, cameras, whole))


def broken_lidar(index: Index, most_bytes: int) -> Checked:
    """Read LiDAR files of an index, keyframes first, up to ``most_bytes`` in all, and check their numbers
    (``check_points``)."""
    columns = [index.table["lidar_path"], pc.list_flatten(index.table["sweep_path"])]
    names = dict.fromkeys(name for column in columns for name in pc.unique(column).to_pylist())
    jobs: list[Job] = []
    for name in names:
        path = index.dataroot / name
        most_bytes -= path.stat().st_size if path.is_file() else 0
        if most_bytes < 0:
            break
        jobs.append((str(path), partial(check_points, data=index.reading), path))
    return _run(jobs)


def broken_images(index: Index, whole: bool = False) -> Checked:
    """Check header, size and end marker of the images of up to SEEN keyframes; with ``whole`` decode those of all."""
    step = 1 if whole else max(1, len(index) // SEEN)
    tokens = index.table["sample_token"].to_pylist()[::step][: None if whole else SEEN]
    found = [camera for token in tokens for camera in index.record(token).cameras if camera is not None]
    images = {camera.path: camera for camera in found}
    return _run([(path, partial(check_image, decode=whole), camera) for path, camera in images.items()])


def say_points_left_out(checked: Checked) -> None:
    """Print the number of points that are left out, if there are any."""
    lost = checked.points_left_out
    if lost:
        print(
            f"{sum(lost.values())} points in {len(lost)} LiDAR files have a number that is not finite (NaN, inf) and "
            f"are left out; most of them, {max(lost.values())}, in {max(lost, key=lambda path: lost[path])}"
        )


def check_image(camera: CameraRecord, decode: bool) -> None:
    """Raise DataError unless the JPEG or PNG exists, has the size of the tables and is complete.

    Args:
        camera: the image's record. decode: decode it (``check_image_data``); else only check header and end marker.
    """
    if decode:
        check_image_data(camera, read_file(Path(camera.path), "image"))
    else:
        check_header(camera)


def check_image_data(camera: CameraRecord, image: bytes) -> None:
    """Raise DataError unless the content ``image`` of a camera's file is complete and has the size of the tables.

    The image is decoded by the loader's code at a small size, which still reads all of its data.
    """
    small = np.empty((-(-camera.height_px // 8), -(-camera.width_px // 8), 3), np.uint8)
    decode_image(camera, image, small, strict=True)


def _check_size(path: Path, data: DataConfig) -> None:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot read LiDAR file ({error.strerror}); copy the file again") from error
    check_lidar_size(path, size_bytes, data)


def files_of(record: SampleRecord, num_sweeps: int, cameras: bool) -> list[str]:
    """The files that ``load_sample`` reads for a sample, LiDAR files first."""
    paths = [record.lidar_path, *(sweep.path for sweep in record.sweeps[: num_sweeps - 1])]
    return paths + [camera.path for camera in record.cameras if camera is not None and cameras]


def _jobs(index: Index, splits: list[str], num_sweeps: int, cameras: bool, whole: bool) -> list[Job]:
    """One check per file, also for a file that several samples or splits read."""
    tokens = list(dict.fromkeys(token for split in splits for token in index.tokens(split)))
    keyframes: dict[str, None] = {}
    sweeps: dict[str, None] = {}
    images: dict[str, CameraRecord] = {}
    for token in tokens:
        record = index.record(token)
        keyframes[record.lidar_path] = None
        sweeps |= {sweep.path: None for sweep in record.sweeps[: num_sweeps - 1]}
        images |= {camera.path: camera for camera in record.cameras if camera is not None and cameras}
    sweeps = {path: None for path in sweeps if path not in keyframes}
    points = partial(check_points, data=index.reading)
    size = partial(_check_size, data=index.reading)
    decode = whole or len(images) <= IMAGES_DECODED
    jobs: list[Job] = [(path, points, Path(path)) for path in keyframes]
    jobs += [(path, points if whole or len(sweeps) <= SWEEPS_READ else size, Path(path)) for path in sweeps]
    jobs += [(path, lambda camera: check_image(camera, decode), camera) for path, camera in images.items()]
    return jobs


def _run(jobs: Sequence[Job]) -> Checked:
    chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    checked = Checked({}, len(jobs), {})
    threads = min(THREADS, 4 * (os.cpu_count() or 1))
    with progress("checking", len(jobs), "files") as advance, ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(_look_at, chunk): len(chunk) for chunk in chunks}
        try:
            for future in as_completed(futures):
                problems, lost = future.result()
                checked.problems.update(problems)
                checked.points_left_out.update(lost)
                advance(futures[future])
        except BaseException:  # Ctrl-C ends after the current chunks instead of after all of them
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return checked


def _look_at(jobs: Sequence[Job]) -> tuple[dict[str, str], dict[str, int]]:
    """Run checks: path -> message of each failed one; path -> number of points that are left out, if any are."""
    problems, lost = {}, {}
    for path, check, argument in jobs:
        try:
            found = check(argument)
        except DataError as error:
            problems[path] = str(error)
        else:
            if found:
                lost[path] = found
    return problems, lost
