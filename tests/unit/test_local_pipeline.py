"""A whole tiny pipeline in this process, where Ray cannot be imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import pdetr3d
from pdetr3d.pipeline.execute import execute, pipeline_goals
from pdetr3d.pipeline.scoring import evaluate
from tests.training_cases import begin_run

WORDS = [
    *("optim.epochs=0.5", "optim.batch_size=2", "teacher.optim.epochs=1", "teacher.optim.batch_size=2"),
    *("teacher.lidar_init=boxes_only", "teacher.crop_optim.epochs=1"),
]


def test_a_pipeline_runs_without_ray(
    sim_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    run = begin_run(sim_world, tmp_path, *WORDS)
    execute(pipeline_goals(run, ["ours"]), run, lanes=2)
    scores = evaluate(run, ["ours"])
    assert 0 <= scores["ours"]["NDS"] < 1 and run.result("evaluate_ours") == scores["ours"]
    finished = {file.parent.name for file in tmp_path.glob("*/done.json")}
    stages = {"student_boxes_only", "crops", "teacher", "pseudo_labels", "student_ours"}
    assert finished == {*stages, "evaluate_ours"} and set(run.timing) == {*stages, "evaluate"}
    labels = run.finished("pseudo_labels")
    assert labels["clicks"] == sum(len(record.clicks) for record in run.to_label) > 0
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("step_*.pt")}
    assert pdetr3d.run_pipeline(run.config, tmp_path, ["ours"])["ours"] == scores["ours"]
    assert "teacher: finished before, nothing to do" in capsys.readouterr().out
    assert times == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("step_*.pt")} and len(times) >= 4
