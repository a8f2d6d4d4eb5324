"""Tests of models and champions in the store, also after two runs at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pdetr3d.tracking import models
from pdetr3d.tracking.client import connect, tracking_uri
from pdetr3d.tracking.models import CHAMPION, Score, log_checkpoint, log_model_metrics, register
from pdetr3d.tracking.runs import Tracker
from ray_jobs.stages.tracked import unfit

NAME = "pdetr3d-student"


def finish(folder: Path, name: str, value: float | None, data: str = "i-m", where: str = "val", **more: Any) -> str:
    """Finish a new run with a student that reached ``value``; returns the result of ``register``."""
    tracker = Tracker.start(folder, "experiment", name, {}, {})
    model = log_checkpoint(tracker, "student", f"{name}_step_0000007", 7, {"optim.lr": 0.1}, {"checkpoint_uri": name})
    score = Score(more.get("metric", "SPNDS"), value, data, where, more.get("unfit", ""))
    return register(tracker, "student", model, score, {"stage": name, "checkpoint_uri": name})


def champion(folder: Path) -> str | None:
    """The stage that made the version with the champion alias."""
    client = connect(tracking_uri(folder))
    version = client.get_registered_model(NAME).aliases.get(CHAMPION)
    return None if version is None else client.get_model_version(NAME, str(version)).tags["stage"]


def test_a_checkpoint_is_a_ready_model_with_its_address(tracking_dir: Path) -> None:
    tracker = Tracker.start(tracking_dir, "experiment", "student_ours", {}, {})
    config = {f"section.key{number}": number for number in range(150)}
    tags = {"checkpoint_uri": "s3://bucket/run/student_ours/step_0000300/checkpoint.pt", "checkpoint": "0123"}
    model_id = log_checkpoint(tracker, "student", "student_ours_step_0000300", 300, config, tags)
    log_model_metrics(tracker, model_id, {"val/SPNDS": 0.25, "val/AP/car": 0.5}, 300)
    client = connect(tracker.uri)
    run = client.get_run(tracker.run_id)
    model = client.get_logged_model(model_id)
    assert (model.name, model.model_type, model.status) == ("student_ours_step_0000300", NAME, "READY")
    assert model.source_run_id == tracker.run_id and model.tags.items() >= tags.items()
    assert model.params == {key: str(value) for key, value in config.items()}
    assert {metric.key: (metric.value, metric.step) for metric in model.metrics} == {
        "val/SPNDS": (0.25, 300), "val/AP/car": (0.5, 300)
    }  # fmt: skip
    assert run.data.metrics == {"val/SPNDS": 0.25, "val/AP/car": 0.5}
    assert [(out.model_id, out.step) for out in run.outputs.model_outputs] == [(model_id, 300)]
    found = client.search_logged_models([run.info.experiment_id], "metrics.`val/SPNDS` > 0.2")
    assert [one.model_id for one in found] == [model_id]
    again = log_checkpoint(tracker, "student", "student_ours_step_0000300", 300, config, tags)
    assert again == model_id and len(client.search_logged_models([run.info.experiment_id])) == 1


def test_a_version_leads_to_run_model_and_file(tracking_dir: Path) -> None:
    said = finish(tracking_dir, "a", 0.25)
    client = connect(tracking_uri(tracking_dir))
    version = client.get_model_version_by_alias(NAME, CHAMPION)
    assert said == f"{NAME} version 1: champion (SPNDS 0.25 on val, data i-m)"
    run = client.get_run(version.run_id)
    assert run.info.run_name == "a" and run.data.tags["registry"] == said
    (out,) = run.outputs.model_outputs
    assert version.tags == {
        "stage": "a", "checkpoint_uri": "a", "model_id": out.model_id, "score": "0.25", "metric": "SPNDS",
        "data_digest": "i-m", "measured_on": "val",
    }  # fmt: skip
    assert version.source == client.get_logged_model(out.model_id).artifact_location


def test_only_a_better_one_on_the_same_data_takes_the_alias(tracking_dir: Path) -> None:
    finish(tracking_dir, "first", 0.3)
    assert "champion stays version 1: SPNDS 0.3 on val, data i-m, here 0.2" in finish(tracking_dir, "worse", 0.2)
    assert "champion stays version 1" in finish(tracking_dir, "equal", 0.3)
    other = "that was measured on other data or labels (SPNDS 0.3 on val, data i-m, here SPNDS 0.9 on"
    assert f"champion stays version 1: {other} val, data i-n)" in finish(tracking_dir, "other clicks", 0.9, "i-n")
    assert f"champion stays version 1: {other} select, data i-m)" in finish(tracking_dir, "split", 0.9, where="select")
    assert "champion stays version 1: that was" in finish(tracking_dir, "metric", 0.9, metric="NDS")
    for nothing in (None, float("nan")):
        assert "champion stays version 1; of this one: its score is unknown" in finish(
            tracking_dir, f"{nothing}", nothing
        )
    assert champion(tracking_dir) == "first"
    long = finish(tracking_dir, "other labels", 0.2, "0123456789-abcdefghij")  # both digests are told, shortened
    assert long.endswith("data i-m, here SPNDS 0.2 on val, data 01234567-abcdefgh)")
    assert "version 10: champion (SPNDS 0.31 on val, data i-m)" in finish(tracking_dir, "better", 0.31)
    assert champion(tracking_dir) == "better"


def test_without_any_score_there_is_no_champion(tracking_dir: Path) -> None:
    assert finish(tracking_dir, "a", None) == f"{NAME} version 1: no champion: its score is unknown or 0"
    assert champion(tracking_dir) is None
    finish(tracking_dir, "b", 0.01)
    assert champion(tracking_dir) == "b"


def test_a_run_that_finishes_again_is_one_version(tracking_dir: Path) -> None:
    finish(tracking_dir, "a", 0.3)
    assert finish(tracking_dir, "a", 0.4) == f"{NAME} version 1: champion (SPNDS 0.3 on val, data i-m)"
    assert len(connect(tracking_uri(tracking_dir)).search_model_versions(f"name='{NAME}'")) == 1


def test_a_late_move_of_another_run_is_put_right(tracking_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both runs see no champion. The better one moves the alias first, then the other one, still seeing none."""
    real, others = MlflowClient.set_registered_model_alias, ["better"]

    def move(self: Any, name: str, alias: str, version: str) -> None:
        if others:
            finish(tracking_dir, others.pop(), 0.5)
            assert champion(tracking_dir) == "better"
        real(self, name, alias, version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", move)
    said = finish(tracking_dir, "slow", 0.3)
    assert champion(tracking_dir) == "better" and "champion stays version 2: SPNDS 0.5" in said


def test_of_two_first_aliases_at_once_the_better_stays(tracking_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database accepts only one of two inserts: here that of the other run, with a worse version."""
    real = MlflowClient.set_registered_model_alias
    finish(tracking_dir, "worse", None)  # registered, and about to become champion
    calls: list[str] = []

    def refused_once(self: MlflowClient, name: str, alias: str, version: str) -> None:
        calls.append(version)
        if len(calls) == 1:
            real(self, name, alias, "1")
            raise MlflowException("UNIQUE constraint failed")
        real(self, name, alias, version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", refused_once)
    assert "champion (SPNDS 0.5" in finish(tracking_dir, "better", 0.5)
    assert champion(tracking_dir) == "better" and calls == ["2", "2"]


def test_a_store_that_fails_says_nothing_and_raises_nothing(tracking_dir: Path) -> None:
    tracker = Tracker.start(tracking_dir, "experiment", "a", {}, {})
    tracker.run_id = "0" * 32
    assert log_checkpoint(tracker, "student", "m", 1, {}, {}) == ""
    log_model_metrics(tracker, "", {"a": 1.0}, 1)
    assert register(tracker, "student", "", Score("SPNDS", 0.5, "d", "val"), {}) == ""
    silent = Tracker("", "", None)
    assert register(silent, "student", "", Score("SPNDS", 0.5, "d", "val"), {}) == ""


def test_both_kinds_are_registered_apart(tracking_dir: Path) -> None:
    assert set(models.REGISTERED) == {"teacher", "student"} and len(set(models.REGISTERED.values())) == 2
    tracker = Tracker.start(tracking_dir, "experiment", "teacher", {}, {})
    model = log_checkpoint(tracker, "teacher", "teacher_step_1", 1, {}, {})
    said = register(tracker, "teacher", model, Score("bev_iou", 0.6, "d", "clicks"), {})
    assert said == "pdetr3d-teacher version 1: champion (bev_iou 0.6 on clicks, data d)"


def test_a_score_of_zero_makes_no_champion(tracking_dir: Path) -> None:
    """Neither a student without detections nor one with an undefined score (a split without objects) is champion."""
    assert "no champion: its score is unknown or 0" in finish(tracking_dir, "nothing", 0.0)
    assert "no champion: its score is unknown or 0" in finish(tracking_dir, "no objects", None)
    assert champion(tracking_dir) is None
    finish(tracking_dir, "found", 0.01)
    assert champion(tracking_dir) == "found"


def test_what_is_unfit_makes_no_champion_whatever_its_score(tracking_dir: Path) -> None:
    assert finish(tracking_dir, "a", 0.5, unfit="it guesses") == f"{NAME} version 1: no champion: it guesses"
    assert "version 2: champion (SPNDS 0.2" in finish(tracking_dir, "b", 0.2)
    assert "version 3: champion stays version 2; of this one: it guesses" in finish(
        tracking_dir, "c", 0.9, unfit="it guesses"
    )
    assert champion(tracking_dir) == "b"


def test_who_is_unfit() -> None:
    """A tiny student had SPNDS 0.0003. A teacher must beat class-mean boxes, if their quality is known."""
    assert unfit({"mAP": 0.0006, "SPNDS": 0.0003}, None) == "the mAP of 0.0006 is below 0.01: it finds next to nothing"
    assert unfit({"mAP": 0.01, "SPNDS": 0.005}, None) == ""
    assert unfit({"bev_iou": 0.5}, 0.52) == "the BEV IoU of 0.500 is not above 0.520, that of class-mean boxes"
    assert unfit({"bev_iou": 0.53}, 0.52) == unfit({"bev_iou": 0.1}, None) == unfit({"bev_iou": None}, 0.5) == ""
