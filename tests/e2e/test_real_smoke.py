"""Runs ``make real-smoke`` (val split = train split) twice with few steps: from tables to scores and pictures.

Ray trains the student and predicts; this process trains the teacher, which saves two starts of Ray Train.
``tests/clusters/test_pipeline.py`` runs the pipeline with three arms and two workers per stage on two nodes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.data.storage.files import read_parquet
from pdetr3d.pipeline.runner import LocalRunner
from pdetr3d.pipeline.training import Training
from pdetr3d.schema import CLASSES
from pdetr3d.tracking.client import connect, tracking_uri
from ray_jobs.plug.fit import fit
from ray_jobs.stages.ray_runner import RayRunner
from tests.jobs import run_module
from tests.model_cases import TINY

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
FEW_STEPS = ["teacher.crop_optim.epochs=2", "teacher.optim.epochs=2", "optim.epochs=2", "data.num_sweeps=2"]
FEW_STEPS += ["data.image_size_px=[80,45]"]


def test_real_smoke(
    sim_world: Path,
    tmp_path: Path,
    ray_local: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the real keyframe if this clone has it, else on keyframes of a simulated world."""
    world = []
    if not os.environ.get("PDETR3D_REAL_DATA"):
        monkeypatch.setenv("PDETR3D_REAL_DATA", str(sim_world))
        world = ["data.version=v1.0-sim", "data.train_split=sim_val", "data.val_split=sim_val"]
    monkeypatch.setattr(RayRunner, "fit", staticmethod(fit_students))
    run = tmp_path / "run"
    arguments = ["--preset", "real-smoke", "--run-dir", str(run), *TINY, "scaling.cpus_per_worker=0.5"]
    arguments += [*FEW_STEPS, *world]
    code = run_module("ray_jobs.pipeline", arguments)
    said = capsys.readouterr()
    assert code == 0, said.out + said.err

    report = json.loads((run / "report.json").read_text())
    index, clicks = Index.open(run / "data" / "index.arrow"), LabelManifest.open(run / "data" / "manifest").clicks
    split = report["config"]["data.val_split"]
    tokens = index.tokens(split)
    assert report["config"]["data.train_split"] == split and 1 <= len(tokens) <= 4
    labels = read_parquet(run / "pseudo_labels" / "pseudo_labels.parquet")
    assert sorted(labels["click_id"].to_pylist()) == sorted(clicks["click_id"].to_pylist())  # every click once
    assert report["pseudo_labels"]["n"] == len(labels) > 10
    (scored,) = (run / "evaluate_ours").glob(f"{split}_*/results_nusc.json")
    assert json.loads(scored.read_text())["results"].keys() == set(tokens)
    assert sum(entry["n_gt"] for entry in report["arms"]["ours"]["per_class"].values()) > 10
    for stage in ("teacher", "student_ours"):
        assert {f.parent.name for f in (run / stage / "images").glob("*/bev_cameras.png")} == set(tokens)
    assert (run / "predictions_ours.png").stat().st_size > 10_000
    check_report(run, report, said.out)
    check_tracking(run, report)

    trained = {file: file.stat().st_mtime_ns for file in run.glob("*/step_*.pt")}
    assert run_module("ray_jobs.pipeline", arguments) == 0
    stages = {file.parent.name for file in trained}
    assert stages == {"crops", "teacher", "student_ours"}
    assert capsys.readouterr().out.count("finished before, nothing to do") == len(stages)
    assert {file: file.stat().st_mtime_ns for file in run.glob("*/step_*.pt")} == trained
    check_tracking(run, report)  # the second call continued the runs


def fit_students(training: Training, run_dir: Path, score: Callable[[Path], float] | None = None) -> list[Path]:
    """``RayRunner.fit`` of students, ``LocalRunner.fit`` of all else."""
    return (fit if training.kind == "student" else LocalRunner().fit)(training, run_dir, score)


def check_report(run: Path, report: dict[str, Any], said: str) -> None:
    """Check the form of the report and its times, and that no temporary file is left."""
    parts = {"arms", "ratios", "pseudo_labels", "holdout", "timing", "phases_s", "memory", "config", "data", "lineage"}
    assert report.keys() == parts and report["ratios"] == {} and report["holdout"] is None
    ours = report["arms"]["ours"]
    assert ours.keys() >= {"mAP", "mAP_present", "NDS", "SPNDS", "mATE", "mASE", "mAOE", "by_distance", "by_group"}
    assert ours["per_class"].keys() == set(CLASSES) and 0 <= ours["mAP"] <= 1 and 0 <= ours["SPNDS"] <= 1
    assert report["timing"]["wall_s"] > 0 and report["memory"]["peak_rss_bytes"] > 10**8
    assert report["data"]["index"] == report["lineage"]["index"]
    spent = report["phases_s"]
    assert min(spent[kind] for kind in ("train", "predict", "score", "pictures", "data")) > 0
    table = said.split("where the time went:\n")[1].splitlines()[: len(spent) + 1]
    *rows, whole = [float(row.split(" s ")[0].split()[-1]) for row in (f"{line} " for line in table)]
    assert sum(rows) == pytest.approx(whole, abs=0.1 * len(rows)) and whole >= sum(spent.values()) - 0.1
    assert "ReadSamples" in (run / "student_ours" / "stream_stats.txt").read_text()
    assert not [f for f in run.rglob("*") if f.name.endswith(".tmp") and "ray" not in f.relative_to(run).parts]


def check_tracking(folder: Path, report: dict[str, Any]) -> None:
    """Check MLflow: all runs are finished, none twice, nested in one parent; the student's lineage and scores."""
    client = connect(tracking_uri(folder))
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in runs if run is not parent}
    assert children.keys() == {file.parent.name for file in folder.glob("*/step_*.pt")}
    assert len(runs) == 1 + len(children)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {child.data.tags["mlflow.parentRunId"] for child in children.values()} == {parent.info.run_id}
    student, teacher = children["student_ours"].data, children["teacher"]
    assert student.tags["teacher_run_id"] == teacher.info.run_id
    assert student.tags["teacher_checkpoint"] == teacher.data.tags["checkpoint"]
    assert {key: student.tags[key] for key in ("index", "manifest", "run")} == report["lineage"]
    ours = report["arms"]["ours"]
    assert student.metrics["val/AP/car"] == ours["per_class"]["car"]["AP"]
    assert student.metrics["val/SPNDS"] == ours["SPNDS"]
    (version,) = client.search_model_versions("name='pdetr3d-student'")
    assert version.tags["stage"] == "student_ours"
    # After so few steps the student may find no object.
    assert ("champion" in client.get_registered_model("pdetr3d-student").aliases) == (ours["mAP"] >= 0.01)
