"""Tests of the import of people's clicks: three file kinds, three frames, all bad rows in one message."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest

from pdetr3d.config import LabelConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import LabelManifest, training_records
from pdetr3d.data.labels.human_clicks import read_clicks
from pdetr3d.data.labels.people_manifest import import_clicks
from pdetr3d.geometry.rigid import apply, chain, inverse
from pdetr3d.schema import CLASSES, DataError

CONFIG = LabelConfig()


@pytest.fixture(scope="module")
def index(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.open(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("index") / "index.arrow"))


@pytest.fixture(scope="module")
def rows(index: Index) -> list[dict]:
    """Clicks on the centers of the kept objects of two samples; the rows use the three frames in turn."""
    result = []
    for token in index.tokens("sim_train")[:2]:
        record, annotations = index.record(token), index.annotations(token)
        kept = annotations.kept
        for i, (label, center) in enumerate(zip(annotations.label[kept], annotations.box[kept, :3], strict=True)):
            frame = ("global", "ego", "lidar")[i % 3]
            to_frame = {
                "global": chain(record.lidar2ego, record.ego2global),
                "ego": record.lidar2ego,
                "lidar": np.eye(4),
            }[frame]
            x, y, z = apply(to_frame, center)
            result.append({"sample_token": token, "x": x, "y": y, "z": z, "class": CLASSES[label], "frame": frame})
    return result


def _write(rows: list[dict], path: Path) -> Path:
    if path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_clicks_in_all_frames_arrive_in_the_lidar_frame(
    index: Index, rows: list[dict], suffix: str, tmp_path: Path
) -> None:
    manifest = import_clicks(index, "sim_train", CONFIG, _write(rows, tmp_path / f"clicks.{suffix}"), tmp_path / "out")
    assert isinstance(manifest, LabelManifest) and set(manifest.roles.values()) == {"box"}  # all have annotations
    records = training_records(index, manifest)
    assert len(records) == 6 and sum(len(record.clicks) for record in records[:2]) == len(rows) > 20
    for record in records[:2]:
        # Each click was put on a box's center, so it is matched to a box of its class there.
        assert (record.clicks.box_index >= 0).all()
        boxes = record.boxes[record.clicks.box_index]
        np.testing.assert_array_equal(boxes.label, record.clicks.label)
        np.testing.assert_allclose(boxes.center_m, record.clicks.xyz_m, atol=1e-5)
    table = manifest.clicks.to_pandas()
    human = table[table["source"] == "human"]
    assert human["annotation_token"].isna().all() and table["track_id"].isna().all()
    assert set(human["sample_token"]) == {record.sample_token for record in records[:2]} and len(human) == len(rows)
    # Every kept object of the box-labeled samples has one click: the others' are simulated.
    kept = [index.annotations(record.sample_token).kept.sum() for record in records]
    assert [len(record.clicks) for record in records] == kept and (table["source"] == "sim").sum() == sum(kept[2:])


def test_click_ids_do_not_depend_on_row_order(index: Index, rows: list[dict], tmp_path: Path) -> None:
    first = import_clicks(index, "sim_train", CONFIG, _write(rows, tmp_path / "a.csv"), tmp_path / "a")
    second = import_clicks(index, "sim_train", CONFIG, _write(rows[::-1], tmp_path / "b.json"), tmp_path / "b")
    assert first.digest == second.digest


def test_track_ids_are_kept(index: Index, rows: list[dict], tmp_path: Path) -> None:
    tracked = [row | {"track_id": "a1" if i == 0 else ""} for i, row in enumerate(rows[:3])]
    manifest = import_clicks(index, "sim_train", CONFIG, _write(tracked, tmp_path / "a.csv"), tmp_path / "out")
    human = manifest.clicks.filter(pc.equal(manifest.clicks["source"], "human"))
    assert sorted(human["track_id"].to_pylist(), key=str) == [None, None, "a1"]


def test_a_track_is_one_object_of_its_scene(index: Index, rows: list[dict], tmp_path: Path) -> None:
    first, second = index.tokens("sim_train")[:2]  # of one scene
    assert index.value(first, "scene_token") == index.value(second, "scene_token")
    elsewhere = index.tokens("sim_train")[2]
    car = rows[0] | {"class": "car", "frame": "lidar", "x": 1.0, "y": 2.0, "track_id": "a"}
    fine = [car, car | {"sample_token": second}, car | {"sample_token": elsewhere, "class": "bus"}]
    manifest = import_clicks(index, "sim_train", CONFIG, _write(fine, tmp_path / "a.csv"), tmp_path / "a")
    human = manifest.clicks.filter(pc.equal(manifest.clicks["source"], "human"))
    assert manifest.track_of == dict.fromkeys(human["click_id"].to_pylist(), "a") and len(manifest.track_of) == 3
    bad = [*fine, car | {"x": 2.0}, car | {"sample_token": second, "class": "bus", "x": 2.0, "track_id": "b"},
           car | {"track_id": "b", "x": 3.0}]  # fmt: skip
    with pytest.raises(DataError) as caught:
        import_clicks(index, "sim_train", CONFIG, _write(bad, tmp_path / "b.csv"), tmp_path / "b")
    message = str(caught.value)
    assert "2 of 6 rows are bad" in message and not (tmp_path / "b").exists()
    assert "row 4: track_id 'a' is in row 1 of the same sample" in message
    assert "row 6: track_id 'b' is a car, but a bus in row 5" in message


def test_all_bad_rows_are_reported_and_nothing_is_written(index: Index, rows: list[dict], tmp_path: Path) -> None:
    far = next(row for row in rows if row["frame"] == "global") | {"frame": "lidar", "x": 900.0}
    bad = [
        rows[0],
        rows[1] | {"sample_token": "nowhere"},
        rows[2] | {"x": "left", "class": "cars"},
        rows[3] | {"z": "nan"},
        rows[4] | {"frame": "world"},
        far,
        rows[0],
        rows[5] | {"sample_token": index.tokens("sim_val")[0]},
    ]
    with pytest.raises(DataError) as caught:
        import_clicks(index, "sim_train", CONFIG, _write(bad, tmp_path / "clicks.csv"), tmp_path / "out")
    message = str(caught.value)
    assert "clicks.csv: 7 of 8 rows are bad, nothing was written" in message
    for expected in (
        "row 2: sample_token 'nowhere' is not in the index",
        "row 3: x 'left' is not a finite number",
        "row 3: class 'cars' is no class here (did you mean 'car'?): allowed are car, truck",
        "row 4: z 'nan' is not a finite number",
        "row 5: frame 'world' is not allowed: global, ego, lidar",
        "row 6: frame 'lidar': the click is at (900.0",
        "row 7: same click as row 1",
        "row 8: sample_token",
        "but not in split 'sim_train'",
    ):
        assert expected in message, expected
    assert "row 1:" not in message and not (tmp_path / "out").exists()


def test_a_file_in_another_frame_than_it_says(index: Index, rows: list[dict], tmp_path: Path) -> None:
    row = next(row for row in rows if row["frame"] == "global")
    record = index.record(row["sample_token"])
    inside = apply(inverse(chain(record.lidar2ego, record.ego2global)), [[row[axis] for axis in "xyz"]])
    claimed = [row | {"frame": "lidar", "y": row["y"] + 1e-3 * i} for i in range(110)]  # 550 m from its origin
    with pytest.raises(DataError) as caught:
        read_clicks(index, "sim_train", _write(claimed, tmp_path / "clicks.csv"))
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("110 of 110 rows are bad, nothing was written:")
    assert lines[1].endswith(f"over 200 m; in frame 'global' it would be {np.linalg.norm(inside):.1f} m from it")
    assert len(lines) == 102 and lines[-1] == "... and 10 more"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", r"a\.txt: click files are \.csv, \.json or \.parquet"),
        ("a.json", "[{", r"a\.json: not readable as JSON"),
        ("a.json", '{"x": 1}', "must be a list of objects"),
        ("a.json", '[{"x": 1, "y": 2, "x": 3}]', r"not readable as JSON \(these keys stand there twice: x; keep one"),
        ("a.parquet", "no", r"a\.parquet: not readable as PARQUET"),
        ("a.csv", "sample_token,x,y,z\nt,1,2,3\n", r"column\(s\) \['class', 'frame'\] missing"),
        (
            "a.csv",
            "sample_token;x;y;z;class;frame\n",
            r"its header is one column, .* with ';' between names; write it as",
        ),
        ("a.csv", "", r"missing, has \[\]"),
        (
            "a.csv",
            "sample_token,x,y,z,class,frame,x\n",
            r"\['x'\] are in its header more than once, .*keep one of each",
        ),
        ("a.csv", "sample_token, x, y, z, class, frame\n", r"blanks around them, \[' x', ' y', .*remove the blanks"),
        (
            "a.csv",
            "t1,1,2,3,car,lidar\n",
            r"its first line, 't1, 1, 2, 3, car, lidar', names no column of clicks; put a",
        ),
    ],
)
def test_unreadable_files(index: Index, tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        import_clicks(index, "sim_train", CONFIG, tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_file_surplus_values_and_no_clicks(index: Index, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such click file"):
        import_clicks(index, "sim_train", CONFIG, tmp_path / "none.csv", tmp_path / "out")
    token = index.tokens("sim_train")[0]
    (tmp_path / "a.csv").write_text(f"sample_token,x,y,z,class,frame\n{token},1,2,3,car,lidar,7\n{token},1,2\n")
    with pytest.raises(DataError, match=r"row 1: 1 values more than the header.*\n  row 2: z None is not"):
        import_clicks(index, "sim_train", CONFIG, tmp_path / "a.csv", tmp_path / "out")
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(DataError, match=r"b\.json: holds no click, and no sample is marked as empty in b\.json\.done"):
        import_clicks(index, "sim_train", CONFIG, tmp_path / "b.json", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_people_may_find_only_empty_samples(index: Index, tmp_path: Path) -> None:
    """A file without rows is fine if the file beside it names a sample that holds no object."""
    empty = index.tokens("sim_train")[1]
    (tmp_path / "a.csv").write_text("sample_token,x,y,z,class,frame\n")
    (tmp_path / "a.csv.done.json").write_text(json.dumps({"done": [], "empty": [empty]}))
    assert read_clicks(index, "sim_train", tmp_path / "a.csv").empty == {empty}
    (tmp_path / "a.csv.done.json").unlink()
    with pytest.raises(DataError, match="holds no click"):
        read_clicks(index, "sim_train", tmp_path / "a.csv")


def test_a_file_in_the_place_of_the_folder_is_named(index: Index, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    (tmp_path / "a.csv").write_text(f"sample_token,x,y,z,class,frame\n{index.tokens('sim_train')[0]},1,2,3,car,lidar\n")
    with pytest.raises(DataError, match="out is a file; name a folder by --out"):
        import_clicks(index, "sim_train", CONFIG, tmp_path / "a.csv", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_values_that_stand_for_something_else(index: Index, tmp_path: Path) -> None:
    """Empty rows of Excel, missing tracks of pandas, numbers that only Python reads: one sentence for each."""
    token = index.tokens("sim_train")[0]
    lines = [
        "sample_token,x,y,z,class,frame,track_id",
        f"{token},1_0.5,2,3,car,lidar,",
        f"{token},1,\uff12,3,car,lidar,",
    ]
    lines += [",,,,,,", f"{token},1,2,3,car,lidar,nan"]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        import_clicks(index, "sim_train", CONFIG, tmp_path / "a.csv", tmp_path / "out")
    assert str(caught.value).splitlines()[1:] == [
        "  row 1: x '1_0.5' is not a finite number [m]",
        "  row 2: y '\uff12' is not a finite number [m]",
        "  row 3: all its values are empty; remove the row",
        "  row 4: track_id 'nan' stands for a missing value; leave the value empty",
    ]
    huge = {"sample_token": token, "x": 10**400, "y": 2, "z": 3, "class": "car", "frame": "lidar"}
    (tmp_path / "a.json").write_text(json.dumps([huge]))
    with pytest.raises(DataError, match=r"row 1: x 10+ is not a finite number"):
        import_clicks(index, "sim_train", CONFIG, tmp_path / "a.json", tmp_path / "out")


def test_a_file_in_utf_16(index: Index, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sample_token,x,y,z,class,frame\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"not readable as CSV \(it is in UTF-16, .* write it as text in UTF-8"):
        import_clicks(index, "sim_train", CONFIG, tmp_path / "a.csv", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"Done": []}', r"has key\(s\) \['Done'\]\); correct or remove it"),
        ('{"done": {"a": 1}}', r"its values are lists"),
        ('{"done": ["a"], "done": []}', r"these keys stand there twice: done"),
        (
            '{"done": ["a", "TOKEN"], "empty": ["b"]}',
            r"2 of its 3 samples are not in the index, e\.g\. 'a'; correct them, or remove the file if it is of",
        ),
    ],
)
def test_a_file_of_finished_frames_that_is_not_of_these(
    index: Index, rows: list[dict], tmp_path: Path, content: str, message: str
) -> None:
    file = _write(rows, tmp_path / "a.csv")
    (tmp_path / "a.csv.done.json").write_text(content.replace("TOKEN", rows[0]["sample_token"]))
    with pytest.raises(DataError, match=message):
        import_clicks(index, "sim_train", CONFIG, file, tmp_path / "out")
