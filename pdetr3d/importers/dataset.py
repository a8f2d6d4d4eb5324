"""Writes a dataset in nuScenes format from ``Frame``s: tables, point files, images, regions, splits.

Everything is written under a temporary name first, so that the dataset appears completely or not at all.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pdetr3d.data.index.regions import write_regions
from pdetr3d.data.loading.check import check_image
from pdetr3d.data.storage.files import new_folder
from pdetr3d.geometry.boxes import points_in_each_box
from pdetr3d.importers.frame import Camera, Frame
from pdetr3d.importers.rows import TableRows, sample_token
from pdetr3d.progress import tracked
from pdetr3d.schema import CameraRecord, DataError
from pdetr3d.tables.times import LEAST_US, same_places
from pdetr3d.words import listed

log = logging.getLogger(__name__)
MAP_FILE = "maps/none.png"


def write_dataset(
    out: Path,
    version: str,
    frames: Sequence[Frame],
    splits: Mapping[str, Sequence[str]],
    facts: Mapping[str, Any],
    *,
    links: bool = False,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Write the dataset ``out``: ``samples/``, ``sweeps/``, ``maps/`` and the tables in ``version``/.

    Args:
        version: name of the tables' folder.
        frames: in any order; scenes are sorted by name, their frames by time.
        splits: name -> names of scenes.
        facts: JSON-safe, stored as ``version``/import.json.
        links: images become symbolic links instead of copies. (LiDAR files are always written, in nuScenes' layout.)
        extra: is called with the folder of the tables, to write further files.

    Raises:
        DataError: when files cannot be used (the message names the first ones, and nothing is left), or ``out`` exists.
    """
    ordered = sorted(frames, key=lambda frame: (frame.scene, frame.timestamp_us))
    refuse(_problems_of_times(ordered), "frames of one scene need timestamps of their own, in whole microseconds")
    _warn_of_doubles(ordered)
    with new_folder(Path(out)) as root:
        tables = root / version
        for folder in ("maps", version, *sorted({Path(name).parent.as_posix() for name in _files_of(ordered)})):
            (root / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / MAP_FILE), np.full((4, 4), 255, np.uint8))  # the devkit requires a map
        counts = _write_files(root, ordered, links)
        rows = TableRows(version, MAP_FILE)
        for frame, points in zip(ordered, counts, strict=True):
            rows.add(frame, points)
        for name, content in rows.finish().items():
            _write_json(tables / f"{name}.json", content)
        _write_json(tables / "splits.json", {name: sorted(scenes) for name, scenes in splits.items()})
        _write_json(tables / "import.json", facts)
        regions = {
            sample_token(version, frame.name): frame.regions for frame in ordered if frame.keyframe and frame.regions
        }
        if regions:
            write_regions(tables, regions)
        if extra is not None:
            extra(tables)


def _warn_of_doubles(frames: Sequence[Frame]) -> None:
    key = [(frame, same_places(frame.objects.category, frame.objects.center_m)) for frame in frames if frame.keyframe]
    found = [(frame, pairs[0]) for frame, pairs in key if pairs]
    if found:
        frame, (one, other) = found[0]
        log.warning(
            "frame %r: objects %d and %d (counted from 0) are both of category %s at %s m in LIDAR_TOP, and %d objects "
            "in all are such doubles: are boxes written twice? Each of them becomes an object",
            frame.name,
            one,
            other,
            frame.objects.category[one],
            np.round(frame.objects.center_m[one], 2).tolist(),
            sum(len(pairs) for _, pairs in key),
        )


def lidar_file(frame: Frame) -> str:
    """The path of a frame's point file within the dataset."""
    return f"{'samples' if frame.keyframe else 'sweeps'}/LIDAR_TOP/{frame.name}.pcd.bin"


def image_file(frame: Frame, camera: Camera) -> str:
    """The path of an image within the dataset."""
    suffix = camera.file.suffix.lower()
    return f"{'samples' if frame.keyframe else 'sweeps'}/{camera.channel}/{frame.name}{suffix}"


def _files_of(frames: Sequence[Frame]) -> list[str]:
    images = [image_file(frame, camera) for frame in frames for camera in frame.cameras]
    return [lidar_file(frame) for frame in frames] + images


def _write_files(root: Path, frames: Sequence[Frame], links: bool) -> list[NDArray[np.int64]]:
    """Write points and images; returns the number of points in each object (N,) of each frame."""

    def write(frame: Frame) -> tuple[NDArray[np.int64], list[str]]:
        problems, counted = [], np.zeros(0, np.int64)
        try:
            points = np.ascontiguousarray(frame.points(), np.float32)
            points.tofile(root / lidar_file(frame))
            found = points_in_each_box(points, frame.objects.center_m, frame.objects.size_m, frame.objects.yaw_rad)
            counted = np.array([len(inside) for inside in found], np.int64)
        except DataError as error:
            problems.append(str(error))
        for camera in frame.cameras:
            try:
                check_image(CameraRecord(str(camera.file), *camera.size_px, np.eye(4)), decode=True)
                target = root / image_file(frame, camera)
                if links:
                    target.symlink_to(camera.file.resolve())
                else:
                    shutil.copyfile(camera.file, target)
            except DataError as error:
                problems.append(str(error))
        return counted, problems

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            done = list(tracked(pool.map(write, frames), "importing", len(frames), "frames"))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    refuse([problem for _, problems in done for problem in problems], "copy these files again")
    return [counted for counted, _ in done]


def _problems_of_times(frames: Sequence[Frame]) -> list[str]:
    pairs = zip(frames, frames[1:], strict=False)
    return [
        f"frames {a.name!r} and {b.name!r} of scene {a.scene!r} have timestamps {a.timestamp_us} and {b.timestamp_us} "
        f"us, less than {LEAST_US} us apart"
        for a, b in pairs
        if a.scene == b.scene and b.timestamp_us - a.timestamp_us < LEAST_US
    ]


def refuse(problems: Sequence[str], fix: str) -> None:
    """Refuse the input if there are problems.

    Args:
        problems: a line for each. fix: advice, for the first line of the message.

    Raises:
        DataError: lists the first problems.
    """
    if problems:
        raise DataError(f"{len(problems)} problems, nothing was written; {fix}:{listed(problems)}")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
