"""Tests of LiDAR files' layouts: their numbers show a wrong layout; layouts named in the config are read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pdetr3d.config import DataConfig, SensorConfig
from pdetr3d.data.storage.points import check_points, misfit, read_lidar
from pdetr3d.schema import DataError


def scan(points: int = 2000) -> np.ndarray:
    """An artificial scan (P, 5), beam by beam, with walls around; intensity and ring are as in nuScenes."""
    rng = np.random.default_rng(0)
    angle, ring = np.linspace(0, 2 * np.pi, points), np.arange(points) % 32
    distance = 20 + 10 * np.cos(3 * angle) + rng.normal(0, 0.05, points)
    columns = (
        distance * np.cos(angle),
        distance * np.sin(angle),
        -1.8 + 0.05 * ring,
        rng.integers(0, 60, points),
        ring,
    )
    return np.stack(columns, 1).astype(np.float32)


def as_layout(points: np.ndarray, columns: int, dtype: str) -> np.ndarray:
    return np.c_[points, points[:, :3]][:, :columns].astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [3, 4, 5, 6])
def test_other_layouts_are_refused_with_the_one_that_fits_and_read_when_told(
    columns: int, dtype: str, tmp_path: Path
) -> None:
    file, points = tmp_path / "x.pcd.bin", scan(2000)  # 2000 points of 3 to 6 columns: whole points of 5, too
    as_layout(points, columns, dtype).tofile(file)
    told = DataConfig(lidar_columns=columns, lidar_dtype=dtype)  # type: ignore[arg-type]
    assert check_points(file, told) == 0
    expected = np.zeros_like(points)
    expected[:, : min(columns, 5)] = points[:, : min(columns, 5)]
    np.testing.assert_array_equal(read_lidar(file, told), expected)
    for other in (told.model_copy(update={"lidar_columns": n, "lidar_dtype": d}) for n in (4, 5, 6) for d in
                  ("float32", "float64")):  # fmt: skip
        if (other.lidar_columns, other.lidar_dtype) == (columns, dtype):
            continue
        with pytest.raises(DataError, match=rf"data\.lidar_columns={columns} data\.lidar_dtype={dtype}"):
            check_points(file, other)


@pytest.mark.parametrize("order", ["scan", "shuffled"])
def test_the_real_files_fit_their_own_layout_alone(order: str, tmp_path: Path) -> None:
    for name, columns in (("PDETR3D_REAL_DATA", 5), ("PDETR3D_KITTI_DATA", 4)):
        root = os.environ.get(name)
        if not root:
            pytest.skip(f"{name} is not set: the real files are not looked at")
        files = sorted([*Path(root).glob("samples/LIDAR_TOP/*.bin"), *Path(root).glob("training/velodyne/*.bin")])
        assert files
        for source in files[:5]:
            points = np.fromfile(source, np.float32).reshape(-1, columns)
            if order == "shuffled":
                points = np.random.default_rng(0).permutation(points)
            points = points[: len(points) // 60 * 60]  # whole points of 3, 4, 5, 6 float32 and float64
            points.tofile(tmp_path / "x.bin")
            for tried in (3, 4, 5, 6):
                told = DataConfig(lidar_columns=tried)
                if tried == columns:
                    assert check_points(tmp_path / "x.bin", told) == 0
                else:
                    with pytest.raises(DataError, match=rf"data\.lidar_columns={columns} "):
                        check_points(tmp_path / "x.bin", told)


def test_a_fifth_column_that_is_no_ring(tmp_path: Path) -> None:
    points, file = scan(), tmp_path / "x.pcd.bin"
    points[:, 4] = np.linspace(0, 0.05, len(points))  # the time within the scan
    points.tofile(file)
    with pytest.raises(DataError, match=r"of the rings are no whole numbers from 0 to 255.*set data\.lidar_ring=false"):
        check_points(file)
    assert check_points(file, DataConfig(lidar_ring=False)) == 0
    with pytest.raises(ValueError, match="points have no ring to thin by"):
        DataConfig(lidar_ring=False, sensor=SensorConfig(lidar_beams=16))


def test_a_ring_in_the_place_of_the_intensity(tmp_path: Path) -> None:
    """32 beams of fixed elevation: the ring is the column by which elevations are sorted, also among whole numbers."""
    rng, file = np.random.default_rng(0), tmp_path / "x.pcd.bin"
    ring, angle, distance = np.arange(4096) % 32, rng.uniform(0, 6.28, 4096), rng.uniform(5, 50, 4096)
    place = distance * np.cos(angle), distance * np.sin(angle), distance * np.tan(np.radians(ring - 25.0))
    gray = rng.integers(0, 90, 4096)
    np.stack([*place, gray, ring], 1).astype(np.float32).tofile(file)
    assert check_points(file) == 0
    np.stack([*place, ring, gray], 1).astype(np.float32).tofile(file)
    with pytest.raises(DataError, match=r"the fourth is the ring, and not the fifth; write the columns in the order x"):
        check_points(file)
    np.stack([*place, ring * 0, rng.integers(0, 256, 4096)], 1).astype(np.float32).tofile(file)
    with pytest.raises(DataError, match=r"the rings .* have 256 different values, but LiDARs have up to 128"):
        check_points(file)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"# .PCD v0.7 - Point Cloud Data\nVERSION 0.7\nFIELDS x y z\n1 2 3\n", r"a \.pcd of the Point Cloud"),
        (b"VERSION .7\nFIELDS x y z intensity\nDATA binary\n", r"a \.pcd of the Point Cloud"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"a pointer of Git LFS \(git lfs pull"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", r"a \.npy of NumPy"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "compressed by gzip"),
        (b"1.0 2.0 3.0 0.5\n" * 100, r"a text, '1\.0 2\.0 3\.0 0\.5\\n1\.0 2\.0 ' \.\.\."),
    ],
    ids=["ascii", "pcd", "lfs", "npy", "gzip", "text"],
)  # fmt: skip
@pytest.mark.parametrize("extra", [b"", b"\x00" * 13], ids=["whole", "and more"])
def test_files_of_another_format_are_named(head: bytes, words: str, extra: bytes, tmp_path: Path) -> None:
    """The message names the format for any file size, with or without numbers after the header."""
    file = tmp_path / "one.pcd.bin"
    file.write_bytes(head + extra * (not words.startswith("a text")))
    with pytest.raises(DataError, match=rf"one\.pcd\.bin: this is {words}.*plain numbers, 5 float32 \(x, y, z, inten"):
        check_points(file)


def test_millimeters(tmp_path: Path) -> None:
    points = scan()
    points[:, :3] *= 1000
    points.tofile(tmp_path / "x.pcd.bin")
    with pytest.raises(DataError, match=r"x\.pcd\.bin: these are not points of 5 float32 .* over 1000 m away"):
        check_points(tmp_path / "x.pcd.bin")


def test_points_that_are_no_numbers_are_counted_and_left_out_up_to_a_limit(tmp_path: Path) -> None:
    points, file = scan(1000), tmp_path / "x.pcd.bin"
    points[::4, :3] = np.nan
    points[1, 3] = np.inf
    points[2, 4] = np.nan  # a ring alone: nothing is computed from it
    points.tofile(file)
    assert check_points(file) == 251
    kept = np.delete(points, [*range(0, 1000, 4), 1], axis=0)
    np.testing.assert_array_equal(read_lidar(file), kept)
    for told, message in ((0.25, r"251 of 1000 points .*data.nan_limit=0.25"), (0.0, "data.nan_limit=0 of")):
        with pytest.raises(DataError, match=message):
            read_lidar(file, DataConfig(nan_limit=told))
    points[:, :3] = np.nan
    points.tofile(file)
    with pytest.raises(DataError, match="1000 of 1000 points have a number that is not finite, first point 0"):
        check_points(file)


def test_a_cut_file_and_few_points(tmp_path: Path) -> None:
    file = tmp_path / "x.pcd.bin"
    scan()[:10].tofile(file)
    assert check_points(file) == 0 and len(read_lidar(file)) == 10
    file.write_bytes(scan().tobytes()[:-4])
    with pytest.raises(DataError, match=r"39996 bytes, not a multiple of 20\); a point is 5 float32 \(x, y, z, in"):
        check_points(file)
    scan(1999)[:, :4].tofile(file)
    with pytest.raises(
        DataError, match="not a multiple of 20.*or its numbers are 4 float32 a point: set data.lidar_col"
    ):
        check_points(file)


def test_points_in_no_order_repeat_at_every_multiple_of_their_columns(tmp_path: Path) -> None:
    """Few points at random are alike 4 and 8 numbers later, by chance more so at 8: that is no other layout."""
    rng, data = np.random.default_rng(0), DataConfig(lidar_columns=4)
    four = rng.uniform([-12, -12, -2, 0], [12, 12, 1, 255], (300, 64, 4)).astype(np.float32)
    for points in four:
        assert misfit(points.tobytes(), 4, "float32", ring=False) == ""
    eight = np.concatenate([four[0], rng.uniform(500, 600, (64, 4)).astype(np.float32)], axis=1)
    eight.tofile(tmp_path / "eight.bin")
    with pytest.raises(DataError, match="the numbers repeat every 8, not every 4"):
        check_points(tmp_path / "eight.bin", data)
