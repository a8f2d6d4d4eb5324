"""Tests of eight processes that write runs, inputs, models and champions into one SQLite store at once."""

from __future__ import annotations

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
WRITERS, STEPS, ROUNDS = 8, 50, 4


def write(folder: Path, number: int) -> None:
    """Write the tracking data of one trial; every writer is a separate process."""
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


def test_eight_writers(tracking_dir: Path) -> None:
    Tracker.start(tracking_dir, "sweep", "sweep", {}, {}).finish()  # the driver makes store and experiment
    code = (
        "import sys, pathlib; from tests.unit.test_tracking_writers import write; write(pathlib.Path(sys.argv[1]), {})"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code.format(number), str(tracking_dir)],
            cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(WRITERS)
    ]  # fmt: skip
    outputs = [writer.communicate(timeout=240)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * WRITERS, outputs
    assert not [text for text in outputs if "MLflow at" in text], outputs  # how the tracker warns
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
