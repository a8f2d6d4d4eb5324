"""Tests of stages' entries in MLflow: pictured samples, lineage, and the data of a score."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pdetr3d.config import Config
from pdetr3d.data.index.index import Index
from pdetr3d.data.label_manifest import inspection_record
from pdetr3d.data.storage.files import file_digest
from pdetr3d.geometry.boxes import points_in_boxes
from pdetr3d.pipeline.lineage import origins, recall, remember, step_of, trained, trained_in
from pdetr3d.schema import Boxes3D
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training.run_dir import link_missing
from ray_jobs.plug.inference import predict
from ray_jobs.stages import tracked
from ray_jobs.stages.pictures import clicked, clicked_pictures, confident, pictured
from ray_jobs.stages.tracked import Tracked
from tests.training_cases import open_world


def stages_in(folder: Path, lidar_init: str = "none") -> Any:
    config = Config(preset="x")
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"lidar_init": lidar_init})})
    return SimpleNamespace(path=folder, dir=SimpleNamespace(digest="r1"), config=config)


def test_the_same_four_samples_whatever_their_order() -> None:
    tokens = [f"token{number}" for number in range(20)]
    chosen = pictured(tokens)
    assert chosen == pictured(tokens[::-1]) and len(chosen) == 4
    digests = {token: hashlib.sha256(token.encode()).hexdigest() for token in tokens}
    assert {digests[token] for token in chosen} == set(sorted(digests.values())[:4])
    assert pictured(tokens[:2]) == pictured(tokens[1::-1]) and set(pictured(tokens[:2])) == set(tokens[:2])


def test_pictured_clicks_lie_in_their_boxes_and_stay(sim_world: Path, tmp_path: Path) -> None:
    index: Index = open_world(sim_world, tmp_path / "run").data.index
    record = inspection_record(index, index.tokens("sim_val")[0])
    first, again = clicked(record).clicks, clicked(dataclasses.replace(record)).clicks
    boxes = record.boxes
    assert len(first) == len(boxes) > 3 and (first.label == boxes.label).all()
    inside = points_in_boxes(first.xyz_m, boxes.center_m, boxes.size_m, boxes.yaw_rad)
    assert inside[np.arange(len(boxes)), np.arange(len(boxes))].all()
    assert (np.linalg.norm(first.xyz_m - boxes.center_m, axis=1) > 0.005).all()  # not the centers themselves
    np.testing.assert_array_equal(first.xyz_m, again.xyz_m)
    assert len(set(first.click_id)) == len(first)


def test_a_pictured_sample_that_is_predicted_anyway_keeps_its_clicks(sim_world: Path, tmp_path: Path) -> None:
    """If the val split is the train split, every pictured sample is among the records, and none is added."""
    world = open_world(sim_world, tmp_path / "run", "data.val_split=sim_train")
    stages: Any = SimpleNamespace(data=world.data, config=world.run.config)
    shown, others = clicked_pictures(stages, world.records)
    known = {record.sample_token: record for record in world.records}
    assert others == [] and [record.sample_token for record in shown] == pictured(world.data.index.tokens("sim_train"))
    for record in shown:
        clicks = known[record.sample_token].clicks
        np.testing.assert_array_equal(record.clicks.xyz_m, clicks.xyz_m)
        assert record.clicks.click_id.tolist() == clicks.click_id.tolist() and len(record.boxes) >= len(clicks) > 0

    first = shown[0].sample_token  # and with records that lack all but one of them
    one = world.records.select(np.array([token == first for token in world.records.tokens]))
    shown_again, others = clicked_pictures(stages, one)
    assert [r.sample_token for r in shown_again] == [r.sample_token for r in shown]
    assert [r.sample_token for r in others] == [r.sample_token for r in shown[1:]]
    assert all(a is b for a, b in zip(shown_again[1:], others, strict=True))
    assert all(len(record.clicks) == len(record.boxes) for record in others)


def test_a_sample_is_never_predicted_twice(sim_world: Path, tmp_path: Path) -> None:
    world = open_world(sim_world, tmp_path / "run")
    twice = world.records.select(np.array([0, 1, 1]))
    with pytest.raises(ValueError, match=f"1 samples .* the first is {world.records[1].sample_token}"):
        predict("student", world.run.config, world.prior_size_m, [], twice)


def test_students_show_what_they_are_sure_of() -> None:
    boxes = Boxes3D.build(
        np.zeros((3, 3)), np.ones((3, 3)), np.zeros(3), np.arange(3), score=np.array([0.1, 0.31, 0.9])
    )
    assert confident(boxes).label.tolist() == [1, 2]


def test_lineage_is_kept_with_the_stage(tmp_path: Path) -> None:
    assert recall(tmp_path) == {}
    remember(tmp_path, run_id="abc", checkpoint="0123", nothing="")
    assert recall(tmp_path) == {"run_id": "abc", "checkpoint": "0123"}
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == "ba7816bf8f01cfea"  # FIPS 180-2, B.1
    assert step_of(Path("run/teacher/step_0000042.pt")) == 42


def test_what_each_stage_descends_from(tmp_path: Path) -> None:
    labels = {"pseudo_labels": "p", "teacher_run_id": "t", "teacher_checkpoint": "c"}
    remember(tmp_path / "pseudo_labels", **labels)
    remember(tmp_path / "student_boxes_only", run_id="b", checkpoint="d")
    stages = stages_in(tmp_path)
    assert origins(tmp_path, stages.config, "student_ours") == labels
    self_taught = origins(tmp_path, stages.config, "student_self_training")
    assert self_taught == {"labels_run_id": "b", "labels_checkpoint": "d"}
    for name in ("student_full", "student_boxes_only", "student_mean_teacher", "teacher"):
        assert origins(tmp_path, stages.config, name) == {}
    started = stages_in(tmp_path, lidar_init="boxes_only")
    begun = origins(tmp_path, started.config, "teacher")
    assert begun == {"initial_run_id": "b", "initial_checkpoint": "d"}


def test_corrupted_input_is_another_measurement() -> None:
    config = Config(preset="x")
    assert tracked.circumstances(config, "val") == "val"
    noisy = config.model_copy(update={"corruption": config.corruption.model_copy(update={"click_noise_factor": 0.0})})
    assert tracked.circumstances(noisy, "val").startswith('val, corrupted by {"click_noise_factor": 0.0')


@pytest.mark.parametrize(
    ("shared", "address"),
    [
        ("", "file://{folder}/student_ours/step_0000300.pt"),
        ("s3://bucket/runs/", "s3://bucket/runs/r1/student_ours/step_0000300/checkpoint.pt"),
        ("/shared", "file:///shared/r1/student_ours/step_0000300/checkpoint.pt"),
    ],
)
def test_where_a_checkpoint_lies(tmp_path: Path, shared: str, address: str) -> None:
    stages = stages_in(tmp_path)
    stages.config = stages.config.model_copy(
        update={"storage": stages.config.storage.model_copy(update={"path": shared})}
    )
    file = tmp_path / "student_ours" / "step_0000300.pt"
    file.parent.mkdir()
    file.write_bytes(b"abc")
    trained(tmp_path, stages.config, "student_ours", file, digest="r1", run_id="run")
    assert tracked.checkpoint_address(stages, "student_ours", file) == address.format(folder=tmp_path)
    taker = stages_in(tmp_path / "other")  # a run that took the stage over: nothing is stored by its own digest
    taker.config, taker.dir.digest, copy = stages.config, "r2", taker.path / "student_ours"
    link_missing(file.parent, copy, [file.name, "lineage.json"])
    assert tracked.checkpoint_address(taker, "student_ours", copy / file.name) == address.format(folder=taker.path)


def test_what_a_stage_descends_from_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher began with a student's weights and is scored in a run that took over only the teacher."""
    first, file = stages_in(tmp_path / "first", lidar_init="boxes_only"), tmp_path / "first/teacher/step_0000001.pt"
    remember(first.path / "student_boxes_only", run_id="b", run="r0", checkpoint="d")
    file.parent.mkdir()
    file.write_bytes(b"abc")
    trained(first.path, first.config, "teacher", file, digest="r1", run_id="t")
    taker = stages_in(tmp_path / "other", lidar_init="boxes_only")
    taker.dir.digest, copy = "r2", taker.path / "teacher"
    link_missing(file.parent, copy, [file.name, "lineage.json"])
    assert trained_in(taker.path, "teacher", "r2") == "r1" and trained_in(taker.path, "student_ours", "r2") == "r2"
    told: list[dict[str, str]] = []
    taker.lineage = lambda: {"run": "r2", "index": "i", "manifest": "m"}
    taker.data = SimpleNamespace(digest="i", manifest=SimpleNamespace(digest="m"))
    observer = Tracked()
    monkeypatch.setattr(observer, "tracker", lambda run, name, tags: told.append(tags) or Tracker("", "", None))
    for name in ("draw_pictures", "log_checkpoint", "log_model_metrics", "register"):
        monkeypatch.setattr(tracked, name, lambda *_: None)
    observer.evaluated(taker, "teacher", copy / file.name, {"bev_iou": 0.5, "n": 1}, "val", "clicks", [])
    beginning = {"initial_run_id": "b", "initial_checkpoint": "d", "trained_by": "t", "checkpoint": "ba7816bf8f01cfea"}
    expected = {**beginning, "run": "r2", "index": "i", "manifest": "m", "stage": "teacher"}
    assert told == [{**expected, "checkpoint_uri": (copy / file.name).as_uri()}]
