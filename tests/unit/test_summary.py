"""Tests of the summary of data: left-out parts are counted, and missing parts are refused unless a key allows it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pdetr3d.config import Config
from pdetr3d.data.index.empty import RULES, refuse_empty
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.labels.summary import Summary, in_no_split, summarize
from pdetr3d.exits import BAD_INPUT
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from pdetr3d.training.run_dir import RunDir, prepare
from tests.unit.test_tables import edit

VERSION = "v1.0-sim"


@pytest.fixture
def world(sim_world: Path, tmp_path: Path) -> Path:
    shutil.copytree(sim_world, tmp_path / "world", copy_function=os.link)
    shutil.rmtree(tmp_path / "world" / VERSION)
    shutil.copytree(sim_world / VERSION, tmp_path / "world" / VERSION)
    return tmp_path / "world"


def config(world: Path, *overrides: str) -> Config:
    return load("quickstart", [f"data.dataroot={world}", "data.num_sweeps=3", "label.ratio=0.5", *overrides])


def run(world: Path, *overrides: str) -> RunDir:
    return RunDir(world.parent / "run", config(world, *overrides), reading=True)


def table(summary: Summary) -> dict[str, str]:
    return dict(summary.rows())


def test_classes_without_object_are_named(world: Path) -> None:
    """As after a mistake in the categories of an own class list."""
    found = summarize(prepare(run(world)).index)
    assert "no object of" not in table(found)
    objects = np.array([3, 0, 1, 1, 1, 0, 1, 1, 1, 1])
    assert table(dataclasses.replace(found, objects=objects))["no object of"] == "truck, barrier"


def test_every_count_against_a_slow_one(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = json.loads((world / VERSION / "splits.json").read_text())
    splits["sim_val"] = splits["sim_val"][:1]  # the other scene is in no split
    (world / VERSION / "splits.json").write_text(json.dumps(splits))
    edit(world, "category", lambda rows: rows[0].update(name="own.thing"))
    image = next((world / "samples" / "CAM_BACK").glob("sim-train*"))
    relative = image.relative_to(world).as_posix()
    edit(world, "sample_data", lambda rows: rows.remove(next(r for r in rows if r["filename"] == relative)))
    data = prepare(run(world, "model.range_m=[-20.48,-20.48,-5,20.48,20.48,3]", "student.guidance=none"))
    index, manifest = data.index, data.manifest
    printed = capsys.readouterr().out
    assert printed == "".join(f"{line.rstrip()}\n" for line in printed.splitlines())  # a row is a line, not padded
    found = summarize(index, ["sim_train"], manifest, (-20.48, -20.48, -5, 20.48, 20.48, 3))
    kept, without, outside, boxes, images, sweeps = [0] * 10, 0, 0, 0, 0, 0
    for token in index.tokens("sim_train"):
        annotations, record = index.annotations(token), index.record(token)
        for label, keep, xyz in zip(annotations.label, annotations.kept, annotations.box[:, :3], strict=True):
            kept[label] += bool(keep)
            without += not keep
            outside += bool(keep) and (max(abs(xyz[0]), abs(xyz[1])) > 20.48 or not -5 <= xyz[2] <= 3)
        boxes += int(annotations.kept.sum()) if manifest.roles[token] == "box" else 0
        images += sum(camera is not None for camera in record.cameras)
        sweeps += len(record.sweeps)
    assert found.objects.tolist() == kept and found.no_points == without > 0 and found.outside == outside > 0
    assert found.boxes == boxes > 0 and found.images.sum() == images == 6 * 6 - 1 and found.sweeps == sweeps > 0
    assert found.clicks is not None and found.clicks.sum() == manifest.clicks.num_rows == sum(kept)
    unknown = sum(1 for row in json.loads((world / VERSION / "sample_annotation.json").read_text())
                  if row["instance_token"] in own_things(world))  # fmt: skip
    assert found.unknown == {"own.thing": unknown} and unknown > 0
    assert (found.stray, found.stray_frames) == (["sim-val-0001"], 2)
    assert table(found)["frames, sim_train"] == "box 4, point 2"
    assert table(found)["cameras incomplete"] == "CAM_BACK" and table(found)["cameras found"].startswith(
        "6 of 6: CAM_F"
    )
    for words in (f"own.thing {unknown}", "scenes in no split", "splits.json", "clicks by class", "outside range"):
        assert words in printed


def own_things(world: Path) -> set[str]:
    read = {name: json.loads((world / VERSION / f"{name}.json").read_text()) for name in ("category", "instance")}
    (token,) = [row["token"] for row in read["category"] if row["name"] == "own.thing"]
    return {row["token"] for row in read["instance"] if row["category_token"] == token}


def no_cameras(world: Path) -> None:
    edit(world, "sensor", lambda rows: [row.update(channel=row["channel"].replace("CAM_", "cam-")) for row in rows])


def no_val_objects(world: Path) -> None:
    """The val split is not annotated."""
    scenes = {r["token"] for r in json.loads((world / VERSION / "scene.json").read_text()) if "val" in r["name"]}
    samples = {
        r["token"] for r in json.loads((world / VERSION / "sample.json").read_text()) if r["scene_token"] in scenes
    }
    edit(world, "sample_annotation", lambda rows: rows.__setitem__(slice(None), [r for r in rows if r["sample_token"]
                                                                                 not in samples]))  # fmt: skip


def no_annotations(world: Path) -> None:
    edit(world, "sample_annotation", lambda rows: rows.clear())


def boxes_of_the_cars_frame(world: Path) -> None:
    """The simulated streets are some hundred meters from the global origin."""
    edit(
        world, "sample_annotation", lambda rows: [r.update(translation=[9.0, 2.0, 1.0], num_lidar_pts=1) for r in rows]
    )


@pytest.mark.parametrize(
    ("damage", "keys"),
    [
        (no_cameras, ["cameras"]),
        (no_val_objects, ["val_objects"]),
        (boxes_of_the_cars_frame, ["objects"]),
    ],
)
def test_none_at_all_is_refused_unless_allowed_by_name(
    damage: Callable[[Path], None], keys: list[str], world: Path
) -> None:
    damage(world)
    with pytest.raises(DataError) as caught:
        prepare(run(world))
    message = str(caught.value)
    assert f"data.allow_empty=[{','.join(keys)}]" in message
    assert all(RULES[key][0] in message for key in keys)  # type: ignore[index]
    assert not (world.parent / "run" / "data").exists()  # a corrected command may use the directory
    found = prepare(run(world, f"data.allow_empty=[{','.join(keys)}]")).index
    images = summarize(found, ["sim_train"]).images.sum()
    objects = summarize(found, ["sim_val"]).objects.sum()
    assert (images == 0) == (keys == ["cameras"]) and (objects == 0) == (keys == ["val_objects"])


def test_no_annotation_at_all(world: Path, tmp_path: Path) -> None:
    """Tables without annotations are indexed for people's clicks. A job refuses them: it has nothing to train on."""
    no_annotations(world)
    assert not summarize(Index.open(build_index(world, VERSION, tmp_path / "index.arrow"))).objects.any()
    with pytest.raises(DataError, match="no sample of split 'sim_train' ha"):
        prepare(run(world))
    assert not (world.parent / "run" / "data").exists()


def test_a_teacher_without_cameras_needs_none(world: Path) -> None:
    no_cameras(world)
    found = prepare(run(world, "teacher.fusion=none")).index
    assert [len(found.record(token).lidar_path) > 0 for token in found.tokens("sim_train")] == [True] * 6
    assert all(camera is None for token in found.tokens("sim_train") for camera in found.record(token).cameras)


def test_categories_that_nobody_knows(world: Path, tmp_path: Path) -> None:
    edit(world, "category", lambda rows: [row.update(name=f"own.{row['name']}") for row in rows])
    with pytest.raises(DataError, match=r"(?s)no object of the classes in use.*data\.categories.*'own\.vehicle\.car'"):
        build_index(world, VERSION, tmp_path / "index.arrow")
    assert not (tmp_path / "index.arrow").exists()
    allowed = config(world, "data.allow_empty=[objects]").data
    assert not summarize(Index.open(build_index(world, VERSION, tmp_path / "index.arrow", allowed))).objects.any()


def test_refuse_empty() -> None:
    refuse_empty({"objects": 1, "clicks": 0}, ["clicks"], "there")
    with pytest.raises(DataError, match=r"(?s)there has\n  no click; .*found: 3 of them.*data\.allow_empty=\[clicks\]"):
        refuse_empty({"objects": 0, "clicks": 0}, ["objects"], "there", ["3 of them"])


def test_verbs_print_the_table_and_refuse(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pdetr3d.cli import main

    index = world.parent / "index.arrow"

    def verb(*arguments: str) -> tuple[int, str]:
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out + said.err

    code, said = verb("index", "--dataroot", str(world), "--version", VERSION, "--out", str(index))
    assert code == 0 and "objects kept" in said and "6 of 6: CAM_FRONT 12" in said.replace("\n", " ")
    code, said = verb("label", "--index", str(index), "--split", "sim_val", "--ratio", "0.5")
    assert code == 0 and "clicks by class" in said and "outside range" in said
    no_val_objects(world)
    assert verb("index", "--dataroot", str(world), "--version", VERSION, "--out", str(index))[0] == 0
    code, said = verb("label", "--index", str(index), "--split", "sim_val", "--out", str(world.parent / "m"))
    assert code == BAD_INPUT and "data.allow_empty=[clicks]" in said and not (world.parent / "m").exists()


def test_a_split_name_of_the_devkits_own(world: Path, tmp_path: Path) -> None:
    names = [row["name"] for row in json.loads((world / VERSION / "scene.json").read_text())]
    (world / VERSION / "splits.json").write_text(json.dumps({"val": names[:1], "mine": names}))
    with pytest.raises(DataError, match=r"splits\.json: split 'val' is also a split of the devkit.*my_val"):
        build_index(world, VERSION, tmp_path / "index.arrow")


def test_frames_in_two_splits_are_said(world: Path) -> None:
    splits = json.loads((world / VERSION / "splits.json").read_text())
    splits["sim_val"] = splits["sim_train"][:1]
    (world / VERSION / "splits.json").write_text(json.dumps(splits))
    data = prepare(run(world))
    count = len(data.index.tokens("sim_val"))
    both = summarize(data.index, ["sim_train", "sim_val"], data.manifest, (-50, -50, -5, 50, 50, 3))
    assert count > 0 and table(both)["in two splits"].startswith(f"{count} frames: ")
    same = summarize(data.index, ["sim_train", "sim_train"], data.manifest, (-50, -50, -5, 50, 50, 3))
    assert table(same)["in two splits"].startswith(f"{len(data.index.tokens('sim_train'))} frames: ")
    assert "in two splits" not in table(summarize(data.index, ["sim_train"], data.manifest, (-50, -50, -5, 50, 50, 3)))


def test_a_manifest_that_somebody_put_there_stays(world: Path) -> None:
    made = prepare(run(world)).manifest.path
    other = world.parent / "other" / "data" / "manifest"
    shutil.copytree(made, other)
    with pytest.raises(DataError, match=r"label\.ratio 0\.5 there, 1\.0 now"):
        prepare(RunDir(world.parent / "other", config(world, "label.ratio=1.0"), reading=True))
    assert (other / "manifest.json").exists() and not (other.parent / "index.arrow").exists()


def test_scenes_that_the_simulator_adds_for_velocities_are_not_missing_in_a_split() -> None:
    names, splits = ["a", "a-later", "b-later", "c", "d-later"], [["train"], [], [], [], ["val"]]
    table = pa.table({"scene_name": names, "splits": pa.array(splits, pa.list_(pa.string()))})
    # This dataset has no scene b, so b-later is an ordinary scene name.
    assert in_no_split(table).tolist() == [False, False, True, True, False]
