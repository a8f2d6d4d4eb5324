"""Tests of implausible tables: impossible values are refused, and unlikely values cause a warning."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.index.rows import INDEX_SCHEMA
from pdetr3d.data.index.shapes import headings_askew, sizes_askew
from pdetr3d.schema import DataError
from pdetr3d.tables.loaded import Tables
from pdetr3d.tables.times import unlikely_times
from tests.unit.test_tables import edit

VERSION = "v1.0-sim"
Rows = list[dict[str, Any]]


@pytest.fixture
def root(sim_world: Path, tmp_path: Path) -> Path:
    """A copy of the simulated world's tables, with links to the folders of its files."""
    shutil.copytree(sim_world / VERSION, tmp_path / "world" / VERSION)
    for folder in ("samples", "sweeps"):
        (tmp_path / "world" / folder).symlink_to(sim_world / folder)
    return tmp_path / "world"


def cameras(rows: Rows) -> Rows:
    return [row for row in rows if row["camera_intrinsic"]]


def intrinsic(i: int, j: int, value: float) -> Callable[[Rows], object]:
    return lambda rows: cameras(rows)[0]["camera_intrinsic"][i].__setitem__(j, value)


def scalar_last(rows: Rows) -> None:
    for row in rows:
        row["rotation"] = row["rotation"][1:] + row["rotation"][:1]


def again(rows: Rows) -> None:
    first = next(row for row in rows if row["is_key_frame"] and "LIDAR_TOP" in row["filename"])
    rows.append(first | {"token": "another", "prev": "", "next": ""})


def in_ms(rows: Rows) -> None:
    for row in rows:
        row["timestamp"] //= 1000


def later(rows: Rows) -> None:
    for row in rows:
        row["timestamp"] += 7_200_000_000


def prev(place: int) -> Callable[[Rows], object]:
    return lambda rows: rows[0].update(prev=rows[place]["token"])


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        # Images of 160 x 90 pixels.
        ("calibrated_sensor", intrinsic(0, 2, 160), r"the principal point \(160, .*\) lies outside .* of 160 x 90 pix"),
        ("calibrated_sensor", intrinsic(1, 2, -1), r"the principal point \([\d.]+, -1\) lies outside"),
        ("calibrated_sensor", intrinsic(0, 0, 8), "a focal length of 8 pixels is none of .*; allowed are 8 to 8000"),
        ("calibrated_sensor", intrinsic(1, 1, 1e6), r"a focal length of 1e\+06 pixels is none of"),
        ("sample_annotation", scalar_last, r"rotation: .* lies on its side, as \d+ of \d+ boxes do .* scalar first"),
        ("ego_pose", scalar_last, r"ego_pose\.json, row \d+ .* as \d+ of \d+ poses of the car do"),
        ("scene", lambda rows: rows[2].update(name=rows[0]["name"]), r"row 2 .*, field name: .* is that of row 0, too"),
        # Keyframes are 0.5 s apart.
        ("sample", in_ms, r"sample\.json, row 1 .*, field timestamp: \d+ is 500 us after that of row 0 of the same"),
        ("sample", later, r"sample_data\.json, row \d+ .*, field timestamp: \d+ is 7200 s from that of its sample"),
        ("sample_annotation", prev(0), r"field prev: '\w+' is in sample \w+, which is not earlier; prev is the same"),
        ("sample_annotation", prev(2), r"field prev: '\w+' is of instance '\w+', but this row of '\w+'; prev is the"),
        ("sample_data", again, r"field is_key_frame: sample \w+ has a keyframe of LIDAR_TOP in row \d+, too"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(table: str, change: Callable[[Rows], object], words: str, root: Path) -> None:
    edit(root, table, change)
    with pytest.raises(DataError, match=words):
        Tables(root, VERSION, classes=NUSCENES_CLASSES)


def test_a_truck_on_its_side_is_allowed(root: Path) -> None:
    """One box of many may be turned by 90 degrees about its length."""
    edit(root, "sample_annotation", lambda rows: rows[0].update(rotation=[0.5**0.5, 0.5**0.5, 0, 0]))
    assert Tables(root, VERSION, classes=NUSCENES_CLASSES).unlikely == []


def test_what_is_unlikely_is_said(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Intrinsics for images of half the size, and a camera upside down: its y axis points up in the ego frame."""

    def change(rows: Rows) -> None:
        row = cameras(rows)[1]
        row["camera_intrinsic"] = [[value / 2 for value in line] for line in row["camera_intrinsic"][:2]] + [[0, 0, 1]]
        # Turned by pi round its own z axis: q (0, 0, 0, 1).
        w, x, y, z = cameras(rows)[2]["rotation"]
        cameras(rows)[2]["rotation"] = [-z, y, -x, w]

    edit(root, "calibrated_sensor", change)
    build_index(root, VERSION, tmp_path / "index.arrow")
    # cx 80 of 160, cy 49 of 90 pixels.
    where = "the principal point lies at 25% of the width and 27% of the height of samples/"
    assert f"camera_intrinsic: {where}" in caplog.text
    assert "is of a camera whose images are upside down (1 calibrations alike): rotations are quat" in caplog.text


def said(root: Path) -> str:
    return "\n".join(Tables(root, VERSION, classes=NUSCENES_CLASSES).unlikely)


def test_a_pose_far_from_the_one_before_is_said(root: Path) -> None:
    """The second keyframe of the first scene is moved by 1 km, within 0.5 s."""
    data = json.loads((root / VERSION / "sample_data.json").read_text())
    keyframes = [row["ego_pose_token"] for row in data if row["is_key_frame"] and "LIDAR" in row["filename"]]

    def change(rows: Rows) -> None:
        row = next(row for row in rows if row["token"] == keyframes[1])
        row["translation"][0] += 1000 if row["translation"][0] > 0 else -1000

    edit(root, "ego_pose", change)
    assert re.search(
        r"ego_pose\.json, row \d+ \(token "
        + keyframes[1]
        + r"\), field translation: \d+ m from the keyframe before it "
        r"in 0\.5 s \(1 such jumps",
        said(root),
    )


@pytest.mark.parametrize(("turn", "words"), [(0, ""), (90, "goes at 87 degrees"), (180, "goes at 177 degrees")])
def test_a_car_that_goes_where_it_is_not_headed_is_said(turn: float, words: str) -> None:
    """Twelve keyframes on a circle to the left, 5 m and 0.5 s apart; their headings are tangents plus ``turn``."""
    poses, samples, data = [], [], []
    for i in range(12):
        way = 0.1 * i  # of the step to the next one: chords lie .05, 3 degrees, left of tangents
        yaw = way + np.radians(turn)
        place = [50 * np.sin(way), -50 * np.cos(way), 1.0]
        poses.append({"token": f"p{i}", "translation": place, "rotation": [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]})
        samples.append({"token": f"s{i}", "scene_token": "a", "timestamp": 500_000 * i})
        data.append({"sample_token": f"s{i}", "ego_pose_token": f"p{i}", "calibrated_sensor_token": "c"})
    tables = {
        "ego_pose": poses,
        "sample": samples[::-1],
        "sample_data": [row | {"is_key_frame": True} for row in data],
        "sensor": [{"token": "l", "channel": "LIDAR_TOP"}],
        "calibrated_sensor": [{"token": "c", "sensor_token": "l"}],
        "sample_annotation": [],
        "instance": [],
    }
    found = unlikely_times(tables)
    assert found == [] if not words else len(found) == 1 and f"between 11 keyframes the car {words} to" in found[0]


def drive(step_m: float, at: Callable[[int, int], float]) -> dict[str, Rows]:
    """Tables of twelve keyframes 0.5 s apart, ``step_m`` apart along x, with two sweeps each, 0.1 and 0.2 s earlier.

    Args:
        at: the x [m] of sweep 1 or 2 of a keyframe; gets the keyframe's number and the sweep's.
    """
    turned = {"rotation": [1.0, 0.0, 0.0, 0.0]}
    poses, samples, data = [], [], []
    for i in range(12):
        samples.append({"token": f"s{i}", "scene_token": "a", "timestamp": 500_000 * i})
        for j in range(3):
            x = at(i, j) if j else step_m * i
            poses.append({"token": f"p{i}-{j}", "translation": [x, 7.0, 1.0], **turned})
            of = {"sample_token": f"s{i}", "ego_pose_token": f"p{i}-{j}", "calibrated_sensor_token": "c"}
            data.append({"token": f"d{i}-{j}", "is_key_frame": not j, "filename": f"{i}-{j}.bin", **of})
    return {
        "ego_pose": poses,
        "sample": samples,
        "sample_data": data,
        "sensor": [{"token": "l", "channel": "LIDAR_TOP"}],
        "calibrated_sensor": [{"token": "c", "sensor_token": "l"}],
        "sample_annotation": [],
        "instance": [],
    }


def test_sweeps_with_the_pose_of_their_keyframe_are_said() -> None:
    assert unlikely_times(drive(5.0, lambda i, j: 5.0 * i - j)) == []
    found = unlikely_times(drive(5.0, lambda i, j: 5.0 * i))
    assert len(found) == 1 and "and so have 24 of 24 sweeps at which the car moves" in found[0]
    assert found[0].startswith("sample_data.json, row 1 (token d0-1), field ego_pose_token: ")
    assert unlikely_times(drive(0.5, lambda i, j: 0.5 * i)) == []  # 1 m/s: it may wait at a light


def test_a_car_that_never_moves_is_said_where_sweeps_are_laid_over_keyframes() -> None:
    still = drive(0.0, lambda i, j: 0.0)
    assert len(found := unlikely_times(still)) == 1 and "at one place in all 11 pairs of keyframes" in found[0]
    still["sample_data"] = [row for row in still["sample_data"] if row["is_key_frame"]]
    assert unlikely_times(still) == []


@pytest.mark.parametrize(
    ("scale", "words"), [(1.0, ""), (1 / 255, "up to 0."), (0.0, "(all 0: was"), (257.0, "up to ")]
)
def test_intensities_of_another_scale_are_said(
    scale: float, words: str, sim_world: Path, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("samples", "sweeps"):
        (root / folder).unlink()
        shutil.copytree(sim_world / folder, root / folder)
    for file in root.glob("s*/LIDAR_TOP/*"):
        points = np.fromfile(file, np.float32).reshape(-1, 5)
        points[:, 3] *= np.float32(scale * 255 / max(points[:, 3].max(), 1))
        points.tofile(file)
    build_index(root, VERSION, tmp_path / "index.arrow")
    assert ("99 % of the intensities are" in caplog.text) == bool(words) and words in caplog.text


def test_objects_that_are_written_twice_are_said(root: Path) -> None:
    """The last annotation again with another token and instance, within a centimeter; and then 3 cm beside."""
    file = root / VERSION / "instance.json"
    instances = json.loads(file.read_text())

    def again(shift_m: float) -> Callable[[Rows], object]:
        def change(rows: Rows) -> None:
            one = next(each for each in instances if each["token"] == rows[-1]["instance_token"])
            instances.append(one | {"token": f"again{shift_m}"})
            x, y, z = (round(value, 2) for value in rows[-1]["translation"])
            rows[-1]["translation"] = [x, y, z]
            new = {"token": f"new{shift_m}", "instance_token": f"again{shift_m}", "prev": "", "next": ""}
            rows.append(rows[-1] | new | {"translation": [x + shift_m, y, z]})

        return change

    for shift_m in (0.03, 0.004):
        edit(root, "sample_annotation", again(shift_m))
        file.write_text(json.dumps(instances))
        assert ("of the same category and sample (1 rows alike): are objects written" in said(root)) == (shift_m < 0.01)


def test_calibrations_in_millimeters_are_said(root: Path) -> None:
    edit(root, "calibrated_sensor", lambda rows: [row.update(translation=[1700.0, 0, 1500]) for row in cameras(rows)])
    assert "translation: [1700.0, 0, 1500] is over 50 m from the car's origin (6 calibrations alike)" in said(root)


def test_one_file_for_several_rows_is_said(root: Path) -> None:
    def change(rows: Rows) -> None:
        images = [row for row in rows if "samples/CAM_BACK/" in row["filename"]]
        for row in images[1:4]:
            row["filename"] = images[0]["filename"]

    edit(root, "sample_data", change)
    assert re.search(r"field filename: samples/CAM_BACK/\S+ is that of row \d+, too \(3 rows alike\)", said(root))


def test_backslashes_are_no_folders(root: Path, tmp_path: Path) -> None:
    edit(root, "sample_data", lambda rows: [row.update(filename=row["filename"].replace("/", "\\")) for row in rows])
    with pytest.raises(
        DataError, match=r"no such LiDAR file, but sample_data.json names it \(folders are parted by /\)"
    ):
        build_index(root, VERSION, tmp_path / "index.arrow")


def test_objects_written_twice_are_said(root: Path) -> None:
    edit(root, "sample_annotation", lambda rows: rows.extend({**r, "token": f"{r['token']}-2"} for r in rows[:7]))
    assert re.search(r"field instance_token: '\w+' is in sample \w+ in row 0, too \(7 rows alike\)", said(root))


def test_calibrations_of_two_cameras_swapped_are_said(root: Path) -> None:
    """The calibrations of the front and the back camera are swapped, so both point in the opposite direction."""

    def change(rows: Rows) -> None:
        one, other = cameras(rows)[0], cameras(rows)[3]
        one["sensor_token"], other["sensor_token"] = other["sensor_token"], one["sensor_token"]

    edit(root, "calibrated_sensor", change)
    assert "CAM_BACK looks 180 degrees away from where its name says (2 calibrations alike)" in said(root)


@pytest.mark.parametrize(("turn", "words"), [(0, ""), (180, "goes at 180 degrees"), (90, "goes at 90 degrees")])
def test_objects_that_do_not_go_where_they_are_headed_are_said(turn: float, words: str) -> None:
    """25 objects move at 3 m/s, headed along their way plus ``turn``; 100 standing or untracked ones do not count."""
    way = np.linspace(-3, 3, 25)
    velocity = np.stack([3 * np.cos(way), 3 * np.sin(way)], 1).tolist() + [[0.1, 1.9]] * 50 + [[np.nan, np.nan]] * 50
    yaw = [*(way + np.radians(turn)), *[2.0] * 100]
    columns = {
        "ann_velocity_m_s": [velocity[:60], velocity[60:]],
        "ann_box": [[[0, 0, 0, 4, 2, 1, angle] for angle in part] for part in (yaw[:60], yaw[60:])],
    }
    schema = pa.schema([INDEX_SCHEMA.field(name) for name in columns])
    found = headings_askew(pa.table(columns, schema=schema))
    assert (words in found) if words else found == ""
    if words:
        assert found.startswith("the usual one of 25 objects that move at over 2 m/s")


@pytest.mark.parametrize(
    ("size", "boxes", "said"),
    [
        ((4.6, 1.9, 1.7), 20, False),  # typical are 4.63, 1.96, 1.74
        ((463, 196, 174), 20, True),  # centimeters
        ((463, 196, 174), 19, False),  # too few for a warning
        ((18.5, 1.9, 1.7), 20, False),  # four times 4.63 are 18.52
        ((18.6, 1.9, 1.7), 20, True),
        ((1.9, 4.6, 1.7), 20, True),  # the width first
        ((1.6, 1.9, 1.7), 20, False),  # a short one: .84 times as long as wide
    ],
)
def test_sizes_that_a_class_does_not_have_are_said(size: tuple[float, ...], boxes: int, said: bool) -> None:
    """The boxes are cars and one barrier of unusual size."""
    columns = {
        "ann_box": [[[0, 0, 0, *size, 0]] * boxes, [[0, 0, 0, 900, 900, 900, 0]]],
        "ann_label": [[0] * boxes, [NUSCENES_CLASSES.label_of["barrier"]]],
    }
    table = pa.table(columns, schema=pa.schema([INDEX_SCHEMA.field(name) for name in columns]))
    found = sizes_askew(table, NUSCENES_CLASSES)
    assert len(found) == said
    if said:
        length, width, height = (f"{side:.3g}" for side in size)
        assert f"of {boxes} boxes of class car is {length} x {width} x {height} m (l, w, h), where 4.63 x" in found[0]


def test_lists_in_lists_without_end_are_one_message(root: Path) -> None:
    (root / VERSION / "log.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match=r"log\.json: cannot be read as JSON \(.*recursion.*\); .*unpack the metadata"):
        Tables(root, VERSION, classes=NUSCENES_CLASSES)


def test_scenes_of_splits_that_do_not_exist_are_said(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / VERSION / "splits.json").write_text(json.dumps({"mine": ["scene-of-mars", "scene-of-venus"]}))
    made = Index.open(build_index(root, VERSION, tmp_path / "index.arrow"))
    assert "splits.json: 2 of 2 scenes of split 'mine' are in no row of scene.json, e.g. 'scene-of-mars'" in caplog.text
    with pytest.raises(DataError, match=r"'mine' has no samples .*splits\.json may name the scenes of more"):
        made.tokens("mine")
