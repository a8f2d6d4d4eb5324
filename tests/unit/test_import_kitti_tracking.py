"""Tests of the import of KITTI's tracking layout: a drive past a parked car and a cyclist, by hand; bad lines."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pdetr3d.config import DataConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.importers.kitti import VERSION, import_kitti
from pdetr3d.importers.kitti_files import read_calibration
from pdetr3d.importers.kitti_tracking import EARTH_RADIUS_M, imu_poses
from pdetr3d.importers.rows import sample_token
from pdetr3d.schema import DataError
from tests.reference import tiny_kitti

FRAMES = 13  # keyframes 0, 5, 10
STEP_M = 1.2  # driven between frames: east, 12 m/s
LATITUDE, LONGITUDE = 49.0, 8.4
IMU2VELO = np.array([[1.0, 0, 0, -0.8], [0, 1, 0, 0.3], [0, 0, 1, -0.8]])
PARKED, RIDER = np.array([45.0, 4.0, -0.3]), np.array([30.0, -2.0, -0.3])  # in the world, at first
RIDER_STEP_M = 0.5  # north: 5 m/s


def label(frame: int, track: str, kind: str, world: np.ndarray, size_hwl: tuple[float, float, float]) -> str:
    """The label line of a center in the world. The vehicle heads east, so the imu axes are the world's axes."""
    velo = IMU2VELO[:, :3] @ (world - [STEP_M * frame, 0, 0]) + IMU2VELO[:, 3]
    x, y, z = np.array(tiny_kitti.R0) @ (np.array(tiny_kitti.TR)[:, :3] @ velo + np.array(tiny_kitti.TR)[:, 3])
    numbers = " ".join(map(str, size_hwl))
    return f"{frame} {track} {kind} 0 0 0.1 100 40 130 60 {numbers} {x:.9f} {y + size_hwl[0] / 2:.9f} {z:.9f} 0.5"


def write(root: Path) -> Path:
    part = root / "training"
    tiny_kitti.write(root / "object", {f"{number:06d}": [] for number in range(FRAMES)})
    for source, target in (("velodyne", "velodyne"), ("image_2", "image_02")):
        (part / target).mkdir(parents=True)
        (root / "object" / "training" / source).rename(part / target / "0007")
    for folder in ("calib", "label_02", "oxts"):
        (part / folder).mkdir()
    text = tiny_kitti.calibration_text().replace("R0_rect:", "R_rect").replace("Tr_velo_to_cam:", "Tr_velo_cam")
    (part / "calib" / "0007.txt").write_text(f"{text.strip()}\nTr_imu_velo {tiny_kitti.numbers(IMU2VELO.tolist())}\n")
    degrees = math.degrees(STEP_M / (EARTH_RADIUS_M * math.cos(math.radians(LATITUDE))))
    lines = [f"{LATITUDE} {LONGITUDE + number * degrees:.15f} 112.0 0 0 0 1 2 3" for number in range(FRAMES)]
    (part / "oxts" / "0007.txt").write_text("\n".join(lines) + "\n")
    labels = ["0 -1 DontCare -1 -1 -10 200 40 240 60 -1 -1 -1 -1000 -1000 -1000 -10"]
    for number in range(FRAMES):
        labels.append(label(number, "3", "Car", PARKED, (1.5, 1.7, 4.2)))
        labels.append(label(number, "4", "Cyclist", RIDER + [0, number * RIDER_STEP_M, 0], (1.7, 0.6, 1.8)))
    (part / "label_02" / "0007.txt").write_text("\n".join(labels) + "\n")
    return root


def test_poses_by_hand(tmp_path: Path) -> None:
    """One degree of latitude north of 49 degrees, heading north, nose up.

    The Mercator map stretches distances between two latitudes by the ratio of their cosines.
    """
    (tmp_path / "o.txt").write_text(f"49 8 100 0 0 0\n50 8 103 0 {math.radians(-10)} {math.radians(90)} 7 7\n")
    first, second = imu_poses(tmp_path / "o.txt")
    assert (first == np.eye(4)).all()
    mean = math.radians(1) * EARTH_RADIUS_M * math.cos(math.radians(49)) / math.cos(math.radians(49.5))
    assert second[:3, 3] == pytest.approx([0, mean, 3], rel=1e-4)
    # Nose up by 10 degrees (pitch is about the left side, so it is negative), heading north.
    assert second[:3, 0] == pytest.approx([0, math.cos(math.radians(10)), math.sin(math.radians(10))])
    assert second[:3, 1] == pytest.approx([-1, 0, 0], abs=1e-12)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Index]:
    folder = tmp_path_factory.mktemp("tracking")
    facts = import_kitti(write(folder / "root"), folder / "out")
    data = DataConfig(lidar_ring=False)
    return facts, Index.open(build_index(folder / "out", VERSION, folder / "index.arrow", data))


def test_keyframes_sweeps_and_counts(made: tuple[dict, Index]) -> None:
    facts, index = made
    assert facts["frames"] == 3 and facts["sweeps"] == 10 and facts["frames_without_velodyne"] == 0
    assert facts["labels_of_sweeps_not_used"] == 20 and facts["dont_care"] == 1
    assert facts["splits"] == {"kitti_all": 3}  # one sequence is not split
    times = index.column("timestamp_us", index.tokens("kitti_all"))
    assert times == [0, 500_000, 1_000_000]
    assert set(index.table["scene_name"].to_pylist()) == {"kitti_0007"}
    for number, sweeps in ((0, 0), (5, 5), (10, 9)):
        record = index.record(sample_token(VERSION, f"0007_{number:06d}"))
        assert len(record.sweeps) == sweeps
        for place, sweep in enumerate(record.sweeps, start=1):
            # A sweep of so many steps before lies that far behind; LIDAR_TOP is tilted by R0_rect's turn.
            assert sweep.dt_s == pytest.approx(0.1 * place)
            back = -STEP_M * place
            expected = [0, back * math.cos(tiny_kitti.TURN), back * math.sin(tiny_kitti.TURN)]
            assert np.abs(sweep.sweep2lidar[:3, 3]) == pytest.approx(np.abs(expected), abs=1e-6)
            assert sweep.sweep2lidar[1, 3] < 0
            assert sweep.sweep2lidar[:3, :3] == pytest.approx(np.eye(3), abs=1e-9)


def test_objects_keep_their_ids_and_have_velocities(made: tuple[dict, Index]) -> None:
    """North is to the left of a vehicle that heads east: -x in LIDAR_TOP."""
    index = made[1]
    for number in (0, 5, 10):
        found = index.annotations(sample_token(VERSION, f"0007_{number:06d}"))
        assert found.velocity_m_s[0] == pytest.approx([0, 0], abs=1e-4)
        assert found.velocity_m_s[1] == pytest.approx([-10 * RIDER_STEP_M, 0], abs=1e-4)


def test_boxes_stand_where_they_were_put(made: tuple[dict, Index]) -> None:
    """Moved to the world by the index's poses, the parked car has the same place in all frames."""
    index = made[1]
    places = []
    for number in (0, 5, 10):
        token = sample_token(VERSION, f"0007_{number:06d}")
        record = index.record(token)
        center = np.append(index.annotations(token).box[0, :3], 1.0)
        places.append((record.ego2global @ record.lidar2ego @ center)[:3])
    assert np.abs(np.array(places) - PARKED).max() < 1e-4


def calibration(old: str, new: str) -> Callable[[Path], None]:
    return lambda part: _replace(part / "calib" / "0007.txt", old, new)


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert re.search(old, text)
    file.write_text(re.sub(old, new, text, count=1))


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no oxts": (lambda part: (part / "oxts" / "0007.txt").unlink(), r"oxts/0007.txt: poses cannot be read"),
    "short oxts": (lambda part: _replace(part / "oxts" / "0007.txt", ".*", "49 8"), r"oxts/0007.txt:1: must beg"),
    "no calib": (lambda part: (part / "calib" / "0007.txt").unlink(), r"calib/0007.txt: calibration cannot be read"),
    "no imu": (calibration("Tr_imu_velo.*", ""), r"calib/0007.txt: Tr_imu_to_velo or Tr_imu_velo missing"),
    "frame": (lambda part: _replace(part / "label_02/0007.txt", "\n12 3", "\n99 3"), r"7.txt:26: frame '99' must"),
    "track": (lambda part: _replace(part / "label_02/0007.txt", "\n0 3", "\n0 x"), r"0007.txt:2: track 'x' must"),
    "truncated": (lambda part: _replace(part / "label_02/0007.txt", "Car 0", "Car 3"), r"7.txt:2: truncated 3 is"),
    "columns": (lambda part: _replace(part / "label_02/0007.txt", "0.5\n", "\n"), r"7.txt:2: 14 columns instead"),
    "class": (lambda part: _replace(part / "label_02/0007.txt", "Car 0", "Cow 0"), r"7.txt:2: class 'Cow' is not"),
    "image": (lambda part: (part / "image_02/0007/000005.png").unlink(), r"image_02/0007/000005.png: no such image"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    spoil, expected = CASES[case]
    spoil(write(tmp_path / "root") / "training")
    with pytest.raises(DataError, match=expected):
        import_kitti(tmp_path / "root", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_frames_without_points_are_counted_and_scenes_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "root")
    for number in (5, 6):
        (root / "training/velodyne/0007" / f"{number:06d}.bin").unlink()
    facts = import_kitti(root, tmp_path / "out")
    assert (facts["frames"], facts["sweeps"], facts["frames_without_velodyne"]) == (2, 9, 2)
    with pytest.raises(DataError, match="tracking layout, whose sequences are the scenes"):
        import_kitti(root, tmp_path / "other", scenes=tmp_path / "scenes.csv")


def test_every_frame_may_be_a_keyframe(tmp_path: Path) -> None:
    assert import_kitti(write(tmp_path / "root"), tmp_path / "out", every=1)["frames"] == FRAMES


def test_the_imu_is_asked_for_alone_where_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(tiny_kitti.calibration_text())
    assert read_calibration(tmp_path / "c.txt").imu2velo is None
