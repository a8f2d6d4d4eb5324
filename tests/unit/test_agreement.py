"""LiDAR files that disagree with the tables' point counts are refused, with both numbers, or cause a warning."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from pdetr3d.data.index.annotations import LIDAR, RADAR
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.index.point_counts import usually_empty
from pdetr3d.data.index.rows import INDEX_SCHEMA
from pdetr3d.schema import DataError
from tests.reference import tiny_nuscenes
from tests.unit.test_tables import edit

VERSION = "v1.0-sim"
FLAT = NDArray[np.float32]


@pytest.fixture
def world(sim_world: Path, tmp_path: Path) -> Path:
    """A copy of the simulated world made of hard links: replace files, never write into them."""
    shutil.copytree(sim_world, tmp_path / "world", copy_function=os.link)
    return tmp_path / "world"


def rewrite(world: Path, change: Callable[[FLAT], FLAT], folder: str = "samples") -> None:
    for file in sorted((world / folder / "LIDAR_TOP").iterdir()):
        points = change(np.fromfile(file, np.float32).reshape(-1, 5))
        file.unlink()
        np.ascontiguousarray(points, np.float32).tofile(file)


def columns(order: list[int]) -> Callable[[FLAT], FLAT]:
    return lambda points: points[:, order]


def times(scale: float) -> Callable[[FLAT], FLAT]:
    return lambda points: points * np.array([scale, scale, scale, 1, 1], np.float32)


DAMAGES = {
    "y x z": columns([1, 0, 2, 3, 4]),
    "x z y": columns([0, 2, 1, 3, 4]),
    "feet": times(3.2808),
    "decimeters": times(10),
    "mirrored": lambda points: points * np.array([1, -1, 1, 1, 1], np.float32),
    "ego frame": lambda points: points[:, [1, 0, 2, 3, 4]] * [1, -1, 1, 1, 1] + [0.94, 0, 1.84, 0, 0],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_points_in_another_order_unit_or_frame_are_refused(damage: str, world: Path, tmp_path: Path) -> None:
    rewrite(world, DAMAGES[damage])
    with pytest.raises(DataError, match="LiDAR points lie in .* files and tables do not belong together") as caught:
        build_index(world, VERSION, tmp_path / "out" / "index.arrow")
    message = str(caught.value)
    assert "samples/LIDAR_TOP/" in message and "num_lidar_pts" in message and "likely causes: columns" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (columns([3, 0, 1, 2, 4]), r"of the intensities \(fourth number of a point\) are below 0 or above 65535"),
        (times(100), "over 1000 m away, .* they fit centimeters: write x, y, z in meters"),
        (lambda p: p + [2500, 500, 0, 0, 0], "and all lie apart from the sensor: are they in the frame of a map"),
        (times(1000), "over 1000 m away, .* they fit millimeters: write x, y, z in meters"),
        (lambda p: p * [1, 1, 1, 0, 1] + [0, 0, 0, 1e6, 0], r"100% of the intensities .* above 65535, e\.g\. 1e\+06"),
        (lambda p: p * [1, 1, 1, 0, 1] - [0, 0, 0, 5, 0], r"100% of the intensities .* below 0 .* e\.g\. -5;"),
    ],
)  # fmt: skip
def test_other_numbers_are_refused_when_indexing(
    change: Callable[[FLAT], FLAT], words: str, world: Path, tmp_path: Path
) -> None:
    rewrite(world, change)
    with pytest.raises(DataError, match=words):
        build_index(world, VERSION, tmp_path / "index.arrow")


def test_boxes_in_another_frame_are_refused(world: Path, tmp_path: Path) -> None:
    """The tables hold boxes in the ego frame instead of the global frame, as if the car had not moved."""
    edit(
        world,
        "ego_pose",
        lambda rows: [row.update(translation=[*np.add(row["translation"], [500, 0, 0])]) for row in rows],
    )
    with pytest.raises(DataError, match=r": 0 LiDAR points lie in \d+ boxes for which .*boxes in another frame"):
        build_index(world, VERSION, tmp_path / "index.arrow")


def test_other_counts_are_said_not_refused(
    world: Path, sim_world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tables that count points over ten sweeps cause a warning; correct tables cause none."""
    build_index(sim_world, VERSION, tmp_path / "right.arrow")
    assert "counted again" not in caplog.text
    edit(world, "sample_annotation", lambda rows: [row.update(num_lidar_pts=10 * row["num_lidar_pts"]) for row in rows])
    assert len(Index.open(build_index(world, VERSION, tmp_path / "index.arrow"))) == 12
    assert "boxes that were counted again hold over 2 times fewer" in caplog.text
    edit(world, "sample_annotation", lambda rows: [row.update(num_lidar_pts=3 * row["num_lidar_pts"]) for row in rows])
    with pytest.raises(DataError, match="If only these counts are wrong, write -1"):
        build_index(world, VERSION, tmp_path / "index.arrow")


def test_boxes_whose_z_is_at_the_bottom_are_said(world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build_index(world, VERSION, tmp_path / "right.arrow")
    assert "moved up" not in caplog.text

    def sink(rows: list[dict]) -> None:
        for row in rows:
            row["translation"][2] -= row["size"][2] / 2

    edit(world, "sample_annotation", sink)
    build_index(world, VERSION, tmp_path / "index.arrow")
    assert (
        "hold more LiDAR points when they are moved up by half their height: is z that of their bottom?" in caplog.text
    )


def tiny(root: Path, told: int, inside: int, boxes: int) -> Path:
    """A keyframe of boxes of 2 m at x = 10, 20, ... (global frame), each with ``inside`` points at its center."""
    objects = [tiny_nuscenes.annotation("car", (10.0 * i + 10, 0, 1.8), (2, 2, 2), 0.0, told) for i in range(boxes)]
    tiny_nuscenes.write(root, VERSION, {"one": [{"ego": ((0, 0, 0), 0.0), "objects": objects}]})
    # LiDAR +x is ego -y: ego (x, 0, 1.8) is (0, x, 0) of the sensor.
    places = [(0.0, 10.0 * i + 10, 0.0) for i in range(boxes) for _ in range(inside)] + [(3.0, -5.0, 0.0)] * 9
    points = np.array([(*place, 7.0, 1.0) for place in places], np.float32)
    (root / "samples/LIDAR_TOP").mkdir(parents=True)
    points.tofile(root / "samples/LIDAR_TOP/one-0.pcd.bin")
    return root


@pytest.mark.parametrize(
    ("told", "inside", "boxes", "refused"),
    [
        (40, 2, 10, True),  # a twentieth
        (39, 2, 10, False),
        (10, 200, 10, True),
        (10, 199, 10, False),
        (40, 2, 9, False),  # too few boxes for a decision
        (9, 0, 10, False),  # so do small objects
    ],
)
def test_the_limits(told: int, inside: int, boxes: int, refused: bool, tmp_path: Path) -> None:
    root = tiny(tmp_path / "tiny", told, inside, boxes)
    if not refused:
        build_index(root, VERSION, tmp_path / "index.arrow")
        return
    numbers = rf"one-0\.pcd\.bin: {inside * boxes} LiDAR points lie in {boxes} boxes for which .* says {told * boxes} "
    with pytest.raises(DataError, match=numbers):
        build_index(root, VERSION, tmp_path / "index.arrow")


def test_a_keyframe_whose_boxes_are_all_empty_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The tables have no counts. One box of another keyframe has points, so that the dataset is not refused."""
    root = tiny(tmp_path / "tiny", -1, 0, 11)
    file = root / "samples/LIDAR_TOP/one-0.pcd.bin"
    np.concatenate([np.fromfile(file, np.float32), np.float32([0, 10, 0, 7, 1])]).astype(np.float32).tofile(file)
    build_index(root, VERSION, tmp_path / "index.arrow")
    assert "not one LiDAR point" not in caplog.text
    (tmp_path / "b").mkdir()
    root = tiny(tmp_path / "b" / "tiny", -1, 0, 11)
    with pytest.raises(DataError, match="all without points"):
        build_index(root, VERSION, tmp_path / "index.arrow")
    assert "one-0.pcd.bin: not one LiDAR point lies in its 11 boxes (1 of 1 keyframes alike); likely" in caplog.text


def test_files_with_far_fewer_points_than_usual_are_counted(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 32 files of about equal size one is cut after its first hundred points."""
    file = sorted((world / "sweeps/LIDAR_TOP").iterdir())[1]
    raw = file.read_bytes()
    file.unlink()
    file.write_bytes(raw[: 100 * 20])
    made = Index.open(build_index(world, VERSION, tmp_path / "index.arrow"))
    assert made.facts.short == 1
    assert "1 of " in caplog.text and f"the fewest {file} with 100: a file that was cut" in caplog.text


@pytest.mark.parametrize(("bare", "far", "said"), [(11, 0, True), (10, 0, False), (20, 5, True), (0, 90, False)])
def test_boxes_near_the_sensor_that_are_mostly_empty_are_said(bare: int, far: int, said: bool) -> None:
    """Twenty boxes at 19 m, ``bare`` of them without points. Empty boxes at 21 m do not count."""
    boxes = [[0.0, 19.0, 0, 4, 2, 1, 0]] * 20 + [[21.0, 0, 0, 4, 2, 1, 0]] * far
    points = [0] * bare + [7] * (20 - bare) + [0] * far
    columns = {"ann_box": [boxes[:3], boxes[3:]], LIDAR: [points[:3], points[3:]], RADAR: [[0] * 3, [0] * (17 + far)]}
    table = pa.table(columns, schema=pa.schema([INDEX_SCHEMA.field(name) for name in columns]))
    words = f"{bare} of 20 boxes within 20 m of the sensor hold no point; likely causes"
    assert usually_empty(table).startswith(words) if said else usually_empty(table) == ""
