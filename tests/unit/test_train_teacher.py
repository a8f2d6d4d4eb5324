"""Tests of the teacher's job: it scores its teacher on the val split once per run directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdetr3d.pipeline.observer import Observer
from pdetr3d.pipeline.run import Run
from pdetr3d.training.run_dir import RunDir
from ray_jobs import train_teacher
from tests.known_runner import KnownRunner
from tests.training_cases import world_config


def test_the_job_scores_its_teacher_once(sim_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner = KnownRunner({1: 0.5, 3: 0.25})
    run = runner.run = Run(RunDir(tmp_path, world_config(sim_world)), runner, Observer())
    for _ in range(2):
        capsys.readouterr()
        train_teacher.body(run)
        said = capsys.readouterr().out
        assert "teacher, val split: n " in said and "center_error_m 0.25" in said
        assert str(tmp_path / "teacher" / "step_0000003.pt") in said
    assert (
        runner.asked == [["step_0000003.pt"]] and [training.name for training in runner.trainings].count("teacher") == 1
    )
    stored = json.loads((tmp_path / "evaluate_teacher" / "done.json").read_text())
    assert stored["center_error_m"] == pytest.approx(0.25, abs=1e-5) and stored["yaw_error_rad"] == pytest.approx(
        0, abs=1e-5
    )
    assert stored["n"] == sum(len(run.data.index.annotations(t).boxes()) for t in run.data.index.tokens("sim_val"))
