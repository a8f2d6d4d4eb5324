"""Tests of MLflow runs on a real SQLite store, read back by MLflow's client; errors are never raised."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pdetr3d.tracking import client as tracking_client
from pdetr3d.tracking.client import flatten, tracking_uri
from pdetr3d.tracking.runs import MetricLogger, Tracker, end_runs, ui_command


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """One folder with a store for all tests, since its creation takes seconds."""
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def start(store: Path, run_dir: Path, name: str = "teacher", **more) -> Tracker:
    given = {"config_flat": {"optim.lr": 0.001}, "tags": {"stage": name}} | more
    return Tracker.start(run_dir, "experiment", name, tracking_dir=store, **given)


def read(tracker: Tracker):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracker.uri).get_run(tracker.run_id)


def history(tracker: Tracker, key: str) -> list[tuple[int, float]]:
    from mlflow.tracking import MlflowClient

    points = MlflowClient(tracker.uri).get_metric_history(tracker.run_id, key)
    return sorted((p.step, p.value) for p in points)


def test_flatten_names_and_values():
    nested = {
        "loss": torch.tensor(0.5),
        "a": {"AP@0.5": np.float32(1), "n": 3, "none": None, "text": "x", "list": [1], "array": np.ones(2)},
    }
    assert flatten(nested) == {"loss": 0.5, "a/AP_0.5": 1.0, "a/n": 3.0}
    assert flatten({}) == {}


def test_limits_are_those_of_the_installed_mlflow():
    from mlflow.utils import validation

    assert tracking_client.MAX_KEY == validation.MAX_ENTITY_KEY_LENGTH
    assert tracking_client.MAX_PARAM == validation.MAX_PARAM_VAL_LENGTH
    assert tracking_client.MAX_TAG == validation.MAX_TAG_VAL_LENGTH
    assert tracking_client.METRICS_PER_BATCH == validation.MAX_METRICS_PER_BATCH
    assert tracking_client.PARAMS_PER_BATCH == validation.MAX_PARAMS_TAGS_PER_BATCH


def test_addresses(tmp_path, monkeypatch):
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    command = ui_command(f"sqlite:///{tmp_path}/mlflow.db")
    assert command == f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db --workers 1"
    assert "'" in ui_command("sqlite:////with space/mlflow.db") and ui_command("http://host:5000") == "http://host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking_uri(tmp_path) == "http://host:5000"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///own.db")
    assert tracking_uri(Path("elsewhere")) == f"sqlite:///{tmp_path}/own.db"


@pytest.mark.parametrize("name", ["my run ä [1] #2", "what? 100%", "a%20b"])
def test_a_store_may_lie_in_any_folder(tmp_path, name):
    folder = tmp_path / name
    uri = tracking_uri(folder)
    assert tracking_client.sqlite_file(uri) == folder / "mlflow.db"
    first = Tracker.start(folder, "e", "job", {"a": 1}, {})
    assert read(first).data.params == {"a": "1"} and first.uri == uri
    assert start_again(folder).run_id == first.run_id
    assert sorted(f.name for f in folder.iterdir()) == ["mlflow.db", "mlflow_run.json"]
    assert [f.name for f in tmp_path.iterdir()] == [name]  # no folder of the quoted name


def start_again(folder):
    return Tracker.start(folder, "e", "job", {}, {})


def test_only_plain_sqlite_addresses_are_files():
    assert tracking_client.sqlite_file("sqlite:////a%3Fb/m.db") == Path("/a?b/m.db")
    for other in ("http://host:5000", "postgresql://host/db", "sqlite:///file:/a?uri=true"):
        assert tracking_client.sqlite_file(other) is None


def test_a_title_is_what_people_see_and_not_what_the_run_is_known_by(store, tmp_path):
    first = start(store, tmp_path, title="teacher of seed 1")
    assert read(first).info.run_name == "teacher of seed 1"
    assert start(store, tmp_path, title="teacher of seed 2").run_id == first.run_id  # continued


def test_a_run_from_start_to_end(store, tmp_path):
    config = {f"section.key{i}": i for i in range(150)} | {"long": "x" * 7000}
    (tmp_path / "plot.txt").write_text("plot")
    with start(store, tmp_path, config_flat=config, tags={"digest": "d" * 9000}) as tracker:
        tracker.log_metrics({"mAP": 0.5, "per_class": {"car": {"AP@0.5": 0.25, "AOE": None}}}, step=7)
        tracker.log_metrics({f"m{i}": i for i in range(1500)})
        tracker.log_artifact(tmp_path / "plot.txt", "plots")
        tracker.set_tags({"teacher_run_id": "abc"})
        assert read(tracker).info.status == "RUNNING"
    run = read(tracker)
    assert run.info.status == "FINISHED" and run.info.run_name == "teacher"
    assert len(run.data.params) == 151 and run.data.params["section.key149"] == "149"
    assert run.data.params["long"] == "x" * 6000 and run.data.tags["digest"] == "d" * 8000
    assert run.data.tags["teacher_run_id"] == "abc"
    assert history(tracker, "per_class/car/AP_0.5") == [(7, 0.25)] and history(tracker, "m1499") == [(0, 1499)]
    assert "per_class/car/AOE" not in run.data.metrics
    assert (store / "mlflow.db").is_file()
    assert list((store / "artifacts").rglob("plots/plot.txt"))


def test_a_rerun_continues_the_same_run(store, tmp_path):
    first = start(store, tmp_path)
    first.finish("FAILED")
    again = start(store, tmp_path, tags={"stage": "again"}, config_flat={"optim.lr": 0.5, "optim.epochs": 2})
    assert again.run_id == first.run_id
    run = read(again)
    assert run.info.status == "RUNNING" and run.data.tags["stage"] == "again"
    assert run.data.params == {"optim.lr": "0.001", "optim.epochs": "2"}  # MLflow params are never rewritten
    other = start(store, tmp_path, name="student", parent_run_id=first.run_id)
    assert other.run_id != first.run_id and read(other).data.tags["mlflow.parentRunId"] == first.run_id
    assert set(json.loads((tmp_path / "mlflow_run.json").read_text())) == {"teacher", "student"}
    assert start(store, tmp_path / "elsewhere").run_id != first.run_id


def test_a_lost_run_is_started_anew(store, tmp_path):
    tracker = start(store, tmp_path)
    path = tmp_path / "mlflow_run.json"
    path.write_text(path.read_text().replace(tracker.run_id, "0" * 32))
    again = start(store, tmp_path)
    assert again.run_id not in ("", "0" * 32) and json.loads(path.read_text())["teacher"]["run_id"] == again.run_id


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "FINISHED")]
)
def test_how_a_run_ends(store, tmp_path, error, status):
    with pytest.raises(error), start(store, tmp_path) as tracker:
        raise error()
    assert read(tracker).info.status == status


def test_metric_logger_buffers_and_survives_pickling(store, tmp_path):
    tracker = start(store, tmp_path)
    writer = pickle.loads(pickle.dumps(tracker.metric_logger()))
    assert isinstance(writer, MetricLogger)
    for step in range(5):
        writer.log({"loss": float(step), "term": {"box": torch.tensor(1.0)}}, step)
    assert history(tracker, "loss") == []
    writer.flush()
    assert history(tracker, "loss") == [(i, float(i)) for i in range(5)] and len(history(tracker, "term/box")) == 5
    full = MetricLogger(tracker.uri, tracker.run_id, flush_rows=2)
    full.log({"a": 1, "b": 2}, 0)
    assert history(tracker, "b") == [(0, 2.0)]
    overdue = MetricLogger(tracker.uri, tracker.run_id, flush_s=0.0)
    overdue.log({"c": 1}, 0)
    assert history(tracker, "c") == [(0, 1.0)]


def test_a_resume_does_not_write_a_step_twice(store, tmp_path):
    tracker = start(store, tmp_path)
    for first, last in ((0, 6), (3, 9)):  # killed after step 5, resumed from the checkpoint of step 2
        writer = tracker.metric_logger()
        for step in range(first, last):
            writer.log({"loss": 100 * first + step}, step)
        writer.flush()
    assert history(tracker, "loss") == [(s, s) for s in range(6)] + [(s, 300 + s) for s in range(6, 9)]


def test_trouble_is_warned_about_once_and_never_raised(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="pdetr3d.tracking")
    (tmp_path / "file").write_text("not a folder")
    with Tracker.start(tmp_path / "file", "e", "n", {}, {}) as tracker:
        tracker.log_metrics({"a": 1})
        tracker.log_artifact(tmp_path / "missing")
    assert tracker.run_id == "" and len(caplog.records) == 1
    silent = tracker.metric_logger()
    silent.log({"a": 1}, 0)
    silent.flush()
    assert len(caplog.records) == 1


def test_the_newest_metrics_are_written_once_a_broken_store_works_again(store, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, logger="pdetr3d.tracking")
    monkeypatch.setattr(MetricLogger, "KEEP_ROWS", 5)
    monkeypatch.setattr(MetricLogger, "RETRY_S", 0.0)
    with start(store, tmp_path) as tracker:
        writer = MetricLogger(tracker.uri, tracker.run_id, flush_rows=1)
        with monkeypatch.context() as broken:
            broken.setattr("pdetr3d.tracking.metric_logger.write_metrics", fail)
            for step in range(20):
                writer.log({"a": 1}, step)
            writer.flush()
        assert len(caplog.records) == 1 and history(tracker, "a") == []
        writer.flush()
        assert history(tracker, "a") == [(step, 1) for step in range(15, 20)]


def fail(*_):
    raise OSError("the store is full")


def test_a_run_that_vanishes_does_not_stop_the_work(store, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="pdetr3d.tracking")
    tracker = start(store, tmp_path)
    tracker.run_id = "0" * 32
    tracker.log_metrics({"a": 1})
    tracker.set_tags({"a": 1})
    tracker.finish()
    assert len(caplog.records) == 1


def test_importing_tracking_does_not_import_mlflow():
    code = "import sys, pdetr3d.tracking.runs; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_experiment_that_another_job_makes_in_the_same_moment_is_used(store, tmp_path, monkeypatch):
    """Both jobs look for the experiment, neither finds it, and one creates it: the other's run belongs there, too."""
    from mlflow.tracking import MlflowClient

    there = read(start(store, tmp_path / "first")).info.experiment_id
    look, looked = MlflowClient.get_experiment_by_name, []

    def too_early(client, name):
        looked.append(name)
        return None if len(looked) == 1 else look(client, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", too_early)
    second = start(store, tmp_path / "second")
    assert second.run_id and read(second).info.experiment_id == there and len(looked) == 2


def test_runs_that_nobody_ended_are_ended_and_others_on_demand(tracking_dir: Path) -> None:
    states = {
        name: Tracker.start(tracking_dir, "experiment", name, {}, {}) for name in ("running", "failed", "finished")
    }
    states["failed"].finish("FAILED")
    states["finished"].finish()

    def seen() -> dict[str, str]:
        return {name: read(tracker).info.status for name, tracker in states.items()}

    end_runs(tracking_dir)
    assert seen() == {"running": "KILLED", "failed": "FAILED", "finished": "FINISHED"}
    end_runs(tracking_dir, "KILLED", of=("FAILED",))
    assert seen() == {"running": "KILLED", "failed": "KILLED", "finished": "FINISHED"}
    end_runs(tracking_dir, of=("FINISHED",), only="failed")
    assert seen()["finished"] == "FINISHED"
    end_runs(tracking_dir, of=("FINISHED",), only="finished")
    assert set(seen().values()) == {"KILLED"}
