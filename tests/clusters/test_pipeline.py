"""Tests of the whole pipeline at toy size on two Ray nodes with two workers: report, scores, MLflow, and a rerun."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pdetr3d.config import Config
from pdetr3d.data.index.index import Index
from pdetr3d.data.storage.files import read_parquet, table_digest
from pdetr3d.schema import CLASSES
from pdetr3d.tracking.client import connect, tracking_uri
from tests.training_cases import world_arguments

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
ARMS = {"boxes_only", "ours", "full"}
STAGES = {"crops", "teacher", "pseudo_labels"} | {f"{what}_{arm}" for what in ("student", "evaluate") for arm in ARMS}
OVERRIDES = [
    "optim.batch_size=2",
    "optim.epochs=1",  # 6 samples: 3 steps, checkpoints after 2 and 3
    "optim.checkpoints=2",
    "optim.log_every=1",
    "teacher.optim.batch_size=2",
    "teacher.optim.log_every=1",
    "teacher.optim.epochs=2",
    "teacher.crop_optim.epochs=2",
    "teacher.crop_optim.log_every=1",
    "scaling.workers=2",
    "scaling.concurrent_stages=2",
    "scaling.cpus_per_worker=0.5",
    "scaling.threads_per_worker=1",
    "scaling.data_cpus=0.25",
]


@pytest.fixture(scope="module")
def done(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[dict[str, Any]]]:
    """(run directory, output, results of both runs).

    They run in their own process, since ``Cluster`` and the other tests' Ray cannot share one.
    """
    run_dir = tmp_path_factory.mktemp("pipeline") / "run"
    arguments = ["--preset", "quickstart", "--run-dir", str(run_dir), *world_arguments(sim_world, *OVERRIDES)]
    process = subprocess.run(
        [sys.executable, "-m", "tests.clusters.cluster_pipeline", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=800, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    output = process.stdout + process.stderr
    assert process.returncode == 0, output
    return run_dir, output, [json.loads(line[4:]) for line in output.splitlines() if line.startswith("RUN ")]


def report_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "report.json").read_text())


def test_both_runs_succeed_and_the_second_does_nothing_new(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    run_dir, output, (first, second) = done
    assert (first["code"], second["code"], first["nodes"]) == (0, 0, 2), output
    assert second["seconds"] < first["seconds"] / 3
    assert (
        output.count("finished before, nothing to do") == 5
    )  # crop branch, teacher and three students, in the second run
    assert {f.parent.name for f in run_dir.glob("*/done.json")} == STAGES


def test_report_has_the_documented_form(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    report = report_of(done[0])
    parts = {"arms", "ratios", "pseudo_labels", "holdout", "timing", "phases_s", "memory", "config", "data", "lineage"}
    assert parts == report.keys() and report["holdout"] is None
    assert report["arms"].keys() == ARMS
    for metrics in report["arms"].values():
        assert {
            "mAP",
            "mAP_present",
            "NDS",
            "SPNDS",
            "mATE",
            "mASE",
            "mAOE",
            "per_class",
            "by_distance",
            "by_group",
        } <= metrics.keys()
        assert metrics["per_class"].keys() == set(CLASSES) and "AP" in metrics["per_class"]["car"]
        assert list(metrics["by_distance"]) == ["0-10", "10-20", "20-30", "30-40", "40-52"]
        assert 0 <= metrics["mAP"] <= 1 and 0 <= metrics["SPNDS"] <= 1
        assert metrics["selection"].keys() == {"step_0000002.pt", "step_0000003.pt"}
        assert metrics["selection"][metrics["checkpoint"]] == max(metrics["selection"].values())
    assert report["ratios"].keys() == {"ours_to_full", "ours_to_boxes_only"}
    assert all(ratio.keys() == {"mAP", "SPNDS"} for ratio in report["ratios"].values())
    ours, full = report["arms"]["ours"], report["arms"]["full"]
    expected = {m: ours[m] / full[m] if full[m] else None for m in ("mAP", "SPNDS")}  # scores may be 0
    assert report["ratios"]["ours_to_full"] == expected
    assert {"n", "bev_iou", "by_distance", "accepted", "class_mean"} <= report["pseudo_labels"].keys()
    assert report["pseudo_labels"]["n"] > 0
    assert report["timing"]["wall_s"] > 0 and report["memory"]["peak_rss_bytes"] > 10**8
    assert report["config"]["optim.batch_size"] == 2 and Config(preset="x").flat().keys() == report["config"].keys()
    assert 0.3 <= report["data"]["achieved_label_ratio"] <= 0.5
    assert report["lineage"].keys() >= {"run", "index", "manifest"}
    assert report["data"]["index"] == report["lineage"]["index"]


def test_every_val_sample_is_scored_whatever_the_number_of_workers(
    done: tuple[Path, str, list[dict[str, Any]]],
) -> None:
    index = Index.open(done[0] / "data" / "index.arrow")
    for arm in ARMS:
        (scored,) = (done[0] / f"evaluate_{arm}").glob("sim_val_*/results_nusc.json")
        assert json.loads(scored.read_text())["results"].keys() == set(index.tokens("sim_val"))


def test_mlflow_holds_finished_nested_runs(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    client = connect(tracking_uri(done[0]))
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert {c.info.run_name for c in children} == {"crops", "teacher"} | {f"student_{arm}" for arm in ARMS}
    assert len(children) == 5  # the second run continued these MLflow runs
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parents[0].info.run_id}
    report = json.loads((done[0] / "report.json").read_text())
    for arm in ARMS:  # the list of runs suffices for a comparison
        assert parents[0].data.metrics[f"{arm}/SPNDS"] == pytest.approx(report["arms"][arm]["SPNDS"])
    assert parents[0].data.metrics["teacher/bev_iou"] == pytest.approx(report["pseudo_labels"]["bev_iou"])
    note = parents[0].data.tags["mlflow.note.content"]
    assert all(f"/runs/{child.info.run_id})" in note for child in children) and "label.ratio=" in note
    assert all("label.ratio=" in run.data.tags["changed"] for run in runs)
    for child in children:
        steps = [point.step for point in client.get_metric_history(child.info.run_id, "loss")]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) in (2, 3), child.info.run_name


def runs_by_name(run_dir: Path) -> dict[str, Any]:
    """Name -> MLflow run of the pipeline; its own run is "", because its name contains a digest."""
    client = connect(tracking_uri(run_dir))
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {run.info.run_name if "mlflow.parentRunId" in run.data.tags else "": run for run in runs}


def test_lineage_leads_from_student_to_index(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    run_dir, runs, report = done[0], runs_by_name(done[0]), report_of(done[0])
    student, teacher = runs["student_ours"].data.tags, runs["teacher"].data.tags
    assert student["teacher_run_id"] == runs["teacher"].info.run_id
    assert student["teacher_checkpoint"] == teacher["checkpoint"]
    last = max((run_dir / "teacher").glob("step_*.pt"))
    assert teacher["checkpoint"] == hashlib.sha256(last.read_bytes()).hexdigest()[:16]
    assert student["pseudo_labels"] == table_digest(read_parquet(run_dir / "pseudo_labels" / "pseudo_labels.parquet"))
    assert "teacher_run_id" not in runs["student_full"].data.tags | runs["student_boxes_only"].data.tags
    for name in ("teacher", "student_ours", "student_full"):
        tags = runs[name].data.tags
        assert {key: tags[key] for key in ("index", "manifest", "run")} == report["lineage"]
        inputs = {tag.value: item.dataset for item in runs[name].inputs.dataset_inputs for tag in item.tags
                  if tag.key == "mlflow.data.context"}  # fmt: skip
        assert inputs.keys() == {"train", "select", "val"}
        assert inputs["train"].digest == f"{tags['index']}-{tags['manifest']}"
        assert json.loads(inputs["train"].profile) == {"num_rows": 6}  # of these, tags["samples"] are trained on
        assert (inputs["val"].name, inputs["val"].digest) == ("v1.0-sim sim_val", tags["index"])
        assert tags["env.ray"] and tags["env.torch"]


def test_mlflow_holds_scores_by_class_and_distance(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    runs, report = runs_by_name(done[0]), report_of(done[0])
    ours, metrics = report["arms"]["ours"], runs["student_ours"].data.metrics
    assert metrics["val/AP/car"] == ours["per_class"]["car"]["AP"] and metrics["val/SPNDS"] == ours["SPNDS"]
    assert metrics["val/n_gt/30-40m"] == sum(ours["by_distance"]["30-40"]["n_gt"].values())
    client = connect(tracking_uri(done[0]))
    points = client.get_metric_history(runs["student_ours"].info.run_id, "select/SPNDS")
    chosen = {f"step_{point.step:07d}.pt": point.value for point in points}
    assert chosen == ours["selection"] and len(points) == 2
    quality, teacher = report["pseudo_labels"], runs["teacher"].data.metrics
    assert teacher["point_labeled/bev_iou"] == quality["bev_iou"]
    assert teacher["point_labeled/n/10-20m"] == quality["by_distance"]["10-20"]["n"]
    assert runs[""].data.metrics["pseudo_labels/class_mean/bev_iou"] == quality["class_mean"]["bev_iou"]


def test_models_and_champions_point_to_the_checkpoints(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    run_dir, runs, report = done[0], runs_by_name(done[0]), report_of(done[0])
    client = connect(tracking_uri(run_dir))
    versions = {v.tags["stage"]: v for kind in ("teacher", "student")
                for v in client.search_model_versions(f"name='pdetr3d-{kind}'")}  # fmt: skip
    assert versions.keys() == {"teacher", *(f"student_{arm}" for arm in ARMS)}
    for stage, version in versions.items():
        model = client.get_logged_model(version.tags["model_id"])
        assert version.run_id == model.source_run_id == runs[stage].info.run_id and model.status == "READY"
        assert model.tags["checkpoint_uri"] == version.tags["checkpoint_uri"]
        arm = stage.removeprefix("student_")
        file = report["arms"][arm]["checkpoint"] if arm in ARMS else "step_0000002.pt"
        assert version.tags["checkpoint_uri"] == (run_dir / stage / file).as_uri()
        assert model.params["optim.batch_size"] == "2"
    scores = {arm: found["SPNDS"] for arm, found in report["arms"].items() if found["mAP"] >= 0.01}
    best = client.get_registered_model("pdetr3d-student").aliases.get("champion")
    if scores:
        assert float(client.get_model_version("pdetr3d-student", best).tags["score"]) == max(scores.values())
    else:
        assert best is None
    labels, teacher = report["pseudo_labels"], client.get_registered_model("pdetr3d-teacher").aliases
    assert ("champion" in teacher) == (labels["bev_iou"] > labels["class_mean"]["bev_iou"])
    assert versions["teacher"].tags["metric"] == "bev_iou"


def test_every_model_is_pictured_on_the_same_val_samples(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    index = Index.open(done[0] / "data" / "index.arrow")
    expected = {f"images/{token}/bev_cameras.png" for token in index.tokens("sim_val")}  # four, all of them
    for name, run in runs_by_name(done[0]).items():
        if name not in ("", "crops"):  # the crop branch is measured as a part of the teacher
            folder = Path(run.info.artifact_uri.removeprefix("file://"))
            assert {str(f.relative_to(folder)) for f in folder.glob("images/*/*")} == expected, name
            assert (folder / "environment" / "packages.txt").stat().st_size > 1000
            kept = json.loads((folder / "config.json").read_text())
            assert kept["optim"]["batch_size"] == 2


def test_ray_datas_account_of_each_stream_is_kept(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    for stage in ("teacher", *(f"student_{arm}" for arm in ARMS)):
        stats = (done[0] / stage / "stream_stats.txt").read_text()
        assert "ReadSamples" in stats and "Remote wall time" in stats


def test_nothing_temporary_is_left(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    assert not [f for f in done[0].rglob("*") if f.name.endswith(".tmp") and "ray" not in f.relative_to(done[0]).parts]
    assert list(done[0].glob("predictions_*.png"))
