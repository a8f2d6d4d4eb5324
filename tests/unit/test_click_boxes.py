"""``pdetr3d boxes`` makes the teacher's boxes of people's clicks in the order of the file, and names all bad rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pdetr3d.cli import main
from pdetr3d.geometry.rigid import apply, chain
from pdetr3d.inference.teacher import TeacherPredictor
from pdetr3d.pseudo_labels import COLUMNS
from pdetr3d.schema import CLASSES
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build
from tests.model_cases import shaken
from tests.training_cases import World, open_world


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run directory with a teacher."""
    world = open_world(sim_world, tmp_path_factory.mktemp("boxes") / "run", "label.ratio=1.0")
    model = shaken(build("teacher", world.run.config, world.prior_size_m).model)
    checkpoint.save(world.run.path / "teacher", model, None, 7, world.run.config.to_json())
    world.run.finish("teacher", {"checkpoints": ["checkpoint.pt"]})
    return world


def clicks_of(world: World) -> list[list[object]]:
    """Clicks in the global frame, in turn from three samples, so that the file is not sorted by sample."""
    each = []
    for record in list(world.records)[:3]:
        lidar2global = chain(record.lidar2ego, record.ego2global)
        places = apply(lidar2global, record.clicks.xyz_m)
        each.append([[record.sample_token, *place.tolist(), CLASSES[label], "global"]
                     for place, label in zip(places[:3], record.clicks.label[:3], strict=True)])  # fmt: skip
    return [click for turn in zip(*each, strict=True) for click in turn]


def write(file: Path, rows: list[list[object]]) -> Path:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["sample_token", "x", "y", "z", "class", "frame"], *rows])
    return file


def test_every_click_gets_the_teachers_box(world: World, tmp_path: Path) -> None:
    rows = clicks_of(world)
    assert len(rows) == 9
    file, run = write(tmp_path / "clicks.csv", rows), world.run.path
    for suffix in ("parquet", "csv", "json"):
        assert main(["boxes", str(run), "--clicks", str(file), "--out", str(tmp_path / f"out.{suffix}")]) == 0
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert list(table.columns) == [*COLUMNS, "row"] and table["row"].tolist() == list(range(1, 10))
    assert table["sample_token"].tolist() == [row[0] for row in rows]
    assert table["class"].tolist() == [row[4] for row in rows]
    teacher = TeacherPredictor.load(run)
    np.testing.assert_array_equal(teacher.prior_size_m, world.prior_size_m)
    for record in list(world.records)[:3]:
        boxes = teacher.boxes(record, record.clicks.xyz_m[:3], record.clicks.label[:3])
        mine = table[table["sample_token"] == record.sample_token]
        np.testing.assert_allclose(mine[["x", "y", "z", "l", "w", "h", "yaw"]].to_numpy(), boxes.rows, atol=1e-4)
        np.testing.assert_allclose(mine["score"], boxes.score, atol=1e-4)
    text = pd.read_csv(tmp_path / "out.csv")
    np.testing.assert_allclose(text[["x", "y", "z", "score"]], table[["x", "y", "z", "score"]], atol=1e-5)
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["meta"]["use_external"] and results["meta"]["use_camera"] == world.run.config.teacher.cameras
    assert sum(map(len, results["results"].values())) == table["accepted"].sum()


def test_bad_rows_are_all_reported_and_nothing_is_written(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, run = clicks_of(world), world.run.path
    bad = write(tmp_path / "bad.csv", [rows[0], ["nobody", *rows[1][1:]], [*rows[2][:4], "cat", "world"]])
    good = write(tmp_path / "good.csv", rows)
    (tmp_path / "there.csv").write_text("mine")
    teacher = run / "teacher" / "checkpoint.pt"
    cases: list[tuple[list[object], list[str]]] = [
        ([run, "--clicks", bad, "--out", tmp_path / "out.csv"], ["2 of 3 rows are bad", "row 2: sample_token 'nobody'",
            "row 3: class 'cat' is no class here", "row 3: frame 'world'"]),
        ([run, "--clicks", tmp_path / "no.csv", "--out", tmp_path / "out.csv"], ["no.csv: no such click file"]),
        ([run, "--clicks", good, "--out", tmp_path / "out.xlsx"], ["suffix '.xlsx'; allowed are .parquet"]),
        ([run, "--clicks", good, "--out", tmp_path / "there.csv"], ["exists and is not overwritten"]),
        ([tmp_path, "--clicks", good, "--out", tmp_path / "out.csv"], ["no teacher is trained there"]),
        ([teacher, "--clicks", good, "--out", tmp_path / "out.csv"], ["is a file: name the index"]),
    ]  # fmt: skip
    before = sorted(tmp_path.iterdir())
    for arguments, messages in cases:
        assert main(["boxes", *map(str, arguments)]) == 2, arguments
        error = capsys.readouterr().err
        assert all(message in error for message in messages) and "Traceback" not in error, error
    assert sorted(tmp_path.iterdir()) == before
