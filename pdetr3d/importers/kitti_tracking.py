"""Reads KITTI's tracking layout: sequences at 10 Hz with poses and object ids.

The files are ``training/{velodyne,image_02}/SSSS/NNNNNN.*`` and ``training/{calib,label_02,oxts}/SSSS.txt``. Each
sequence becomes a scene; every fifth frame becomes a keyframe (2 Hz), the others become sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pdetr3d.data.storage.csv_rows import plain_float
from pdetr3d.geometry.rigid import chain, inverse
from pdetr3d.importers.dataset import refuse
from pdetr3d.importers.kitti_files import Calibration, read_calibration, read_track_labels
from pdetr3d.importers.kitti_frames import KittiFrame, class_problems, find_image, size_problems
from pdetr3d.importers.mapping import ClassMapping
from pdetr3d.importers.scenes import SceneRow
from pdetr3d.schema import DataError

EVERY = 5  # every fifth frame is a keyframe
PERIOD_US = 100_000  # the LiDAR turns at 10 Hz; the benchmark gives no times
EARTH_RADIUS_M = 6378137.0
OXTS = 6  # the first numbers of a line are used: latitude, longitude [deg], altitude [m], roll, pitch, yaw [rad]


def is_tracking(root: Path) -> bool:
    """Whether a folder is in the tracking layout."""
    return (root / "training" / "label_02").is_dir()


def read_tracking(
    root: Path, classes: ClassMapping, every: int
) -> tuple[list[KittiFrame], dict[str, SceneRow], dict[str, Any]]:
    """Read all sequences.

    Args:
        every: every n-th frame is a keyframe.

    Returns:
        All frames with LiDAR points; name of a frame -> its scene; numbers of what was left out.

    Raises:
        DataError: names file and line of everything that cannot be used.
    """
    part = root / "training"
    sequences = sorted(path.stem for path in (part / "label_02").glob("*.txt"))
    frames, rows, problems = list[KittiFrame](), dict[str, SceneRow](), list[str]()
    without_points = between = 0
    for name in sequences:
        found, unread = _sequence(part, name, classes, every, problems)
        frames += [frame for _, frame in found]
        without_points += unread
        between += sum(int(frame.labels.cared.sum()) for _, frame in found if not frame.keyframe)
        rows |= {frame.name: SceneRow(f"kitti_{name}", number * PERIOD_US) for number, frame in found}
    refuse(problems, "mend these, or take their sequences out of the folder")
    if not any(frame.keyframe for frame in frames):
        raise DataError(f"--root {root}: no keyframe: label_02 has {len(sequences)} sequences, none with LiDAR files")
    facts = {
        "sweeps": sum(not frame.keyframe for frame in frames),
        "labels_of_sweeps_not_used": between,
        "frames_without_velodyne": without_points,
    }
    return frames, rows, facts


def _sequence(
    part: Path, name: str, classes: ClassMapping, every: int, problems: list[str]
) -> tuple[list[tuple[int, KittiFrame]], int]:
    """(number, frame) of a sequence in order, and the number of its frames without LiDAR file."""
    try:
        calibration = read_calibration(part / "calib" / f"{name}.txt", imu=True)
        poses = imu_poses(part / "oxts" / f"{name}.txt")
    except DataError as error:
        problems.append(str(error))
        return [], 0
    file = part / "label_02" / f"{name}.txt"
    labels = read_track_labels(file, len(poses), problems)
    found: list[tuple[int, KittiFrame]] = []
    unread = 0
    for number, pose in enumerate(poses):
        velodyne = part / "velodyne" / name / f"{number:06d}.bin"
        if not velodyne.is_file():
            unread += 1
            continue
        key = number % every == 0
        image = find_image(part / "image_02" / name, f"{number:06d}", problems) if key else (Path(), (0, 0))
        if image is None:
            continue
        if key:
            problems += class_problems(file, labels[number], classes)
            problems += size_problems(*image, calibration, file, labels[number])
        lidar2global = lidar_pose(calibration, pose)
        frame = f"{name}_{number:06d}"
        found.append((number, KittiFrame(frame, velodyne, *image, calibration, labels[number], lidar2global, key)))
    if found and not any(frame.keyframe for _, frame in found):
        problems.append(f"{part / 'velodyne' / name}: no file of a keyframe (every {every}th frame)")
    return found, unread


def lidar_pose(calibration: Calibration, imu2world: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4) LIDAR_TOP -> world, from a pose of ``imu_poses``."""
    assert calibration.imu2velo is not None
    return chain(inverse(calibration.velo2lidar), inverse(calibration.imu2velo), imu2world)


def imu_poses(file: Path) -> list[NDArray[np.float64]]:
    """Read the pose imu -> world, (4, 4) float64, of each line of an oxts file.

    Positions are Mercator's at the first line's latitude, as in KITTI's development kit; the world's origin is the
    first position (x east, y north, z up).

    Raises:
        DataError: when the file is missing, or a line has no six numbers.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: poses cannot be read ({getattr(error, 'strerror', None) or error})") from error
    values = []
    for number, line in enumerate(lines, start=1):
        try:
            row = [plain_float(word) for word in line.split()[:OXTS]]
        except ValueError:
            row = []
        if len(row) < OXTS or not np.isfinite(row).all():
            raise DataError(
                f"{file}:{number}: must begin with latitude, longitude, altitude, roll, pitch, yaw, but is "
                f"{line[:50]!r}"
            )
        values.append(row)
    return _mercator(values)


def _mercator(values: Sequence[Sequence[float]]) -> list[NDArray[np.float64]]:
    poses: list[NDArray[np.float64]] = []
    origin = np.zeros(3)
    scale = np.cos(np.deg2rad(values[0][0])) if values else 1.0
    for latitude, longitude, altitude, roll, pitch, yaw in values:
        east = scale * EARTH_RADIUS_M * np.deg2rad(longitude)
        north = scale * EARTH_RADIUS_M * np.log(np.tan(np.deg2rad(90 + latitude) / 2))
        place = np.array([east, north, altitude])
        origin = origin if poses else place
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("ZYX", [yaw, pitch, roll]).as_matrix()
        pose[:3, 3] = place - origin
        poses.append(pose)
    return poses
