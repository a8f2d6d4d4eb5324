"""Eight processes write runs, inputs, models and champions into one SQLite store at once: nothing is lost or broken."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pdetr3d.tracking.client import connect, tracking_uri
from pdetr3d.tracking.datasets import DataInput, log_inputs
from pdetr3d.tracking.models import CHAMPION, Score, log_checkpoint, log_model_metrics, register
from pdetr3d.tracking.runs import Tracker

pytestmark = pytest.mark.slow
WRITERS, STEPS, ROUNDS = 8, 20, 2


def write(folder: Path, number: int) -> None:
    """One trial's worth of tracking; a writer is a process of its own."""
    with Tracker.start(folder / str(number), "sweep", f"trial {number}", {"n": number}, {}, None, folder) as tracker:
        log_inputs(tracker, [DataInput("v1.0 train", "i-m", "/data", "train", 5)])
        logger = tracker.metric_logger()
        for step in range(STEPS):
            logger.log({"loss": step + number}, step)
            if step % (STEPS // ROUNDS) == 0:
                logger.flush()
        logger.flush()
        model = log_checkpoint(tracker, "student", f"student_{number}", STEPS, {"n": number}, {})
        log_model_metrics(tracker, model, {"val/SPNDS": number / 10}, STEPS)
        print(register(tracker, "student", model, Score("SPNDS", number / 10, "i-m", "val"), {"n": number}))


def fork(folder: str) -> None:
    """Start all writers from one process that has imported MLflow, which takes seconds, and opened no store."""
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write, args=(Path(folder), number)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    sys.exit(max(writer.exitcode or 0 for writer in writers))


def test_eight_writers(tracking_dir: Path) -> None:
    Tracker.start(tracking_dir, "sweep", "sweep", {}, {}).finish()  # the driver makes store and experiment
    code = "import sys, pathlib; from tests.unit import test_tracking_writers; test_tracking_writers.fork(sys.argv[1])"
    words = [sys.executable, "-c", code, str(tracking_dir)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MLflow at" not in done.stdout + done.stderr  # how the tracker warns
    with sqlite3.connect(tracking_dir / "mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    client = connect(tracking_uri(tracking_dir))
    experiment = client.get_experiment_by_name("sweep")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == WRITERS + 1 and {run.info.status for run in runs.values()} == {"FINISHED"}
    for number in range(WRITERS):
        run = runs[f"trial {number}"]
        points = client.get_metric_history(run.info.run_id, "loss")
        assert sorted((p.step, p.value) for p in points) == [(step, step + number) for step in range(STEPS)]
        assert [found.dataset.digest for found in run.inputs.dataset_inputs] == ["i-m"]
        assert run.data.metrics["val/SPNDS"] == number / 10 and len(run.outputs.model_outputs) == 1
    versions = client.search_model_versions("name='pdetr3d-student'")
    assert sorted(version.tags["n"] for version in versions) == [str(number) for number in range(WRITERS)]
    best = client.get_model_version_by_alias("pdetr3d-student", CHAMPION)
    assert best.tags["n"] == str(WRITERS - 1)
