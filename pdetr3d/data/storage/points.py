"""LiDAR files: their layout, reading them, and checking that their numbers fit the layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import DataConfig
from pdetr3d.formats import format_of
from pdetr3d.schema import DataError

NUSCENES = DataConfig()  # 5 float32 a point: x, y, z, intensity, ring
COLUMNS = ("x", "y", "z", "intensity", "ring")
FAR_M = 1000.0  # no LiDAR sees so far: larger numbers are in another unit, or are no coordinates
LARGEST_RING = 255
MOST_RINGS = 128  # the most beams of a LiDAR
SPREAD = 0.25  # points of a ring lie at one elevation: less of the elevations' variance than this is left within rings
CLEARLY = 3  # a column is the ring rather than another one if this many times less is left
ENOUGH = 512  # points that are needed to find the ring by elevations
STRANGE = 0.01  # a file may have this share of points beyond FAR_M, or with an impossible ring
BRIGHTEST = 65_535.0  # the largest intensity: sensors give 8 or 16 bits, or shares of 1
UNITS = ((100.0, "centimeters"), (1000.0, "millimeters"))  # units tried for coordinates beyond FAR_M
SIGHT_M = 60.0  # the farthest points of a scan are about this far away
NOWHERE = 0.5  # a file may have this share of points at (0, 0, 0), as some drivers write beams without an echo
LOOKED_AT = 4096  # the layout is judged by this many neighboring points from the middle of a file
FEWEST = 64  # a comparison of neighboring points needs at least this many
PERIODS = range(3, 9)  # numbers per point that are tried
UNLIKE = 1.25  # the layout is wrong when another period's differences are smaller by more than this factor
OF_MULTIPLE = 2.5  # the same for a multiple of the right period, at which the differences are no larger


def read_lidar(path: Path, data: DataConfig = NUSCENES) -> NDArray[np.float32]:
    """Points (P, 5) float32 of a .pcd.bin: x, y, z [m], intensity, ring; columns that the file lacks are 0.

    Points with a coordinate or an intensity that is not finite are left out: drivers write NaN for beams without an
    echo. The keys ``data.lidar_*`` describe the file's layout.

    Raises:
        DataError: when the file is missing, empty, cut, or more than ``data.nan_limit`` of its points are not finite.
    """
    points, finite = _read(path, read_file(path, "LiDAR"), data)
    return points if finite is None else points[finite]


def check_points(path: Path, data: DataConfig = NUSCENES) -> int:
    """Read a file like ``read_lidar``, and check that its numbers fit the layout.

    Returns:
        The number of points that are left out.

    Raises:
        DataError: as ``read_lidar``; also when the numbers do not fit the layout (the message names a layout that
            fits, if one does), or when most points are zeros.
    """
    raw = read_file(path, "LiDAR")
    _refuse_format(path, raw, data)
    try:
        check_lidar_size(path, len(raw), data)
    except DataError as error:
        fitting = _fitting(raw, data)
        raise DataError(f"{error}; or its numbers are {fitting}" if fitting else str(error)) from None
    check_layout(path, raw, data)
    points, finite = _read(path, raw, data)
    nowhere = int((points[:, :3] == 0).all(1).sum())
    if nowhere > NOWHERE * len(points):
        raise DataError(
            f"{path}: {nowhere} of {len(points)} points lie at (0, 0, 0), in the sensor itself: a file that got its "
            "size before its content looks so; copy or export it again"
        )
    return 0 if finite is None else int(len(points) - finite.sum())


def check_layout(path: Path, raw: bytes, data: DataConfig = NUSCENES) -> None:
    """Raise DataError when the numbers of ``raw`` do not fit the layout, or the fourth column is no intensity.

    Args:
        path: named in messages. raw: the file's content, a whole number of points. data: the layout.
    """
    _refuse_format(path, raw, data)
    reason = misfit(raw, data.lidar_columns, data.lidar_dtype, data.has_rings)
    if reason:
        raise DataError(f"{path}: these are not points of {layout(data)}: {reason}; {_advice(raw, data)}")
    if data.lidar_columns < 4:
        return
    values = np.frombuffer(raw, data.lidar_dtype).reshape(-1, data.lidar_columns)[:, 3]
    with np.errstate(invalid="ignore"):
        strange = (values < 0) | (values > BRIGHTEST)
    if strange.sum() > STRANGE * len(values):
        raise DataError(
            f"{path}: {strange.mean():.0%} of the intensities (fourth number of a point) are below 0 or above "
            f"{BRIGHTEST:g}, e.g. {values[int(np.argmax(strange))]:g}; a point is {layout(data)}, in this order: write "
            "the columns so, and intensities as the sensor gives them (0 to 255, say)"
        )


def brightness(raw: bytes, data: DataConfig) -> list[float]:
    """The intensity below which 99 % of a file's points are; [] for a file without intensities or points."""
    if data.lidar_columns < 4:
        return []
    values = np.frombuffer(raw, data.lidar_dtype).reshape(-1, data.lidar_columns)[:, 3]
    values = values[np.isfinite(values)]
    return [float(np.quantile(values, 0.99))] if len(values) else []


def _refuse_format(path: Path, raw: bytes, data: DataConfig) -> None:
    if other := format_of(raw, numbers=True):
        raise DataError(
            f"{path}: this is {other}; a LiDAR file is plain numbers, {layout(data)} a point, without a header (NumPy: "
            "points.astype('float32').tofile(path)); convert the files"
        )


def layout(data: DataConfig) -> str:
    """The layout of a point in words, e.g. "5 float32 (x, y, z, intensity, ring)"."""
    names = [*COLUMNS[: data.lidar_columns]]
    if data.lidar_columns > 4 and not data.lidar_ring:
        names[4] = "unread"
    names += ["unread"] * (data.lidar_columns - len(names))
    return f"{data.lidar_columns} {data.lidar_dtype} ({', '.join(names)})"


def point_bytes(data: DataConfig) -> int:
    """The number of bytes of a point in a file."""
    return data.lidar_columns * np.dtype(data.lidar_dtype).itemsize


def check_lidar_size(path: Path, size_bytes: int, data: DataConfig = NUSCENES) -> None:
    """Raise DataError when a .pcd.bin is empty or cut in the middle of a point."""
    whole = point_bytes(data)
    if size_bytes == 0 or size_bytes % whole:
        state = "empty" if size_bytes == 0 else f"{size_bytes} bytes, not a multiple of {whole}"
        raise DataError(f"{path}: truncated LiDAR file ({state}); a point is {layout(data)}; copy it again")


def read_file(path: Path, kind: str) -> bytes:
    """A file's content.

    Raises:
        DataError: when the file cannot be read; names the file and its ``kind`` ("LiDAR", "image").
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read {kind} file ({error.strerror}); copy it again") from error


def _read(path: Path, raw: bytes, data: DataConfig) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """All points of a file (P, 5), and which of them are finite: (P,) bool, or None when all are."""
    check_lidar_size(path, len(raw), data)
    points = np.frombuffer(raw, data.lidar_dtype).reshape(-1, data.lidar_columns)
    if points.dtype != np.float32 or points.shape[1] != 5:
        read = np.zeros((len(points), 5), np.float32)
        width = min(points.shape[1], 5)
        with np.errstate(over="ignore", invalid="ignore"):
            read[:, :width] = points[:, :width]
        points = read
    if np.isfinite(points).all():  # testing the whole array first: row by row takes forty times as long
        return points, None
    finite = np.isfinite(points[:, :4]).all(1)
    lost = len(points) - int(finite.sum())
    if lost > data.nan_limit * len(points):
        first = int(np.argmin(finite))
        raise DataError(
            f"{path}: {lost} of {len(points)} points have a number that is not finite, first point {first}: "
            f"{points[first, :4].tolist()}; at most data.nan_limit={data.nan_limit:g} of a file's points may be so "
            "(they are left out); copy or export the file again, or raise data.nan_limit"
        )
    return points, finite


def misfit(raw: bytes, columns: int, dtype: str, ring: bool) -> str:
    """Why the numbers of a file do not fit this layout; "" if they fit.

    Args:
        raw: the content, a whole number of points. columns: numbers per point. ring: whether the fifth is a ring.
    """
    count = len(raw) // (columns * np.dtype(dtype).itemsize)
    first = max(0, count - LOOKED_AT) // 2
    values = np.frombuffer(raw, dtype)[first * columns : (first + min(count, LOOKED_AT)) * columns]
    points = values.reshape(-1, columns)
    with np.errstate(invalid="ignore", over="ignore"):
        points = points[np.isfinite(points[:, :4]).all(1)]
        if reason := too_far(points):
            return reason
        if ring:
            rings = points[:, 4]
            strange = ~((rings >= 0) & (rings <= LARGEST_RING) & (rings == np.floor(rings)))
            if strange.sum() > STRANGE * len(points):
                value = rings[int(np.argmax(strange))]
                return (
                    f"{strange.mean():.0%} of the rings are no whole numbers from 0 to {LARGEST_RING}, e.g. {value:g}"
                )
            if reason := _no_ring(points):
                return reason
        if len(points) < FEWEST:
            return ""
        unlike = {period: _unlike(values, period) for period in {*PERIODS, columns}}
    factors = {period: UNLIKE if period % columns else OF_MULTIPLE for period in unlike if period != columns}
    if fitting := [period for period, factor in factors.items() if unlike[columns] > factor * unlike[period]]:
        return f"the numbers repeat every {min(fitting, key=unlike.__getitem__)}, not every {columns}"
    return ""


def _no_ring(points: NDArray[np.floating]) -> str:
    """Why the whole numbers in the fifth column of points are no rings, but intensities, say; "" if they can be."""
    count = len(np.unique(points[:, 4]))
    if count > MOST_RINGS:
        return f"the rings (fifth number of a point) have {count} different values, but LiDARs have up to {MOST_RINGS}"
    if len(points) < ENOUGH or count == 1:  # 1: the ring is unknown
        return ""
    left = _spread(points, 3)
    if left > SPREAD or left * CLEARLY > _spread(points, 4):
        return ""
    return (
        "points with the same fourth number lie at the same elevation, and those with the same fifth number do not: "
        "the fourth is the ring, and not the fifth"
    )


def _spread(points: NDArray[np.floating], column: int) -> float:
    """The share of the elevations' variance that is left among points with the same number in a column."""
    elevation = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])).astype(np.float64)
    group = np.unique(points[:, column], return_inverse=True)[1]
    if group.max(initial=0) >= MOST_RINGS:
        return 1.0
    mean = np.bincount(group, elevation) / np.bincount(group)
    return float(((elevation - mean[group]) ** 2).mean() / max(elevation.var(), 1e-12))


def _unlike(values: NDArray[np.floating], period: int) -> float:
    """The median difference between a number and the one ``period`` places later.

    It is smallest when ``period`` is the number of columns: neighboring points are alike in each column.
    """
    difference = np.abs(values[period:] - values[:-period])
    return float(np.median(difference[np.isfinite(difference)]))


def _fitting(raw: bytes, data: DataConfig) -> str:
    """Another layout that the file's numbers fit, in words with the keys to set; "" if there is none."""
    for dtype in ("float32", "float64"):
        for columns in (5, 4, 6, 3, 7, 8):
            other = (columns, dtype) != (data.lidar_columns, data.lidar_dtype)
            size = columns * np.dtype(dtype).itemsize
            if other and len(raw) >= FEWEST * size and len(raw) % size == 0 and not misfit(raw, columns, dtype, False):
                keys = f"data.lidar_columns={columns} data.lidar_dtype={dtype}"
                if columns > 4 and misfit(raw, columns, dtype, True):
                    keys += " data.lidar_ring=false"
                return f"{columns} {dtype} a point: set {keys}"
    return ""


def _advice(raw: bytes, data: DataConfig) -> str:
    if unit := _unit(raw, data):
        return f"they fit {unit}: write x, y, z in meters"
    if data.has_rings and not misfit(raw, data.lidar_columns, data.lidar_dtype, False):
        return (
            "write the columns in the order x, y, z, intensity, ring, or, if the fifth column is something else (a "
            "time, say), set data.lidar_ring=false"
        )
    fitting = _fitting(raw, data)
    return f"they fit {fitting}" if fitting else "say what they are by data.lidar_columns and data.lidar_dtype"


def _unit(raw: bytes, data: DataConfig) -> str:
    """The unit other than meters in which the file's coordinates look like a scan; "" if there is none."""
    points = np.frombuffer(raw, data.lidar_dtype).reshape(-1, data.lidar_columns)

    def fits(scale: float) -> bool:
        smaller = points / points.dtype.type(scale)
        smaller[:, 3:] = points[:, 3:]
        return not misfit(smaller.tobytes(), data.lidar_columns, data.lidar_dtype, data.has_rings)

    return unit_of(points, fits)


def unit_of(points: NDArray[np.floating], fits: Callable[[float], bool] = lambda _: True) -> str:
    """The unit other than meters in which coordinates (N, 3+) are those of a scan; empty if there is none.

    Points that all lie apart from the sensor are those of no scan.

    Args:
        fits: whether the points fit their layout after a division by the scale.
    """
    if _apart(points):
        return ""
    farthest, fitting = float(np.nanquantile(np.abs(points[:, :3]).max(1), 0.99)), {}
    for scale, name in UNITS:
        if SIGHT_M / 4 < farthest / scale < SIGHT_M * 4 and fits(scale):
            fitting[abs(np.log(farthest / scale / SIGHT_M))] = name
    return fitting[min(fitting)] if fitting else ""


def too_far(points: NDArray[np.floating]) -> str:
    """Why coordinates (N, 3+), all finite, cannot be in meters; empty if they can be."""
    far = (np.abs(points[:, :3]) > FAR_M).any(1)
    if far.sum() <= STRANGE * len(points):
        return ""
    return (
        f"{far.mean():.0%} of them are over {FAR_M:g} m away, e.g. at ({_numbers(points[int(np.argmax(far)), :3])}) m"
        + (", and all lie apart from the sensor: are they in the frame of a map?" if _apart(points) else "")
    )


def _apart(points: NDArray[np.floating]) -> bool:
    """Whether points (N, 3+) lie together, but not around the origin, where a scan's own sensor is."""
    center = np.nanmedian(points[:, :3], 0)
    reach = np.nanquantile(np.abs(points[:, :3] - center).max(1), 0.99)
    return bool(np.abs(center).max() > 2 * reach)


def _numbers(values: NDArray[np.floating]) -> str:
    return ", ".join(f"{value:g}" for value in values)
