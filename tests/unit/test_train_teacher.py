"""Tests of the teacher's job: it scores its teacher on the val split once per run directory."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pdetr3d.presets import load
from pdetr3d.training.run_dir import RunDir
from ray_jobs import train_teacher
from tests.report_cases import teacher_scores


def test_the_job_scores_its_teacher_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, asked = load("quickstart"), []

    def scores(stages: object, file: Path, split: str) -> dict[str, Any]:
        asked.append((file.name, split))
        return teacher_scores(0.25) | {"size_error": None}

    run, file = RunDir(tmp_path, config), tmp_path / "teacher" / "step_3.pt"
    stages: Any = SimpleNamespace(dir=run, result=run.result, config=config, checkpoints=lambda stage: [file])
    monkeypatch.setattr(train_teacher, "teacher_scores", scores)
    monkeypatch.setattr(train_teacher, "execute", lambda goals, run: None)
    for _ in range(2):
        train_teacher.body(stages)
        said = capsys.readouterr().out
        assert "teacher, val split: n 9, bev_iou 0.6" in said and "yaw_error_rad 0.25" in said and str(file) in said
    assert asked == [("step_3.pt", "sim_val")]
    assert json.loads((tmp_path / "evaluate_teacher" / "done.json").read_text())["yaw_error_rad"] == 0.25
