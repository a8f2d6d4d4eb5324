"""Runs the eight commands of docs/your-data.md, with training by Ray (``tests/e2e/test_your_data.py`` is shorter).

They are also run on data without annotations to score students on, as in v1.0-test.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from pdetr3d.tracking.client import connect, tracking_uri
from tests.tutorial import follow

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]


def test_from_boxes_and_clicks_to_a_detector(
    sim_world: Path, tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    printed = follow(sim_world, tmp_path, monkeypatch, capfd)
    report = json.loads(Path("runs/mine/report.json").read_text())
    assert set(report["arms"]) == {"boxes_only", "ours"}  # the arm "full" needs all boxes, which are not known
    assert "the devkit's scores on the val split" in printed["-m"]


def test_scenes_that_nobody_annotated(
    sim_world: Path, tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = ["data.allow_empty=[val_objects]", "data.select_split=sim_select", "optim.checkpoints=2"]
    printed = follow(sim_world, tmp_path, monkeypatch, capfd, job, unscored=("sim_select", "sim_val"))
    assert "devkit scores of boxes_only, ours on the val split: unknown" in printed["-m"]
    assert "boxes of a teacher of 2 box-labeled samples, on 2 held out" in printed["-m"]
    assert "no object in the val split" in printed["doctor"]
    report = json.loads(Path("runs/mine/report.json").read_text())
    for arm, scores in report["arms"].items():
        assert sum(scores["n_gt"].values()) == 0
        kept = json.loads(Path(f"runs/mine/student_{arm}/done.json").read_text())["checkpoints"]
        assert len(kept) == 2 and scores["checkpoint"] == kept[-1]  # without scores, the last checkpoint is taken
    client = connect(tracking_uri(Path("runs/mine")))
    (parent,) = [run for run in client.search_runs(["1"]) if "mlflow.parentRunId" not in run.data.tags]
    assert not {"ours/SPNDS", "teacher/bev_iou"} & parent.data.metrics.keys()
    assert "| ours | - | - | - | - | - | - |" in parent.data.tags["mlflow.note.content"]
    for model in ("pdetr3d-student", "pdetr3d-teacher"):
        with pytest.raises(MlflowException, match="champion"):
            client.get_model_version_by_alias(model, "champion")
