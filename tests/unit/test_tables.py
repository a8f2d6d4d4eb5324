"""Tests of foreign tables: faults for indexing or scoring are named by table, row, field and value."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nuscenes import NuScenes

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import DataConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.evaluation.nuscenes_eval import load_tables, score
from pdetr3d.schema import CLASSES, DataError
from pdetr3d.tables.loaded import Tables
from pdetr3d.tables.names import CATEGORY, Names
from tests.score_cases import ground_truth_predictions

Rows = list[dict[str, Any]]
VERSION = "v1.0-sim"


@pytest.fixture
def world(sim_world: Path, tmp_path: Path) -> Path:
    """A copy of the simulated world made of hard links, but for its tables."""
    shutil.copytree(sim_world, tmp_path / "world", copy_function=os.link)
    shutil.rmtree(tmp_path / "world" / VERSION)
    shutil.copytree(sim_world / VERSION, tmp_path / "world" / VERSION)
    return tmp_path / "world"


def edit(world: Path, table: str, change: Callable[[Rows], object]) -> None:
    file = world / VERSION / f"{table}.json"
    rows = json.loads(file.read_text())
    change(rows)
    file.unlink()  # it may be a hard link to the file of the world that all tests share
    file.write_text(json.dumps(rows))


def put(field: str, value: object, row: int = 3) -> Callable[[Rows], object]:
    return lambda rows: rows[row].update({field: value})


def drop(field: str) -> Callable[[Rows], object]:
    return lambda rows: [row.pop(field) for row in rows]


def camera_row(rows: Rows) -> dict[str, Any]:
    return next(row for row in rows if "CAM_BACK/" in row["filename"])


BAD: list[tuple[str, Callable[[Rows], object], str]] = [
    ("sample", put("timestamp", "1600"), r"sample\.json, row 3 \(token \w+\), field timestamp is '1600', but"),
    ("sample", put("timestamp", 10**20), "field timestamp is 10{20}, but must be a whole number of microseconds"),
    ("sample_annotation", put("num_lidar_pts", 10**20), "field num_lidar_pts is 10{20}, but must be a whole number"),
    ("sample_data", lambda rows: camera_row(rows).update(width=10**20), "field width is 10{20}, but must be a whole"),
    ("sample_data", put("timestamp", 1.6e15), "sample_data.json, row 3 .* field timestamp is 16000+[.]0, but"),
    ("sample_data", put("timestamp", True), "field timestamp is True, but"),
    ("sample_data", drop("prev"), "sample_data.json, row 0 .* field prev is missing, but must be a token"),
    ("sample_data", lambda rows: camera_row(rows).update(width=0), "field width is 0, but must be a whole num"),
    ("sample_data", lambda rows: camera_row(rows).pop("height"), "field height is missing, but must be"),
    ("sample_data", lambda rows: camera_row(rows).update(height="90"), "field height is '90', but must be"),
    ("sample_data", put("is_key_frame", "true"), "field is_key_frame is 'true', but must be true or false"),
    ("ego_pose", put("rotation", [1, 0, 0]), r"ego_pose.json, row 3 .* rotation is \[1, 0, 0\], but must be a"),
    ("ego_pose", put("translation", ["0", 0, 0]), r"translation is \['0', 0, 0\], but must be a list of 3 numbers"),
    ("ego_pose", put("translation", None), "translation is None, but must be a list of 3 numbers"),
    ("ego_pose", put("translation", [10**400, 0, 0]), r"is \[10{400}, 0, 0\], but must be a list of 3 numbers up to"),
    ("log", drop("location"), r"log\.json, row 0 .* field location is missing"),
    ("sample_annotation", drop("num_radar_pts"), r"num_radar_pts is missing, .* \(\d+ rows alike"),
    ("sample_annotation", put("num_lidar_pts", 3.0), "num_lidar_pts is 3.0, but must be a whole number"),
    ("sample_annotation", put("num_lidar_pts", "3"), "num_lidar_pts is '3', but must be a whole number"),
    ("sample_annotation", drop("attribute_tokens"), "attribute_tokens is missing, but must be a list of tokens"),
    ("sample_annotation", put("attribute_tokens", ["gone"]), "attribute_tokens names 'gone', which is in no row"),
    ("attribute", lambda rows: [row.update(name="own") for row in rows], "names 'own', but the devkit"),
    ("sample_annotation", lambda rows: [row.update(attribute_tokens=["a", "b"]) for row in rows], "has 2 tokens"),
    ("instance", put("category_token", "gone"), "instance.json, row 3 .*: 'gone' is in no row of category.json"),
    ("scene", lambda rows: rows[1].update(token=rows[0]["token"]), "row 1 .* field token is that of row 0, too"),
    ("sample", lambda rows: rows.clear(), "sample.json: has no row"),
    ("calibrated_sensor", lambda rows: [row.update(camera_intrinsic=[]) for row in rows], "camera_intrinsic must be"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "change", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_tables(table: str, change: Callable[[Rows], object], message: str, world: Path) -> None:
    edit(world, table, change)
    with pytest.raises(DataError, match=message):
        Tables(world, VERSION, classes=NUSCENES_CLASSES)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "it is empty"),
        (b"\x1f\x8b\x08\x08 packed", "it is compressed by gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"it is a pointer of Git LFS \(git lfs pull"),
        (b'{"token": "a"}\n{"token": "b"}\n', "several values follow each other, as in JSON lines; write one value"),
        (b"[{", "Expecting"),
        (b'[{"token": "a", "location": "b", "location": "c"}]', "these keys stand there twice: location; keep one of"),
    ],
    ids=["empty", "gzip", "lfs", "lines", "cut", "twice"],
)
def test_a_table_that_is_no_json(raw: bytes, words: str, world: Path) -> None:
    (world / VERSION / "log.json").write_bytes(raw)
    with pytest.raises(DataError, match=rf"log\.json: cannot be read as JSON \({words}.*\); .*unpack the metadata"):
        Tables(world, VERSION, classes=NUSCENES_CLASSES)


def test_a_table_that_is_no_list(world: Path) -> None:
    (world / VERSION / "log.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"log\.json: must be a list of objects"):
        Tables(world, VERSION, classes=NUSCENES_CLASSES)


def test_the_tables_are_the_devkits(sim_world: Path) -> None:
    ours, theirs = (
        Tables(sim_world, VERSION, classes=NUSCENES_CLASSES),
        NuScenes(VERSION, str(sim_world), verbose=False),
    )
    assert ours.sample == theirs.sample and ours.sample_annotation == theirs.sample_annotation
    assert ours.sample_data == theirs.sample_data
    token = ours.sample_annotation[5]["token"]
    assert ours.box_velocity(token).tolist() == theirs.box_velocity(token).tolist()


def test_what_nothing_reads_is_not_asked_for(world: Path, sim_world: Path, tmp_path: Path) -> None:
    """Map images and table, visibility, descriptions, radar's and cameras' fields that only pictures need."""
    shutil.rmtree(world / "maps")
    (world / VERSION / "map.json").unlink()
    (world / VERSION / "visibility.json").unlink()
    for table, fields in (("sample_annotation", ["visibility_token"]), ("scene", ["description", "nbr_samples"]),
                          ("sample", ["next", "prev"]), ("log", ["logfile"]), ("ego_pose", ["timestamp"])):  # fmt: skip
        edit(world, table, lambda rows: [row.pop(field, None) for row in rows for field in fields])  # noqa: B023
    made, whole = (Index.open(build_index(r, VERSION, tmp_path / r.parent.name)) for r in (world, sim_world))
    assert made.digest == whole.digest
    predictions, poses = ground_truth_predictions(
        load_tables(world, VERSION, classes=NUSCENES_CLASSES), "sim_val", classes=NUSCENES_CLASSES
    )
    assert score(world, VERSION, "sim_val", predictions, poses, tmp_path / "s", classes=NUSCENES_CLASSES)[
        "mAP_present"
    ] == pytest.approx(1)


def own_names(world: Path) -> None:
    """Give categories and cameras the dataset's own names."""
    short = {name: own for own, name in CATEGORY.items()}
    edit(world, "category", lambda rows: [row.update(name=f"my_{short[row['name']]}") for row in rows])
    edit(world, "sensor", lambda rows: [row.update(channel=row["channel"].lower()) for row in rows])


def test_mapping_files_make_own_names_fit(world: Path, sim_world: Path, tmp_path: Path) -> None:
    own_names(world)
    with pytest.raises(DataError, match=r"has no LIDAR_TOP keyframe .*has .*cam_front.*data\.cameras"):
        build_index(world, VERSION, tmp_path / "bad.arrow")
    categories, cameras = tmp_path / "categories.yaml", tmp_path / "cameras.yaml"
    categories.write_text("".join(f"my_{name}: {name}\n" for name in CLASSES[:9]) + f"my_{CLASSES[9]}: null\n")
    sensors = {row["channel"] for row in json.loads((sim_world / VERSION / "sensor.json").read_text())}
    cameras.write_text("".join(f"{name.lower()}: {name}\n" for name in sorted(sensors)))
    data = DataConfig(categories=str(categories), cameras=str(cameras))
    index = Index.open(build_index(world, VERSION, tmp_path / "index.arrow", data))
    plain = Index.open(build_index(sim_world, VERSION, tmp_path / "plain.arrow"))
    assert index.digest != plain.digest and index.facts.names == Names.read(
        str(categories), str(cameras), classes=NUSCENES_CLASSES
    )
    left_out = 0
    for token in plain.tokens("sim_train"):
        mine, theirs = index.annotations(token), plain.annotations(token)
        kept = theirs.label < 9
        left_out += (~kept).sum()
        assert mine.token.tolist() == theirs.token[kept].tolist() and mine.label.tolist() == theirs.label[kept].tolist()
        assert [camera is not None for camera in index.record(token).cameras] == [True] * 6
    assert left_out and set(index.facts.unknown_categories) == {f"ignored.my_{CLASSES[9]}"}
    nusc = load_tables(world, VERSION, index.facts.names, classes=NUSCENES_CLASSES)
    predictions, poses = ground_truth_predictions(nusc, "sim_val", classes=NUSCENES_CLASSES)
    scores = score(world, VERSION, "sim_val", predictions, poses, tmp_path / "s", nusc, classes=NUSCENES_CLASSES)
    assert scores["mAP_present"] == pytest.approx(1) and scores["n_gt"][CLASSES[9]] == 0 < scores["n_gt"]["car"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"data\.categories .*m\.yaml: cannot be read as YAML \(No such file"),
        ("{", r"m\.yaml: cannot be read as YAML"),
        ("- car", "must be a mapping of names, but is .*own_name: car"),
        ("3: car", "must be a mapping of names"),
        ("vehicle.car: car\nvehicle.car: truck", r"'vehicle\.car' stands twice; each may stand once"),
        ("vehicle.car: cra", r"allowed are car, .*vehicle\.car: 'cra' \(did you mean 'car'\?\)"),
        ("vehicle.cra: car", r"names that are in no row of .*category\.json .*'vehicle\.cra' \(did you mean"),
    ],
)  # fmt: skip
def test_bad_mapping_files(text: str | None, message: str, sim_world: Path, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(DataError, match=f"(?s){message}"):
        Tables(sim_world, VERSION, NUSCENES_CLASSES, Names.read(str(tmp_path / "m.yaml"), "", NUSCENES_CLASSES))


def test_two_channels_of_one_name(sim_world: Path) -> None:
    with pytest.raises(DataError, match="two channels of .* would be CAM_BACK; map one"):
        Tables(sim_world, VERSION, NUSCENES_CLASSES, Names(cameras=(("CAM_FRONT", "CAM_BACK"),)))


@pytest.mark.parametrize("value", [-1, 0, None, float("nan")])
def test_points_that_the_tables_do_not_count(value: float | None, world: Path, sim_world: Path, tmp_path: Path) -> None:
    """Missing counts are computed; they equal the simulated world's counts of the same points and boxes."""
    counts = {"num_lidar_pts": value, "num_radar_pts": value}
    edit(world, "sample_annotation", lambda rows: [row.update(counts) for row in rows])
    made, whole = (Index.open(build_index(r, VERSION, tmp_path / r.parent.name)) for r in (world, sim_world))
    counted = [made.annotations_of_row(row).num_lidar_pts for row in range(len(made))]
    expected = [whole.annotations_of_row(row).num_lidar_pts for row in range(len(made))]
    assert sum(c.sum() for c in counted) > 1000
    for mine, theirs in zip(counted, expected, strict=True):
        assert mine.tolist() == theirs.tolist()
    assert made.facts.counted == sum(map(len, expected)) and whole.facts.counted == 0
    assert not made.annotations_of_row(0).num_radar_pts.any()
    nusc = load_tables(
        world, VERSION, points=made.counted_points(), classes=NUSCENES_CLASSES
    )  # the devkit leaves out objects of 0 points
    predictions, poses = ground_truth_predictions(nusc, "sim_val", classes=NUSCENES_CLASSES)
    assert sum(map(len, predictions.values())) == sum(whole.annotations(t).kept.sum() for t in whole.tokens("sim_val"))


def test_one_object_that_is_not_counted(world: Path, sim_world: Path, tmp_path: Path) -> None:
    edit(world, "sample_annotation", lambda rows: rows[0].update(num_lidar_pts=-1))
    made, whole = (Index.open(build_index(r, VERSION, tmp_path / r.parent.name)) for r in (world, sim_world))
    assert made.facts.counted == 1
    for row in range(len(made)):
        theirs = whole.annotations_of_row(row).num_lidar_pts.tolist()
        assert made.annotations_of_row(row).num_lidar_pts.tolist() == theirs
