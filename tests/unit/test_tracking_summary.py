"""Tests of MLflow's run list and a pipeline's page: view, headline metrics, description, changed keys."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pdetr3d import presets
from pdetr3d.tracking.client import connect
from pdetr3d.tracking.runs import KIND, Tracker
from pdetr3d.tracking.summary import COLUMNS, NOTE, description, headline
from ray_jobs.searches.trial import title
from ray_jobs.stages.tracked import Tracked, changed

ARMS = {
    "ours": {
        "mAP": 0.25,
        "NDS": 0.3,
        "SPNDS": 0.32,
        "mATE": 0.5,
        "mASE": 0.3,
        "mAOE": None,
        "per_class": {},
        "n_gt": {"car": 1},
    },
    "full": {
        "mAP": 0.5,
        "NDS": 0.6,
        "SPNDS": 0.64,
        "mATE": 0.4,
        "mASE": 0.2,
        "mAOE": 1.0,
        "per_class": {},
        "n_gt": {"car": 1},
    },
}


def test_the_list_of_runs_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker.start(tmp_path, "pdetr3d", "quickstart 1", {}, {})
    tracker.log_metrics(headline(ARMS, {"bev_iou": 0.75, "n": 3}))
    tracker.describe(
        lambda run, place: description(ARMS, {"bev_iou": 0.75}, None, "", "a.png", run, {"teacher": "t1"}, place)
    )
    client = connect(tracker.uri)
    run = client.get_run(tracker.run_id)
    assert run.data.metrics == {
        "ours/mAP": 0.25, "ours/NDS": 0.3, "ours/SPNDS": 0.32, "ours/mATE": 0.5, "ours/mASE": 0.3,
        "full/mAP": 0.5, "full/NDS": 0.6, "full/SPNDS": 0.64, "full/mATE": 0.4, "full/mASE": 0.2, "full/mAOE": 1.0,
        "teacher/bev_iou": 0.75,
    }  # fmt: skip
    note, place = run.data.tags[NOTE], run.info.experiment_id
    assert "| ours | 0.250 | 0.300 | 0.320 | 0.500 | 0.300 | - |" in note.splitlines()
    assert f"[teacher](#/experiments/{place}/runs/t1)" in note and "mean BEV IoU 0.750" in note
    assert f"(get-artifact?path=a.png&run_uuid={tracker.run_id})" in note and "The preset as it is." in note
    # The saved view shows these metrics. MLflow's UI reads it from this tag, and opens it at this address.
    view = json.loads(client.get_experiment(place).tags["mlflow.sharedViewState.scores"])
    columns = json.loads(view["state"])["selectedColumns"]
    assert columns[0] == "metrics.`ours/SPNDS`" and columns[-1] == "tags.`changed`" and view["name"] == "Scores"
    assert {"ours/mAP", "full/SPNDS", "teacher/bev_iou"} <= run.data.metrics.keys() & set(COLUMNS)
    assert tracker.address() == (
        f"http://127.0.0.1:5000/#/experiments/{place}/runs?workflowType=machine_learning&viewStateShareKey=scores"
    )
    # The view is set once, and a person's later choice stays.
    assert client.get_experiment(place).tags[KIND] == "custom_model_development"
    client.set_experiment_tag(place, KIND, "genai_development")
    Tracker.start(tmp_path, "pdetr3d", "quickstart 2", {}, {})
    assert client.get_experiment(place).tags[KIND] == "genai_development"


def test_an_experiment_without_a_view_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = connect(f"sqlite:///{tmp_path}/mlflow.db")
    place = client.create_experiment("pdetr3d")
    Tracker.start(tmp_path, "pdetr3d", "one", {}, {})
    assert client.get_experiment(place).tags[KIND] == "custom_model_development"


def test_what_was_changed() -> None:
    assert changed(presets.load("quickstart")) == ""
    config = presets.load("quickstart", ["label.ratio=0.1", "student.augment_scale=[0.9,1.1]", "run.name=a b"])
    assert changed(config) == 'label.ratio=0.1 student.augment_scale=[0.9, 1.1] run.name="a b"'


def test_a_pipelines_run_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline's description links to the runs of its stages, not to itself."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    parent = Tracker.start(tmp_path, "pdetr3d", "quickstart 1", {}, {})
    child = Tracker.start(tmp_path, "pdetr3d", "teacher", {}, {}, parent.run_id)
    config = presets.load("quickstart", ["label.ratio=0.1"])
    run_dir: Any = SimpleNamespace(path=tmp_path, config=config)
    unknown, holdout = {"teacher": {"bev_iou": None}}, {"teacher": {"bev_iou": 0.5}}
    Tracked(parent).described(run_dir, ARMS, unknown, holdout, tmp_path / "predictions_ours.png")
    run = connect(parent.uri).get_run(parent.run_id)
    note = run.data.tags[NOTE]
    assert f"/runs/{child.run_id})" in note and f"/runs/{parent.run_id})" not in note
    assert (
        "`label.ratio=0.1`" in note
        and "IoU unknown. On held-out scenes: 0.500" in note
        and "path=predictions_ours.png" in note
    )
    assert run.data.metrics["full/SPNDS"] == 0.64 and "teacher/bev_iou" not in run.data.metrics
    assert run.data.metrics["teacher/held_out_bev_iou"] == 0.5


def test_a_trial_is_named_by_its_parameters() -> None:
    assert title("b0_1", {"variant": "boxes only", "seed": 1}) == "boxes only, seed 1 (b0_1)"
    assert title("b0_2", {"label.ratio": 0.05, "optim.lr": 0.003, "seed": 0}) == "ratio=0.05 lr=0.003, seed 0 (b0_2)"
    assert title("b0_3", {"seed": 2}) == "seed 2 (b0_3)"
