"""Runs the commands of docs/your-data.md on a tiny world. Ray predicts; stages are trained here (``LocalRunner``).

In ``tests/clusters/test_your_data.py`` Ray trains them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdetr3d.pipeline.runner import LocalRunner
from ray_jobs.stages import pictures
from ray_jobs.stages.ray_runner import RayRunner
from tests.tutorial import follow

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_tutorial(
    sim_world: Path, tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(RayRunner, "fit", staticmethod(LocalRunner().fit))
    monkeypatch.setattr(pictures, "SAMPLES", 1)
    printed = follow(sim_world, tmp_path, monkeypatch, capfd, ["run.arms=[ours,full]"])
    report = json.loads(Path("runs/mine/report.json").read_text())
    assert set(report["arms"]) == {"ours"}  # the arm "full" needs all boxes, which are not known
    job = printed["-m"]
    assert "57 clicks, quality unknown" in job and "boxes of a teacher of 2 box-labeled samples, on 2 held out" in job
    assert "the devkit's scores on the val split" in job and "pdetr3d-teacher version 1: no champion" in job
    assert "box-labeled 4 (66.67%)" in printed["label"] and "point-labeled 2" in printed["label"]
    assert "BEV IoU unknown" in printed["report-labels"]
    assert "unknown  clicks: no box-labeled sample has clicks of people" in printed["doctor"]
