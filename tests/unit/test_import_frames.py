"""Tests of the plain format's import, by hand: axes, poses, sweeps, velocities, cameras, regions, bad rows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pdetr3d.cli import main
from pdetr3d.config import DataConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.index.regions import read_regions
from pdetr3d.data.label_manifest import inspection_record
from pdetr3d.data.loading.load import load_sample
from pdetr3d.geometry.camera import project
from pdetr3d.importers.plain import VERSION, import_frames
from pdetr3d.importers.rows import sample_token
from pdetr3d.schema import DataError

DATA = DataConfig(lidar_ring=False, num_sweeps=2, image_size_px=(200, 100))
DRIVE_M = 3.0  # between two frames 0.5 s apart, forward
# A camera 0.5 m before and 0.3 m above the LiDAR that looks forward: file axes x forward, y left, z up.
CAMERA = {"fx": 100.0, "fy": 100.0, "cx": 100.0, "cy": 50.0, "x": 0.5, "y": 0.0, "z": 0.3,
          "qw": 0.5, "qx": -0.5, "qy": 0.5, "qz": -0.5}  # fmt: skip


def write(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Two scenes: a drive of two keyframes with a sweep between them, and a single frame without a pose. x is forward.

    A parked car stands 20 m before the first frame and 2 m to the left, lengthwise; it is 14 m ahead in the last. A
    walker crosses: 1 m to the left in 1 s."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    frames, boxes, cameras = [], [], []
    for number, (name, key) in enumerate((("a0", True), ("a1", False), ("a2", True))):
        pose = {"x": 5.0 + DRIVE_M * number, "y": 7.0, "z": 1.0, "qw": 1.0, "qx": 0.0, "qy": 0.0, "qz": 0.0}
        frames.append({"frame": name, "scene": "a", "timestamp_us": 500_000 * number, "lidar": f"{name}.bin",
                       "keyframe": key, "split": "train", **pose})  # fmt: skip
        car = np.array([20.0 - DRIVE_M * number, 2.0, -1.0])
        points = np.concatenate([car + rng.uniform(-0.5, 0.5, (50, 3)), rng.uniform(3, 30, (200, 3)) * [1, 1, -0.05]])
        np.c_[points, rng.uniform(0, 1, len(points))].astype("<f4").tofile(root / f"{name}.bin")
        if key:
            boxes.append({"frame": name, "category": "car", "x": car[0], "y": 2.0, "z": -1.0, "l": 4.0, "w": 2.0,
                          "h": 1.5, "yaw": 0.1, "track": "c"})  # fmt: skip
            boxes.append({"frame": name, "category": "pedestrian", "x": 10.0 - DRIVE_M * number, "y": 1.0 * number / 2,
                          "z": -1.0, "l": 0.6, "w": 0.7, "h": 1.8, "yaw": 1.5, "track": "w"})  # fmt: skip
            cv2.imwrite(str(root / f"{name}.png"), rng.integers(0, 255, (100, 200, 3), np.uint8))
            cameras.append({"frame": name, "channel": "CAM_FRONT", "file": f"{name}.png", **CAMERA})
    frames.append({"frame": "b", "scene": "b", "timestamp_us": 0, "lidar": "a0.bin", "split": "val"})
    regions = [{"frame": "b", "valid": [[[0.0, 0.0], [50.0, 50.0], [50.0, -50.0]]], "ignore": None}]
    tables = {"frames": frames, "boxes": boxes, "cameras": cameras, "regions": regions}
    save(root, tables)
    return tables


def save(root: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in tables.items():
        keys = list(dict.fromkeys(key for row in rows for key in row))
        table = pa.table({key: pa.array([row.get(key) for row in rows]) for key in keys})
        pq.write_table(table, root / f"{name}.parquet")


def run(root: Path, out: Path, **options: Any) -> dict[str, Any]:
    return import_frames(root, out, "x", columns="x,y,z,intensity", intensity_max=1.0, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    write(folder / "root")
    run(folder / "root", folder / "out")
    build_index(folder / "out", VERSION, folder / "index.arrow", DATA)
    return folder


def test_boxes_points_and_velocities(made: Path) -> None:
    """LIDAR_TOP's x is the files' -y and its y is the files' x, so yaw changes by a quarter turn."""
    index = Index.open(made / "index.arrow")
    found = index.annotations(sample_token(VERSION, "a2"))
    assert found.box[0] == pytest.approx([-2, 14, -1, 4, 2, 1.5, 0.1 + math.pi / 2])
    assert found.box[1] == pytest.approx([-1, 4, -1, 0.6, 0.7, 1.8, 1.5 + math.pi / 2 - 2 * math.pi], abs=1e-6) or (
        found.box[1] == pytest.approx([-1, 4, -1, 0.6, 0.7, 1.8, 1.5 + math.pi / 2], abs=1e-6)
    )
    # In a second the car moved by nothing, the walker 1 m to the left, which is -x.
    assert found.velocity_m_s[0] == pytest.approx([0, 0], abs=1e-9)
    assert found.velocity_m_s[1] == pytest.approx([-1, 0], abs=1e-9)
    assert found.num_lidar_pts[0] >= 50
    raw = np.fromfile(made / "root" / "a2.bin", "<f4").reshape(-1, 4)
    points = np.fromfile(made / "out/samples/LIDAR_TOP/a2.pcd.bin", "<f4").reshape(-1, 5)
    assert np.allclose(points[:, :3], np.c_[-raw[:, 1], raw[:, 0], raw[:, 2]]) and np.allclose(
        points[:, 3], 255 * raw[:, 3]
    )


def test_sweeps_are_joined_by_the_poses(made: Path) -> None:
    """The sweep was taken 3 m behind the last frame, so its points lie 3 m nearer in that frame (y is forward)."""
    record = inspection_record(Index.open(made / "index.arrow"), sample_token(VERSION, "a2"))
    assert [Path(sweep.path).name for sweep in record.sweeps] == ["a1.pcd.bin", "a0.pcd.bin"]
    assert [sweep.dt_s for sweep in record.sweeps] == pytest.approx([0.5, 1.0])
    assert record.sweeps[0].sweep2lidar[:3, 3] == pytest.approx([0, -DRIVE_M, 0], abs=1e-9)
    sample = load_sample(record, DATA, cameras=True)
    earlier = sample.points[sample.points[:, 4] > 0]
    raw = np.fromfile(made / "root" / "a1.bin", "<f4").reshape(-1, 4)
    assert np.allclose(earlier[:, :3], np.c_[-raw[:, 1], raw[:, 0] - DRIVE_M, raw[:, 2]], atol=1e-5)


def test_cameras_by_hand(made: Path) -> None:
    """The car's center in the files' frame of a0 is (20, 2, -1): 19.5 before the camera, 2 to the left, 1.3 below."""
    record = inspection_record(Index.open(made / "index.arrow"), sample_token(VERSION, "a0"))
    camera = record.cameras[0]
    assert camera is not None and (camera.width_px, camera.height_px) == (200, 100) and record.cameras[1] is None
    pixel, depth = project(camera.lidar2img, np.array([-2.0, 20.0, -1.0]))
    assert depth == pytest.approx(19.5)
    assert pixel == pytest.approx([100 - 100 * 2 / 19.5, 50 + 100 * 1.3 / 19.5])


def test_regions_and_splits(made: Path) -> None:
    regions = read_regions(made / "out" / VERSION)
    found = regions[sample_token(VERSION, "b")]
    assert list(regions) == [sample_token(VERSION, "b")]
    assert found.valid_at(np.array([[0.0, 10.0], [9.0, 10.0], [11.0, 10.0], [0.0, -1.0]])).tolist() == [
        True,
        True,
        False,
        False,
    ]
    splits = json.loads((made / "out" / VERSION / "splits.json").read_text())
    assert splits == {"frames_all": ["a", "b"], "frames_train": ["a"], "frames_val": ["b"]}
    facts = json.loads((made / "out" / VERSION / "import.json").read_text())
    assert (facts["frames"], facts["sweeps"], facts["images"], facts["frames_with_regions"]) == (3, 1, 2, 1)


def test_csv_files_and_the_verb(made: Path, tmp_path: Path) -> None:
    """The command on CSV files gives the same annotations; axes taken for y-forward would give others."""
    tables = write(tmp_path / "root")
    for name in ("frames", "boxes"):
        rows = tables[name]
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines = [",".join(keys), *(",".join(str(row.get(key, "")) for key in keys) for row in rows)]
        (tmp_path / "root" / f"{name}.csv").write_text("\n".join(lines) + "\n")
        (tmp_path / "root" / f"{name}.parquet").unlink()
    words = ["import", "frames", "--root", tmp_path / "root", "--out", tmp_path / "out", "--forward", "x", "--columns"]
    assert main([*map(str, words), "x,y,z,intensity", "--intensity-max", "1"]) == 0
    one, other = (
        json.loads((folder / "out" / VERSION / "sample_annotation.json").read_text()) for folder in (made, tmp_path)
    )
    assert one == other


def save_regions(root: Path, cell: str) -> None:
    (root / "regions.parquet").unlink()
    (root / "regions.csv").write_text(f'frame,valid,ignore\nb,"{cell}",\n')


def test_regions_of_a_csv_file(made: Path, tmp_path: Path) -> None:
    """A cell holds the polygons of the Parquet file as JSON. [] is nowhere, an empty cell everywhere."""
    write(tmp_path / "root")
    save_regions(tmp_path / "root", "[[[0, 0], [50, 50], [50, -50]]]")
    run(tmp_path / "root", tmp_path / "out")
    one, other = (read_regions(folder / "out" / VERSION)[sample_token(VERSION, "b")] for folder in (made, tmp_path))
    assert one.valid is not None and other.valid is not None and np.array_equal(one.valid, other.valid)
    assert one.ignore == other.ignore == ()
    (tmp_path / "root" / "regions.csv").write_text('frame,valid,ignore\na0,[],\nb,,"[[[1, 1], [2, 1], [2, 2]]]"\n')
    run(tmp_path / "root", tmp_path / "other")
    regions = read_regions(tmp_path / "other" / VERSION)
    assert regions[sample_token(VERSION, "a0")].valid == ()
    assert regions[sample_token(VERSION, "b")].valid is None and len(regions[sample_token(VERSION, "b")].ignore) == 1


@pytest.mark.parametrize(
    "cell",
    ["[[[0, 0], [1, 1]]]", "[[[0, 0], [1, 1]", "{}", "everywhere", "3", "null", pytest.param("[" * 9999, id="deep")],
)
def test_csv_cells_that_are_no_polygons_are_refused(cell: str, tmp_path: Path) -> None:
    write(tmp_path / "root")
    save_regions(tmp_path / "root", cell)
    with pytest.raises(DataError, match=r"regions.csv, row 1: valid .* must be a list of polygons .*in CSV as JSON"):
        run(tmp_path / "root", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def edit(table: str, row: int, **values: Any) -> Callable[[dict], None]:
    return lambda tables: tables[table][row].update(values)


def drop(table: str, row: int, *keys: str) -> Callable[[dict], None]:
    return lambda tables: [tables[table][row].pop(key) for key in keys]  # type: ignore[func-returns-value]


CASES: dict[str, tuple[Callable[[dict], None], str]] = {
    "no number": (edit("boxes", 1, x=math.nan), r"boxes.parquet, row 2: x nan must be a finite number"),
    "flat": (edit("boxes", 0, h=0.0), r"boxes.parquet, row 1: h 0.0 must be meters, above 0"),
    "millimeters": (edit("boxes", 0, l=4000.0), r"boxes.parquet, row 1: l 4000.0 must be meters, above 0 and up to 10"),
    "class": (edit("boxes", 0, category="cra"), r"boxes.parquet, row 1: class 'cra' \(did you mean 'car'\?\) is not"),
    "frame": (edit("boxes", 0, frame="z"), r"boxes.parquet, row 1: frame 'z' is in no row of .*frames.parquet"),
    "sweep": (edit("boxes", 0, frame="a1"), r"boxes.parquet, row 1: frame 'a1' is no keyframe"),
    "twice": (edit("frames", 1, frame="a0"), r"frames.parquet, row 2: frame 'a0' is in an earlier row"),
    "time": (edit("frames", 1, timestamp_us=-5), r"frames.parquet, row 2: timestamp_us -5 must be a whole number"),
    "one time": (edit("frames", 1, timestamp_us=0), r"frames 'a0' and 'a1' of scene 'a' have timestamps 0 and 0 us"),
    "milliseconds": (edit("frames", 1, timestamp_us=500), r"have timestamps 0 and 500 us, less than 1000 us apart"),
    "degrees": (edit("boxes", 0, yaw=90.0), r"boxes.parquet, row 1: yaw 90.0 must be an angle in radians, -2 pi to"),
    "track twice": (edit("boxes", 1, track="c"), r"boxes.parquet, row 2: frame 'a0' has a box of track 'c' already"),
    "no track": (edit("boxes", 0, track="NaN"), r"boxes.parquet, row 1: track 'NaN' must be the name of an object, or"),
    "focal length": (edit("cameras", 0, fx=0.01), r"cameras.parquet, row 1: fx 0.01 is no focal length in pixels"),
    "file": (edit("frames", 0, lidar="x.bin"), r"frames.parquet, row 1: lidar 'x.bin': no such file"),
    "escape": (edit("frames", 0, lidar="../a0.bin"), r"frames.parquet, row 1: lidar '../a0.bin' must be a path rel"),
    "half a pose": (drop("frames", 0, "qw"), r"frames.parquet, row 1: a pose has .* but \['qw'\] are missing"),
    "long quaternion": (edit("frames", 0, qw=2.0), r"frames.parquet, row 1: qw, qx, qy, qz .* must have length 1"),
    "some poses": (drop("frames", 0, "x", "y", "z", "qw", "qx", "qy", "qz"), r"scene 'a' has 2 poses for 3 frames"),
    "two splits": (edit("frames", 0, split="val"), r"scene 'a' is in splits \['train', 'val'\]"),
    "no keyframe": (edit("frames", 3, keyframe=False), r"scene 'b' has no keyframe"),
    "channel": (edit("cameras", 0, channel="front"), r"cameras.parquet, row 1: channel 'front' must be one of CAM_F"),
    "image": (edit("cameras", 0, file="x.png"), r"cameras.parquet, row 1: file 'x.png': missing or broken"),
    "image size": (edit("cameras", 0, cx=400.0), r"cameras.parquet, row 1: cx, cy 400 50 is outside the image of 200"),
    "polygon": (
        edit("regions", 0, valid=[[[0.0, 0.0], [1.0, 1.0]]]),
        r"regions.parquet, row 1: valid .* must be a list of polygons of three corners",
    ),
    "column": (edit("boxes", 0, score=0.5), r"boxes.parquet: unknown column\(s\) \['score'\]; needed: frame, category"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    spoil, expected = CASES[case]
    tables = write(tmp_path / "root")
    spoil(tables)
    save(tmp_path / "root", tables)
    with pytest.raises(DataError, match=expected):
        run(tmp_path / "root", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


@pytest.mark.parametrize(
    ("value", "said"),
    [("1_0.5", "x '1_0.5' must be a finite number"), ("\uff11", "x '\uff11' must be a finite number")],
)
def test_numbers_that_only_python_reads(value: str, said: str, tmp_path: Path) -> None:
    tables = write(tmp_path / "root")
    tables["boxes"][0]["x"] = value
    columns = [name for name in tables["boxes"][0] if name != "polygon"]
    lines = [",".join(str(row.get(name, "")) for name in columns) for row in tables["boxes"]]
    (tmp_path / "root" / "boxes.parquet").unlink(missing_ok=True)
    lines.append("," * (len(columns) - 1))
    (tmp_path / "root" / "boxes.csv").write_text("\n".join([",".join(columns), *lines]), encoding="utf-8")
    with pytest.raises(DataError, match=rf"boxes\.csv, row 1: {said}") as caught:
        run(tmp_path / "root", tmp_path / "out")
    assert str(caught.value).count(f"row {len(lines)}: ") == 1
    assert f"boxes.csv, row {len(lines)}: all its values are empty; remove the row" in str(caught.value)


def test_boxes_of_a_frame_whose_row_is_bad_are_no_further_faults(tmp_path: Path) -> None:
    tables = write(tmp_path / "root")
    tables["frames"][0]["timestamp_us"] = -5
    save(tmp_path / "root", tables)
    with pytest.raises(DataError) as caught:
        run(tmp_path / "root", tmp_path / "out")
    assert "timestamp_us -5" in str(caught.value) and "is in no row of" not in str(caught.value)


def test_boxes_that_are_written_twice_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tables = write(tmp_path / "root")
    run(tmp_path / "root", tmp_path / "right")
    assert not caplog.text
    tables["boxes"] += [box | {"track": f"{box['track']}2"} for box in tables["boxes"]]
    save(tmp_path / "root", tables)
    run(tmp_path / "root", tmp_path / "out")
    assert "objects 0 and 2 (counted from 0) are both of category vehicle.car" in caplog.text
    assert "and 4 objects in all are such doubles" in caplog.text


def test_point_files_need_their_columns(tmp_path: Path) -> None:
    write(tmp_path / "root")
    with pytest.raises(DataError, match=r"a0.bin: a .bin file does not say what its columns are"):
        import_frames(tmp_path / "root", tmp_path / "out", "x")
    with pytest.raises(DataError, match=r"no frames.parquet or frames.csv"):
        run(tmp_path, tmp_path / "out")
