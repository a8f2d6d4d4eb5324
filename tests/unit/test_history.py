"""Curves read back from a real store, also after the run directory was moved."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from pdetr3d.tracking.history import Curve, read_histories
from pdetr3d.tracking.runs import Tracker


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history") / "run"
    folder.mkdir()
    tracker = Tracker.start(folder, "experiment", "teacher", {}, {})
    for step, loss in ((20, 3.0), (10, 5.0), (30, math.inf), (40, math.nan)):
        tracker.log_metrics({"loss": loss, "other": 1}, step)
    tracker.finish("FAILED")
    Tracker.start(folder, "experiment", "student_ours", {}, {}).log_metrics({"other": 1})
    return folder


def test_curves_are_read_as_they_were_logged(run_dir: Path) -> None:
    histories, problems = read_histories(run_dir, ("loss", "lr"))
    assert problems == {} and list(histories) == ["teacher", "student_ours"]
    teacher, student = histories.values()
    assert (teacher.status, student.status, student.curves) == ("FAILED", "RUNNING", {})
    assert set(teacher.curves) == {"loss"} and teacher.curves["loss"].steps == (10, 20, 30, 40)
    assert teacher.curves["loss"].values[:3] == (5.0, 3.0, math.inf) and math.isnan(teacher.curves["loss"].values[3])


def test_a_run_directory_may_move(run_dir: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run_dir, moved)
    entries = json.loads((moved / "mlflow_run.json").read_text())
    for entry in entries.values():
        entry["uri"] = f"sqlite:///{tmp_path}/where/it/was/mlflow.db"
    (moved / "mlflow_run.json").write_text(json.dumps(entries))
    histories, problems = read_histories(moved, ("other",))
    assert problems == {} and histories["student_ours"].curves == {"other": Curve((0,), (1.0,))}


def test_what_is_gone_is_said_and_not_made_anew(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow_run.json").write_text((run_dir / "mlflow_run.json").read_text().replace("mlflow.db", "no.db"))
    histories, problems = read_histories(tmp_path, ("loss",))
    assert histories == {} and set(problems) == {"teacher", "student_ours"}
    assert "the file is gone" in problems["teacher"] and not (run_dir / "no.db").exists()
    entries = json.loads((run_dir / "mlflow_run.json").read_text())
    entries["teacher"]["run_id"] = "0" * 32
    (tmp_path / "mlflow_run.json").write_text(json.dumps(entries))
    histories, problems = read_histories(tmp_path, ("loss",))
    assert list(histories) == ["student_ours"] and "0" * 32 in problems["teacher"]
    assert read_histories(tmp_path / "none", ("loss",)) == ({}, {})
