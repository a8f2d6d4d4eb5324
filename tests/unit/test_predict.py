"""Tests of ``pdetr3d predict``: its boxes equal evaluation's for files and splits; bad files are named."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pypcd4 import Encoding, PointCloud
from scipy.spatial.transform import Rotation

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.cli import main
from pdetr3d.config import DataConfig
from pdetr3d.data.loading.records import eval_records
from pdetr3d.evaluation.results_format import nuscenes_boxes
from pdetr3d.finished.deploy.box_rows import COLUMNS, DTYPES, to_frame
from pdetr3d.finished.deploy.sweeps import to_sample
from pdetr3d.geometry.rigid import chain
from pdetr3d.inference.clouds import CloudReader
from pdetr3d.inference.frames import Asked, Loaded, file_frames
from pdetr3d.inference.predict import Counts, above_ground
from pdetr3d.inference.student import StudentPredictor
from pdetr3d.schema import Boxes3D, SampleRecord
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build
from tests.alike import places_of
from tests.model_cases import shaken
from tests.training_cases import World, open_world


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run directory with a student of two sweeps and such a low score threshold that it finds boxes everywhere."""
    world = open_world(sim_world, tmp_path_factory.mktemp("predict") / "run", "student.score_threshold=0.09")
    model = shaken(build("student", world.run.config, world.prior_size_m, guidance=False).model)
    checkpoint.save(world.run.path / "student_ours", model, None, 7, world.run.config.to_json())
    world.run.finish("student_ours", {"checkpoints": ["checkpoint.pt"]})
    return world


@pytest.fixture(scope="module")
def records(world: World) -> list[SampleRecord]:
    return list(eval_records(world.data.index, "sim_val"))


@pytest.fixture(scope="module")
def expected(world: World, records: list[SampleRecord]) -> pd.DataFrame:
    """Boxes of the split, sample by sample; ``test_predictors.py`` compares them with evaluation's."""
    student = StudentPredictor.load(world.run.path)
    return pd.concat(
        [to_frame(student.boxes(record), record.sample_token, classes=NUSCENES_CLASSES) for record in records],
        ignore_index=True,
    )


def assert_same(got: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert list(got.columns) == COLUMNS and len(got) == len(expected) > 0
    assert_alike(got.astype(DTYPES), expected)


def assert_alike(got: pd.DataFrame, expected: pd.DataFrame, name: str = "boxes") -> None:
    """Assert equal rows to 1e-4; boxes with nearly equal scores may change places."""
    text = [column for column in expected if expected[column].dtype.kind not in "fiu"]
    codes = [{value: 1e3 * i for i, value in enumerate(sorted(set(expected[column])))} for column in text]
    numbers = [
        rows.assign(**{column: rows[column].map(code) for column, code in zip(text, codes, strict=True)}).to_numpy(
            float
        )
        for rows in (expected, got)
    ]
    got = got.iloc[places_of(*numbers)].reset_index(drop=True)
    pd.testing.assert_frame_equal(got, expected, check_exact=False, rtol=0, atol=1e-4, obj=name)


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments)])


def write_poses(file: Path, records: list[SampleRecord]) -> None:
    """Write a pose file of all keyframes and sweeps, with absolute paths and poses far from the origin."""
    world2there = np.eye(4)
    world2there[:3, :3] = Rotation.from_euler("z", 1.0).as_matrix()
    world2there[:3, 3] = 1000, -2000, 30
    rows: dict[str, list] = {}
    for record in records:
        lidar2global = chain(record.lidar2ego, record.ego2global)
        poses = [(record.lidar_path, lidar2global, 0.0)]
        poses += [(s.path, chain(s.sweep2lidar, lidar2global), s.dt_s) for s in record.sweeps]
        for path, pose, age_s in poses:
            pose = chain(pose, world2there)
            x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
            time = record.timestamp_us - round(age_s * 1e6)
            rows.setdefault(path, [path, time, *pose[:3, 3], w, x, y, z, record.scene_token])
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(["file,timestamp_us,x,y,z,qw,qx,qy,qz,sequence".split(","), *rows.values()])


def test_files_with_poses_give_evaluations_boxes(
    world: World, records: list[SampleRecord], expected: pd.DataFrame, tmp_path: Path
) -> None:
    write_poses(tmp_path / "poses.csv", records)
    files, out = [record.lidar_path for record in records], tmp_path / "boxes.parquet"
    pictures = tmp_path / "pictures"
    assert predict(world.run.path, "--poses", tmp_path / "poses.csv", "--out", out, "--picture", pictures,
                   "--lidar", files[0], *files[1:]) == 0  # fmt: skip
    token_of = {record.lidar_path: record.sample_token for record in records}
    got = pd.read_parquet(out)
    assert_same(got.assign(sample=got["sample"].map(token_of)), expected)
    assert len(list(pictures.glob("*.png"))) == len(records)


def test_a_split_with_and_without_tables(
    world: World, records: list[SampleRecord], expected: pd.DataFrame, tmp_path: Path
) -> None:
    """The output is a table in the LiDAR frame or a results file in the global frame."""
    index = world.run.path / "data" / "index.arrow"
    for suffix in ("parquet", "csv", "json"):
        split = ["--index", index, "--split", "sim_val"]
        assert predict(world.run.path, *split, "--out", tmp_path / f"out.{suffix}") == 0
    assert_same(pd.read_parquet(tmp_path / "out.parquet"), expected)
    assert_same(pd.read_csv(tmp_path / "out.csv"), expected)
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["meta"] == {
        "use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False
    }  # fmt: skip
    student, names = StudentPredictor.load(world.run.path), list(NUSCENES_CLASSES.names)
    for record in records:
        there = nuscenes_boxes(
            record.sample_token, student.boxes(record), (record.lidar2ego, record.ego2global), classes=NUSCENES_CLASSES
        )
        numbers = [
            [[1e3 * names.index(box["detection_name"]), *box["translation"], *box["rotation"]] for box in boxes]
            for boxes in (there, results["results"][record.sample_token])
        ]
        np.testing.assert_allclose(np.array(numbers[1])[places_of(*numbers)], numbers[0], rtol=0, atol=1e-4)


def test_the_same_points_in_every_format(world: World, records: list[SampleRecord], tmp_path: Path) -> None:
    """The files are single sweeps. In .npy the columns have another order, and intensities range to 1."""
    points = np.fromfile(records[0].lidar_path, np.float32).reshape(-1, 5)
    ways: dict[str, list[str]] = {
        "nuscenes.pcd.bin": [],
        "four.bin": ["--columns", "x,y,z,intensity"],
        "five.bin": ["--columns", "x,y,z,intensity,ring"],
        "aged.bin": ["--columns", "x,y,z,intensity,age"],
        "mixed.npy": ["--columns", "intensity,-,z,y,x", "--intensity-max", "1"],
        "text.pcd": [],
        "packed.pcd": [],
    }
    points.tofile(tmp_path / "nuscenes.pcd.bin")
    points[:, :4].tofile(tmp_path / "four.bin")
    points.tofile(tmp_path / "five.bin")
    far = (np.abs(points[:, :2]) >= 1).any(1)  # an accumulated file has the car's own points left out
    np.column_stack([points[far, :4], np.zeros(far.sum(), np.float32)]).tofile(tmp_path / "aged.bin")
    np.save(tmp_path / "mixed.npy", points[:, [3, 4, 2, 1, 0]] * np.array([1 / 255, 1, 1, 1, 1]))
    cloud = PointCloud.from_points(points, ("x", "y", "z", "intensity", "ring"), (np.float32,) * 5)
    cloud.save(tmp_path / "text.pcd", encoding=Encoding.ASCII)
    cloud.save(tmp_path / "packed.pcd", encoding=Encoding.BINARY_COMPRESSED)
    tables = {}
    for name, options in ways.items():
        out = tmp_path / f"{name}.json"
        assert predict(world.run.path, "--lidar", tmp_path / name, *options, "--out", out) == 0
        tables[name] = json.loads(out.read_text())["samples"][str(tmp_path / name)]
    first = pd.DataFrame(tables["nuscenes.pcd.bin"])
    assert len(first) > 5
    for name, rows in tables.items():
        assert_alike(pd.DataFrame(rows), first, name)


def test_points_that_are_not_finite_are_left_out_and_counted(
    world: World, records: list[SampleRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = np.fromfile(records[0].lidar_path, np.float32).reshape(-1, 5)
    points.tofile(tmp_path / "whole.pcd.bin")
    broken = np.concatenate([points, np.full((7, 5), np.nan, np.float32)])
    broken.tofile(tmp_path / "broken.pcd.bin")
    assert predict(world.run.path, "--lidar", tmp_path, "--out", tmp_path / "out.csv") == 0
    said = capsys.readouterr().out
    assert "7 points of 1 samples" in said and "trained on up to 2" in said and "intensity-max" not in said
    assert "further along z" not in said
    np.save(tmp_path / "turned.npy", points[:, [2, 1, 0, 3]])
    words = ["--lidar", tmp_path / "turned.npy", "--columns", "x,y,z,intensity", "--out", tmp_path / "turned.csv"]
    assert predict(world.run.path, *words) == 0
    assert "the points of 1 samples extend further along z than along" in " ".join(capsys.readouterr().out.split())
    np.save(tmp_path / "three.npy", np.c_[points[:, :4], np.arange(len(points)) % 3 * 0.25])
    reader, counts = CloudReader.of("x,y,z,intensity,age", 255.0), Counts()
    loaded = file_frames([tmp_path / "three.npy"], reader, None, 2)[0].load(world.run.config)
    counts.add(loaded, Boxes3D.empty())
    said = [str(counts.summary(Asked([tmp_path]), sweeps).get("sweeps")) for sweeps in (2, 3)]
    assert "up to 3 in a file; the student was trained on up to 2: give it as many" == said[0] and "one per" in said[1]
    boxes = {name: rows.drop(columns="sample").reset_index(drop=True)
             for name, rows in pd.read_csv(tmp_path / "out.csv").groupby("sample")}  # fmt: skip
    assert_alike(boxes["broken.pcd.bin"], boxes["whole.pcd.bin"])


@pytest.mark.parametrize(("moved", "said"), [(0.0, ""), (0.5, ""), (1.84, "1.8 m below"), (-1.5, "1.5 m above")])
def test_points_that_are_too_high_or_low_are_said(moved: float, said: str) -> None:
    """Ten cars stand on a plain 1.8 m below the LiDAR of the training; the points of another LiDAR are moved."""
    xy = np.stack(np.meshgrid(np.arange(-40, 40, 0.5), np.arange(-40, 40, 0.5)), -1).reshape(-1, 2)
    points = np.c_[xy, np.full(len(xy), moved - 1.8), np.zeros((len(xy), 2))].astype(np.float32)
    place = np.linspace(-30, 30, 10)
    center = np.c_[place, place, np.full(10, -1.8 + 0.75)]
    boxes = Boxes3D.build(center, np.tile([4.0, 2.0, 1.5], (10, 1)), np.zeros(10), np.zeros(10))
    np.testing.assert_allclose(above_ground(points, boxes), np.full(5, -moved), atol=1e-6)
    assert len(above_ground(points[:0], boxes)) == len(above_ground(points, boxes[:0])) == 0
    counts = Counts()
    counts.add(Loaded(to_sample({"points": points}, "a", DataConfig()), 0, 0.0, len(points)), boxes)
    few = Counts()
    few.add(Loaded(to_sample({"points": points}, "a", DataConfig()), 0, 0.0, len(points)), boxes[:4])
    counts.merge(few)
    asked = Asked([Path("a.bin")], None, 255.0, None, None, None)
    words = str(counts.summary(asked, 1).get("ground", ""))
    assert words.startswith(f"9 of the 9 best boxes stand about {said} the ground of the points:" if said else "")
    assert bool(words) == bool(said) and "ground" not in few.summary(asked, 1)
    assert "few points" not in counts.summary(asked, 1)
    counts.add(Loaded(to_sample({"points": points}, "a", DataConfig()), 0, 0.0, len(points) // 11), boxes)
    assert counts.summary(asked, 1)["few points"].startswith("1 samples hold fewer than 100 points in the student's")  # type: ignore[attr-defined]


@pytest.fixture
def lidar(tmp_path: Path) -> Path:
    """A folder with one file of four points."""
    folder = tmp_path / "lidar"
    folder.mkdir()
    points = np.array([[5, 1, -1, 9, 3], [6, 2, -1, 8, 0], [-7, 3, 0, 7, 31], [8, -4, 1, 6, 12]], np.float32)
    points.tofile(folder / "a.pcd.bin")
    points.tofile(folder / "b.pcd.bin")
    return folder


PCD = (
    "VERSION .7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH {count}\nHEIGHT 1\n"
    "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA ascii\n"
)
POSES = "file,timestamp_us,x,y,z,qw,qx,qy,qz"


def test_bad_input_is_named_and_nothing_is_written(
    world: World, records: list[SampleRecord], lidar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, index = world.run.path, world.run.path / "data" / "index.arrow"
    for name in ("empty", "photos", "cut", "nan", "pcd"):
        (tmp_path / name).mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    (tmp_path / "cut" / "a.pcd.bin").write_bytes(b"\0" * 21)
    np.full((3, 5), np.nan, np.float32).tofile(tmp_path / "nan" / "a.pcd.bin")
    (tmp_path / "pcd" / "a.pcd").write_text("no header")
    np.save(tmp_path / "a.npy", np.zeros((3, 6), np.float32))
    (tmp_path / "b.npy").write_bytes(b"nothing")
    PointCloud.from_xyz_points(np.zeros((2, 3), np.float32)).save(tmp_path / "xyz.pcd")
    np.zeros((2, 4), np.float32).tofile(tmp_path / "plain.bin")
    np.fromfile(records[0].lidar_path, np.float32)[:4000].tofile(tmp_path / "five.bin")  # 800 points
    scan = np.fromfile(records[0].lidar_path, np.float32).reshape(-1, 5)[:, :4]
    (scan * np.float32([100, 100, 100, 1])).tofile(tmp_path / "cm.bin")
    np.save(tmp_path / "mm.npy", scan * np.float32([1000, 1000, 1000, 1]))
    np.save(tmp_path / "none.npy", scan[:0])
    np.save(tmp_path / "map.npy", scan + np.float32([900, 0, 0, 0]))
    np.save(tmp_path / "utm.npy", scan + np.float32([2500, 500, 0, 0]))
    rows = "\n".join(" ".join(map(str, point)) for point in scan[:40].tolist())
    (tmp_path / "cut.pcd").write_text(PCD.format(count=80) + rows + "\n")
    np.save(tmp_path / "bright.npy", scan * np.float32([1, 1, 1, 0]) + np.float32([0, 0, 0, 200]))
    np.save(tmp_path / "ages.npy", np.c_[scan, np.linspace(0, 0.1, len(scan), dtype=np.float32)])
    (tmp_path / "text.bin").write_text("1.5 2.5 0.1 17\n" * 8)
    (tmp_path / "there.csv").write_text("mine")
    for name, rows in {
        "none": [], "lacking": ["lidar/a.pcd.bin,0,0,0,0,1,0,0,0"],
        "bad": ["lidar/a.pcd.bin,soon,0,0,0,1,0,0,0", "lidar/b.pcd.bin,1,0,0,zero,1,0,0,0", "c.bin,2,0,0,0,2,0,0,0"],
        "twice": ["lidar/a.pcd.bin,1,0,0,0,1,0,0,0", "lidar/b.pcd.bin,1,0,0,0,1,0,0,0"],
        "gone": ["lidar/a.pcd.bin,1,0,0,0,1,0,0,0", "lidar/z.bin,2,0,0,0,1,0,0,0", "lidar/b.pcd.bin,3,0,0,0,1,0,0,0"],
    }.items():  # fmt: skip
        (tmp_path / f"{name}.csv").write_text("\n".join([POSES, *rows]))
    (tmp_path / "columns.csv").write_text("file,x\n")
    everything, out = ["--lidar", lidar], tmp_path / "out.csv"
    cases: list[tuple[list[object], list[str]]] = [
        ([], ["either --lidar FOLDER", "or --index"]),
        (["--lidar", lidar, "--index", index], ["either --lidar FOLDER"]),
        (["--index", index], ["name the split, too"]),
        (["--index", index, "--split", "sim_vla"], ["did you mean 'sim_val'"]),
        (["--index", index, "--split", "sim_val", "--columns", "x"], ["go with --lidar"]),
        ([*everything, "--split", "sim_val"], ["goes with --index"]),
        (["--lidar", tmp_path / "nowhere"], ["nowhere: no such file or folder"]),
        (["--lidar", tmp_path / "empty"], ["holds nothing; allowed are .pcd.bin, .bin, .npy, .pcd"]),
        (["--lidar", tmp_path / "photos"], ["holds 1 files of other kinds"]),
        (["--lidar", tmp_path / "photos" / "a.jpg"], ["a.jpg: not a LiDAR file"]),
        ([*everything, lidar / "a.pcd.bin"], ["a.pcd.bin is named twice"]),
        (["--lidar", tmp_path / "cut"], ["21 bytes, not a multiple of 20", "--columns"]),
        (["--lidar", tmp_path / "five.bin", "--columns", "x,y,z,intensity"],
            ["not points of 4 float32", "repeat every 5, not every 4; name what"]),
        (["--lidar", tmp_path / "nan"], ["none of its 3 points is finite"]),
        (["--lidar", tmp_path / "pcd"], ["a.pcd: cannot be read as PCD"]),
        (["--lidar", tmp_path / "xyz.pcd"], ["xyz.pcd: has the fields x, y, z; ['intensity'] missing"]),
        (["--lidar", tmp_path / "xyz.pcd", "--columns", "x,y,z,intensity"], ["names its own columns"]),
        (["--lidar", tmp_path / "plain.bin"], ["does not say what its columns are", "--columns x,y,z,intensity"]),
        (["--lidar", tmp_path / "a.npy", "--columns", "x,y,z,intensity"], ["shape (3, 6)", "(points, 4)"]),
        (["--lidar", tmp_path / "b.npy", "--columns", "x,y,z,intensity"], ["no .npy file of numbers"]),
        (["--lidar", tmp_path / "cm.bin", "--columns", "x,y,z,intensity"], ["they fit centimeters: write x, y, z in"]),
        (["--lidar", tmp_path / "mm.npy", "--columns", "x,y,z,intensity"], ["they fit millimeters: write x, y, z in"]),
        (["--lidar", tmp_path / "none.npy", "--columns", "x,y,z,intensity"], ["none.npy: holds no point; a scan has"]),
        (["--lidar", tmp_path / "plain.bin", "--columns", "x,y,z,intensity"],
            ["plain.bin: all of its 2 points lie at (0, 0, 0)", "export the file again"]),
        (["--lidar", tmp_path / "map.npy", "--columns", "x,y,z,intensity"],
            [f"none of its {len(scan)} points lies in the student's range, x, y, z from (", "not of a map or the"]),
        (["--lidar", tmp_path / "utm.npy", "--columns", "x,y,z,intensity"],
            ["utm.npy: these are not points in meters: 100%", "apart from the sensor: are they in the frame of a map"]),
        (["--lidar", tmp_path / "cut.pcd"], ["cut.pcd: holds 40 points, but its header says POINTS 80: it was"]),
        (["--lidar", tmp_path / "bright.npy", "--columns", "x,y,z,intensity", "--intensity-max", "1"],
            ["bright.npy: 100% of the intensities are above 1, the largest is 200; --intensity-max 1 says that 1 is"]),
        (["--lidar", tmp_path / "ages.npy", "--columns", "x,y,z,intensity,age"],
            [f"ages.npy: the points have {len(scan)} different ages; allowed are 64", "column -, which"]),
        (["--lidar", tmp_path / "text.bin", "--columns", "x,y,z,intensity"], ["this is a text, '1.5 2.5", "float32"]),
        ([*everything, "--columns", "x,y,y,reflectance"], ["unknown ['reflectance'], twice ['y'], missing ['z', 'i"]),
        ([*everything, "--columns", "x,y,z,intensity,age"], ["age goes from 0 to 31; allowed are 0 to 10 s"]),
        ([*everything, "--columns", "x,y,intensity,z,ring"], ["intensity -1 of a point"]),
        ([*everything, "--columns", "x,y,z,age,intensity"], ["age goes from 6 to 9", "call the column ring"]),
        ([*everything, "--intensity-max", "0"], ["--intensity-max 0: must be a number above 0"]),
        ([*everything, "--poses", tmp_path / "no.csv"], ["no.csv: cannot be read as CSV"]),
        ([*everything, "--poses", tmp_path / "columns.csv"], ["['timestamp_us', 'y', 'z', 'qw', 'qx', 'qy', 'qz']"]),
        ([*everything, "--poses", tmp_path / "none.csv"], ["no row for 2 of 2 files"]),
        ([*everything, "--poses", tmp_path / "lacking.csv"], ["no row for 1 of 2 files, e.g.", "b.pcd.bin"]),
        ([*everything, "--poses", tmp_path / "bad.csv"], ["3 of 3 rows are bad", "row 1: timestamp_us 'soon'",
            "row 2: could not convert", "row 3: qw, qx, qy, qz [2.0, 0.0, 0.0, 0.0] has not length 1"]),
        ([*everything, "--poses", tmp_path / "twice.csv"], ["row 2: timestamp_us 1 as in row 1"]),
        ([*everything, "--poses", tmp_path / "gone.csv"], ["z.bin; put them in place"]),
        ([*everything, "--arm", "full"], ["there: ours; name one with --arm, or a checkpoint file (.pt)"]),
    ]  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    for arguments, messages in cases:
        assert predict(run, *arguments, "--out", out, "--picture", tmp_path / "pictures") == 2, arguments
        error = capsys.readouterr().err
        assert all(message in error for message in messages) and "Traceback" not in error, error
    for name, message in {
        "out.txt": "suffix '.txt'; allowed are .parquet, .json, .csv",
        "no/out.csv": "does not exist; make it",
        "there.csv": "exists and is not overwritten",
    }.items():
        assert predict(run, *everything, "--out", tmp_path / name) == 2
        assert message in capsys.readouterr().err
    assert predict(run, *everything, "--out", tmp_path / "out.csv", "--picture", lidar) == 2
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "there.csv").read_text() == "mine"


def test_no_box_is_a_table_without_rows(
    world: World, lidar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(world.run.path, "--lidar", lidar, "--min-score", "1", "--out", tmp_path / "out.parquet") == 0
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert len(table) == 0 and list(table.columns) == COLUMNS
    assert "2 samples hold fewer than 100 points in the student's range" in " ".join(capsys.readouterr().out.split())
    assert predict(world.run.path, "--lidar", lidar, "--min-score", "1", "--out", tmp_path / "out.json") == 0
    assert json.loads((tmp_path / "out.json").read_text())["samples"] == {"a.pcd.bin": [], "b.pcd.bin": []}
