"""Reads KITTI's text files: calibrations, and labels of both benchmarks. Messages name file and line.

Frames: rectified camera 0 ("rect": x right, y down, z forward), in which labels are given; velodyne (x forward, y left,
z up); LIDAR_TOP, ours: origin of the velodyne, x right = rect x, y forward = rect z, z up = rect -y. KITTI's boxes are
upright in LIDAR_TOP, so that a yaw describes their heading exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdetr3d.data.storage.csv_rows import plain_float
from pdetr3d.evaluation.kitti_score import DONT_CARE
from pdetr3d.geometry.rigid import apply, wrap_angle
from pdetr3d.schema import DataError

# Rows of a 3x3 rotation: LIDAR_TOP x, y, z of a rect vector.
RECT2LIDAR_AXES = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
COLUMNS = "type truncated occluded alpha left top right bottom height width length x y z rotation_y"
WIDTH = len(COLUMNS.split())  # a detection has one more column, the score
UNKNOWN = 3  # KITTI's number for an unknown occlusion
OCCLUDED = (0, 1, 2, UNKNOWN, -1)  # -1: not set, in labels made from raw tracklets; counts as unknown
# Our name of a matrix -> its keys in the calibration files of the object and the tracking benchmark.
KEYS = {
    "P2": ("P2",),
    "R0_rect": ("R0_rect", "R_rect"),
    "Tr_velo_to_cam": ("Tr_velo_to_cam", "Tr_velo_cam"),
    "Tr_imu_to_velo": ("Tr_imu_to_velo", "Tr_imu_velo"),
}
SHAPES = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4), "Tr_imu_to_velo": (3, 4)}
# The tracking benchmark has levels 0, 1, 2 instead of shares: level -> the share that it counts as.
TRUNCATED = {0.0: 0.0, 1.0: 0.3, 2.0: 0.5}
NOT_RIGID = 1e-3  # allowed difference of R R^T from the identity


@dataclass(frozen=True)
class Calibration:
    """The calibration of a frame, in float64.

    Attributes:
        p2: (3, 4) rect -> image of the left color camera [px].
        velo2rect: (4, 4) R0_rect Tr_velo_to_cam.
        imu2velo: (4, 4); None if it was not read.
    """

    p2: NDArray[np.float64]
    velo2rect: NDArray[np.float64]
    imu2velo: NDArray[np.float64] | None = None

    @property
    def intrinsic(self) -> NDArray[np.float64]:
        """(3, 3) of the left color camera [px]."""
        return self.p2[:, :3]

    @property
    def rect2lidar(self) -> NDArray[np.float64]:
        """(4, 4) rect -> LIDAR_TOP."""
        return _affine(RECT2LIDAR_AXES, -RECT2LIDAR_AXES @ self.velo2rect[:3, 3])

    @property
    def velo2lidar(self) -> NDArray[np.float64]:
        """(4, 4) velodyne -> LIDAR_TOP: a rotation about the common origin."""
        return _affine(RECT2LIDAR_AXES @ self.velo2rect[:3, :3], np.zeros(3))

    @property
    def camera2lidar(self) -> NDArray[np.float64]:
        """(4, 4) color camera -> LIDAR_TOP: P2 = K [1 | shift] has its center at -shift in rect."""
        shift = np.linalg.solve(self.intrinsic, self.p2[:, 3])
        return self.rect2lidar @ _affine(np.eye(3), -shift)


@dataclass(frozen=True)
class Labels:
    """N lines of a label file in its order, with DontCare.

    Attributes:
        kind: (N,) KITTI's types. line: (N,) numbers of the lines, from 1.
        truncated: (N,) share outside the image. occluded: (N,) one of OCCLUDED. alpha_rad: (N,).
        rectangle_px: (N, 4) left, top, right, bottom. size_m: (N, 3) height, width, length.
        location_m: (N, 3) center of the underside in rect. rotation_y_rad: (N,) about rect y.
        track: (N,) the object's id in the tracking benchmark, else "".
    """

    kind: tuple[str, ...]
    line: NDArray[np.int64]
    truncated: NDArray[np.float64]
    occluded: NDArray[np.int64]
    alpha_rad: NDArray[np.float64]
    rectangle_px: NDArray[np.float64]
    size_m: NDArray[np.float64]
    location_m: NDArray[np.float64]
    rotation_y_rad: NDArray[np.float64]
    track: tuple[str, ...]

    @property
    def cared(self) -> NDArray[np.bool_]:
        """(N,) bool: the lines that are objects, not DontCare."""
        return np.array([kind != DONT_CARE for kind in self.kind], bool)

    def boxes(self, calibration: Calibration) -> NDArray[np.float64]:
        """(N, 7) x, y, z, l, w, h [m], yaw [rad] in LIDAR_TOP; rows of DontCare are meaningless."""
        center = self.location_m - np.array([0.0, 0.5, 0.0]) * self.size_m[:, :1]
        # The heading (cos ry, 0, -sin ry) of rect is (cos ry, -sin ry, 0) in LIDAR_TOP.
        yaw = wrap_angle(-self.rotation_y_rad)
        return np.c_[apply(calibration.rect2lidar, center), self.size_m[:, [2, 1, 0]], yaw]


def read_calibration(file: Path, imu: bool = False) -> Calibration:
    """Read P2, R0_rect, Tr_velo_to_cam and, with ``imu``, Tr_imu_to_velo.

    Raises:
        DataError: when the file or a matrix is missing, or the numbers are no calibration.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: calibration cannot be read ({getattr(error, 'strerror', None) or error})") from error
    found: dict[str, NDArray[np.float64]] = {}
    for number, line in enumerate(lines, start=1):
        key, *words = line.replace(":", " ", 1).split() or [""]
        name = next((name for name, keys in KEYS.items() if key in keys), None)
        if name is None:
            continue
        try:
            values = np.array([plain_float(word) for word in words])
            found[name] = values.reshape(SHAPES[name])
        except ValueError as error:
            raise DataError(
                f"{file}:{number}: {key} must be {int(np.prod(SHAPES[name]))} numbers, but is {' '.join(words)!r}"
            ) from error
        if not np.isfinite(values).all():
            raise DataError(f"{file}:{number}: {key} has a number that is not finite")
    missing = [" or ".join(KEYS[name]) for name in KEYS if name not in found and (imu or name != "Tr_imu_to_velo")]
    if missing:
        raise DataError(f"{file}: {', '.join(missing)} missing; a calibration file has P2, R0_rect and Tr_velo_to_cam")
    rect = _affine(found["R0_rect"], np.zeros(3))
    imu2velo = _affine(found["Tr_imu_to_velo"][:, :3], found["Tr_imu_to_velo"][:, 3]) if imu else None
    velo2rect = rect @ _affine(found["Tr_velo_to_cam"][:, :3], found["Tr_velo_to_cam"][:, 3])
    result = Calibration(found["P2"], velo2rect, imu2velo)
    rotation = result.velo2rect[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > NOT_RIGID or np.linalg.det(rotation) < 0:
        raise DataError(f"{file}: R0_rect and Tr_velo_to_cam are no rotation; copy the file again")
    intrinsic = result.intrinsic
    lower = np.abs([intrinsic[1, 0], intrinsic[2, 0], intrinsic[2, 1], intrinsic[2, 2] - 1]).max()
    if intrinsic[0, 0] <= 0 or intrinsic[1, 1] <= 0 or lower > NOT_RIGID:
        raise DataError(f"{file}: P2 {intrinsic.tolist()} is no camera: focal lengths > 0, last row 0 0 1")
    return result


def read_labels(file: Path, problems: list[str]) -> Labels:
    """Read a label file. A bad line is left out, and ``file:line: reason`` is added to ``problems``."""
    rows = []
    for number, words in _lines(file, problems):
        reason, values = _line(words)
        if reason:
            problems.append(f"{file}:{number}: {reason}")
        else:
            rows.append((words[0], "", number, values))
    return _labels(rows)


def read_track_labels(file: Path, frames: int, problems: list[str]) -> list[Labels]:
    """Read a label file of the tracking benchmark, which has two more columns first: frame number and object id.

    Args:
        frames: number of frames of the sequence. problems: as ``read_labels``.

    Returns:
        The labels of each frame, with truncations by TRUNCATED.
    """
    rows: list[list[tuple[str, str, int, list[float]]]] = [[] for _ in range(frames)]
    for number, words in _lines(file, problems):
        frame, track = [*words, "", ""][:2]
        reason, values = _line(words[2:])
        if not frame.isdecimal() or int(frame) >= frames:
            reason = f"frame {frame!r} must be a number below {frames}, the lines of the oxts file"
        elif not reason and words[2] != DONT_CARE and not track.isdecimal():
            reason = f"track {track!r} must be a whole number"
        elif not reason and words[2] != DONT_CARE and values[0] not in TRUNCATED:
            reason = f"truncated {words[3]} is not allowed: 0, 1, 2"
        if reason:
            problems.append(f"{file}:{number}: {reason}")
            continue
        values[0] = TRUNCATED.get(values[0], values[0])
        rows[int(frame)].append((words[2], "" if words[2] == DONT_CARE else track, number, values))
    return [_labels(mine) for mine in rows]


def _lines(file: Path, problems: list[str]) -> list[tuple[int, list[str]]]:
    """(number, words) of the lines that are not empty; a file that cannot be read is a problem."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{file}: labels cannot be read ({getattr(error, 'strerror', None) or error})")
        return []
    return [(number, line.split()) for number, line in enumerate(lines, start=1) if line.split()]


def _labels(rows: list[tuple[str, str, int, list[float]]]) -> Labels:
    """The labels of rows (type, track, line, numbers)."""
    table = np.array([values for *_, values in rows], np.float64).reshape(-1, WIDTH - 1)
    return Labels(
        kind=tuple(row[0] for row in rows),
        line=np.array([row[2] for row in rows], np.int64),
        truncated=table[:, 0],
        occluded=table[:, 1].astype(np.int64),
        alpha_rad=table[:, 2],
        rectangle_px=table[:, 3:7],
        size_m=table[:, 7:10],
        location_m=table[:, 10:13],
        rotation_y_rad=table[:, 13],
        track=tuple(row[1] for row in rows),
    )


def _line(words: list[str]) -> tuple[str, list[float]]:
    """The reason why a line is bad ("" if it is not), and its numbers."""
    if len(words) != WIDTH:
        why = "a score makes it a detection, not a label" if len(words) == WIDTH + 1 else "the line is cut or no label"
        return f"{len(words)} columns instead of {WIDTH} ({COLUMNS}): {why}", []
    values = []
    for name, word in zip(COLUMNS.split()[1:], words[1:], strict=True):
        try:
            values.append(plain_float(word))
        except ValueError:
            return f"{name} {word!r} is not a number", []
        if not np.isfinite(values[-1]):
            return f"{name} {word!r} is not finite", []
    left, top, right, bottom = values[3:7]
    if right < left or bottom < top:
        return f"left, top, right, bottom {left:g} {top:g} {right:g} {bottom:g}: right and bottom are the larger", []
    if words[0] == DONT_CARE:
        return "", values
    if values[1] not in OCCLUDED:
        return f"occluded {words[2]} is not allowed: {', '.join(map(str, OCCLUDED))} (3: unknown, -1: not set)", []
    values[1] = UNKNOWN if values[1] < 0 else values[1]
    if min(values[7:10]) <= 0:
        return f"height, width, length {values[7]:g} {values[8]:g} {values[9]:g}: all must be over 0 m", []
    if abs(values[13]) > 2 * np.pi:
        return f"rotation_y {words[14]} is more than one turn: an angle in radians, -2 pi to 2 pi", []
    return "", values


def _affine(linear: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, shift
    return matrix
