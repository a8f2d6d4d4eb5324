"""The whole pipeline at toy size on two Ray nodes with two workers: report, scores, MLflow, and a rerun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pdetr3d.config import Config
from pdetr3d.data.index import Index
from pdetr3d.schema import CLASSES
from pdetr3d.tracking.client import connect, tracking_uri
from ray_jobs.report import ratios
from tests.training_cases import world_arguments

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
ARMS = {"boxes_only", "ours", "full"}
STAGES = {"teacher", "pseudo_labels"} | {f"{what}_{arm}" for what in ("student", "evaluate") for arm in ARMS}
OVERRIDES = [
    "optim.batch_size=2",
    "optim.epochs=1",  # 6 samples: 3 steps, checkpoints after 2 and 3
    "optim.checkpoints=2",
    "optim.log_every=1",
    "teacher.optim.batch_size=2",
    "teacher.optim.log_every=1",
    "teacher.optim.epochs=2",
    "scaling.workers=2",
    "scaling.concurrent_stages=2",
    "scaling.cpus_per_worker=0.5",
    "scaling.threads_per_worker=1",
    "scaling.data_cpus=0.25",
]


@pytest.fixture(scope="module")
def done(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[dict[str, Any]]]:
    """(run directory, output, what each of the two runs returned).

    A process of its own: ``Cluster`` and the other tests' Ray cannot live in one.
    """
    run_dir = tmp_path_factory.mktemp("pipeline") / "run"
    arguments = ["--preset", "quickstart", "--run-dir", str(run_dir), *world_arguments(sim_world, *OVERRIDES)]
    process = subprocess.run(
        [sys.executable, "-m", "tests.ray.cluster_pipeline", *arguments],
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
    assert output.count("finished before, nothing to do") == 4  # the teacher and three students, in the second run
    assert {f.parent.name for f in run_dir.glob("*/done.json")} == STAGES


def test_report_has_the_documented_form(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    report = report_of(done[0])
    assert {"arms", "ratios", "pseudo_labels", "timing", "memory", "config", "data", "lineage"} == report.keys()
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
        } <= metrics.keys()
        assert metrics["per_class"].keys() == set(CLASSES) and "AP" in metrics["per_class"]["car"]
        assert list(metrics["by_distance"]) == ["0-10", "10-20", "20-30", "30-40", "40-52"]
        assert 0 <= metrics["mAP"] <= 1 and 0 <= metrics["SPNDS"] <= 1
        assert metrics["selection"].keys() == {"step_0000002.pt", "step_0000003.pt"}
        assert metrics["selection"][metrics["checkpoint"]] == max(metrics["selection"].values())
    assert report["ratios"].keys() == {"ours_to_full", "ours_to_boxes_only"}
    assert all(ratio.keys() == {"mAP", "SPNDS"} for ratio in report["ratios"].values())
    ours, full = report["arms"]["ours"], report["arms"]["full"]
    expected = {m: ours[m] / full[m] if full[m] else None for m in ("mAP", "SPNDS")}  # three steps may score nothing
    assert report["ratios"]["ours_to_full"] == expected
    assert {"n", "bev_iou", "by_distance", "accepted", "class_mean"} <= report["pseudo_labels"].keys()
    assert report["pseudo_labels"]["n"] > 0
    assert report["timing"]["wall_s"] > 0 and report["memory"]["peak_rss_bytes"] > 10**8
    assert report["config"]["optim.batch_size"] == 2 and Config(preset="x").flat().keys() == report["config"].keys()
    assert 0.3 <= report["data"]["achieved_label_ratio"] <= 0.5
    assert report["lineage"].keys() >= {"run", "index", "manifest"}
    assert report["data"]["index"] == report["lineage"]["index"]


def test_ratios_by_hand() -> None:
    arms = {
        "ours": {"mAP": 0.3, "SPNDS": 0.25},
        "full": {"mAP": 0.4, "SPNDS": 0.5},
        "boxes_only": {"mAP": 0, "SPNDS": 0.125},
    }
    assert ratios(arms) == {
        "ours_to_full": {"mAP": pytest.approx(0.75), "SPNDS": 0.5},
        "ours_to_boxes_only": {"mAP": None, "SPNDS": 2.0},
    }
    assert ratios({"ours": arms["ours"]}) == {}


def test_every_val_sample_is_scored_whatever_the_number_of_workers(
    done: tuple[Path, str, list[dict[str, Any]]],
) -> None:
    index = Index.open(done[0] / "data" / "index.parquet")
    for arm in ARMS:
        (scored,) = (done[0] / f"evaluate_{arm}").glob("sim_val_*/results_nusc.json")
        assert json.loads(scored.read_text())["results"].keys() == set(index.tokens("sim_val"))


def test_mlflow_holds_finished_nested_runs(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    client = connect(tracking_uri(done[0]))
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert {c.info.run_name for c in children} == {"teacher"} | {f"student_{arm}" for arm in ARMS}
    assert len(children) == 4  # the second run continued them
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parents[0].info.run_id}
    for child in children:
        steps = [point.step for point in client.get_metric_history(child.info.run_id, "loss")]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) in (2, 3)


def test_ray_datas_account_of_each_stream_is_kept(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    for stage in ("teacher", *(f"student_{arm}" for arm in ARMS)):
        stats = (done[0] / stage / "stream_stats.txt").read_text()
        assert "ReadSamples" in stats and "Remote wall time" in stats


def test_nothing_temporary_is_left(done: tuple[Path, str, list[dict[str, Any]]]) -> None:
    assert not [f for f in done[0].rglob("*") if f.name.endswith(".tmp") and "ray" not in f.relative_to(done[0]).parts]
    assert list(done[0].glob("predictions_*.png"))
