"""Tests of a search at toy size: its driver is killed, the same command finishes it, shared stages are trained once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pdetr3d.tracking.client import connect
from ray_jobs.searches.trial import title
from tests.training_cases import world_arguments

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
SPACE = """
question: Does a killed search go on?
trains: [ours, boxes_only]
metric: mATE
settings: [optim.checkpoints=2]
space:
  student.mask_sigma_factor: {values: [0.25, 1.0]}
"""
# The first file of image weights is missing, so the two first trials, which need it, fail at their start.
ENDS = """
question: How do trials end?
trains: [boxes_only]
metric: mATE
settings: [optim.checkpoints=2]
space:
  optim.lr: {values: [1.0e-3, 2.0e-3]}
  teacher.image_weights: {values: [missing.pth, ""]}
"""
OVERRIDES = [
    "optim.batch_size=2",
    "optim.epochs=1",  # 6 samples: 3 steps, checkpoints after 2 and 3
    "optim.log_every=1",
    "teacher.optim.batch_size=2",
    "teacher.optim.epochs=1",
    "teacher.crop_optim.epochs=1",
    "scaling.cpus_per_worker=0.3",
    "scaling.threads_per_worker=1",
    "scaling.data_cpus=0.1",
]


def start(
    folder: Path, dataroot: Path, output: Path, space: str = SPACE, words: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start the search in its own process group; ``words``: further words of the command."""
    (folder / "mine.yaml").write_text(space)
    command = [sys.executable, "-m", "ray_jobs.search", str(folder / "mine.yaml"), "--preset", "quickstart"]
    with output.open("wb") as stream:
        return subprocess.Popen(
            [*command, "--run-dir", str(folder / "run"), "--out", str(folder / "out"), "--concurrent", "2",
             *world_arguments(dataroot, *OVERRIDES), *words],
            cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def wait_for_a_score(job: subprocess.Popen[bytes], run: Path, output: Path, timeout_s: float = 420) -> None:
    end = time.monotonic() + timeout_s
    while not any(json.loads(f.read_text())["curve"] for f in run.glob("trials/*/trial.json")):
        assert job.poll() is None and time.monotonic() < end, output.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def searched(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """(run directory, search.json, output of the second call) of a search that was killed once."""
    folder = tmp_path_factory.mktemp("search")
    run, outputs = folder / "run", [folder / "first.log", folder / "second.log"]
    job = start(folder, sim_world, outputs[0])
    wait_for_a_score(job, run, outputs[0])
    family = psutil.Process(job.pid).children(recursive=True)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    for process in alive:
        process.kill()
    assert not (run / "search.json").exists()
    job = start(folder, sim_world, outputs[1])
    assert job.wait(timeout=300) == 0, outputs[1].read_text()
    yield run, json.loads((run / "search.json").read_text()), outputs[1].read_text()


def test_every_combination_was_trained_to_its_end(searched: tuple[Path, dict[str, Any], str]) -> None:
    run, document, _ = searched
    trials = document["trials"]
    assert [trial["status"] for trial in trials] == ["finished"] * 2 and document["sessions"] == 2
    assert sorted(trial["parameters"]["student.mask_sigma_factor"] for trial in trials) == [0.25, 1.0]
    for trial in trials:
        assert [(row["step"], row["samples"]) for row in trial["curve"]] == [(2, 4), (3, 6)]
        assert trial["score"] == trial["curve"][-1]["mATE"]
        assert trial["data"]["keyframes"] == 6 and trial["data"]["box_keyframes"] == 2  # one scene of three
        config = json.loads((run / trial["run_dir"] / "run.json").read_text())
        assert config["student.mask_sigma_factor"] == trial["parameters"]["student.mask_sigma_factor"]
    assert len(document["groups"]) == 2 and document["space"]["question"] == "Does a killed search go on?"
    assert json.loads((run.parent / "out" / "mine.json").read_text()) == document


def test_what_trials_share_was_trained_once(searched: tuple[Path, dict[str, Any], str]) -> None:
    run, document, _ = searched
    kinds = ["shared/pseudo_labels", "shared/student_boxes_only", "shared/teacher"]
    assert [name.split("-")[0] for name in document["shared"]] == kinds
    assert [file.parent.parent.parent.name for file in run.rglob("ray/teacher")] == ["shared"]
    assert len({file.read_bytes() for file in run.glob("shared/*/teacher/step_*.pt")}) == 1
    assert not list(run.glob("trials/*/teacher/step_*.pt"))
    assert [file.parent.parent.parent.name for file in run.rglob("ray/student_boxes_only")] == ["shared"]
    boxes_only = {file.read_bytes() for file in run.rglob("student_boxes_only/step_*.pt")}
    assert len(boxes_only) == len(list(run.glob("shared/*/student_boxes_only/step_*.pt")))
    labels = {(run / t["run_dir"] / "pseudo_labels" / "pseudo_labels.parquet").read_bytes() for t in document["trials"]}
    assert labels == {(run / document["shared"][0] / "pseudo_labels" / "pseudo_labels.parquet").read_bytes()}


def test_no_run_is_left_running(searched: tuple[Path, dict[str, Any], str]) -> None:
    run, document, _ = searched
    entry = json.loads((run / "mlflow_run.json").read_text())
    (parent,) = (one for name, one in entry.items() if name.startswith("search"))
    client = connect(parent["uri"])
    experiment = client.get_run(parent["run_id"]).info.experiment_id
    runs = client.search_runs([experiment])
    assert {one.info.status for one in runs} == {"FINISHED"}
    names = [one.info.run_name for one in runs]
    # One teacher serves two students: one MLflow run trains it, another scores it at the clicks that it labeled. The
    # killed process's runs were continued.
    assert sorted(names, key=str.lower) == sorted(
        [
            "search mine",
            "crops",
            "teacher",
            "teacher",
            "student_boxes_only",
            *(Path(name).name for name in document["shared"]),
        ]
        + [f"{what} {t['name']}" for t in document["trials"] for what in ("student_ours", "student_boxes_only")]
        + [title(t["name"], t["parameters"]) for t in document["trials"]],
        key=str.lower,
    )
    teachers = [one for one in runs if one.info.run_name == "teacher"]
    trained, scored = sorted(teachers, key=lambda one: one.info.start_time)
    assert scored.data.tags["trained_by"] == trained.info.run_id
    students = [one for one in runs if one.info.run_name.startswith("student_ours")]
    assert {one.data.tags["teacher_run_id"] for one in students} == {trained.info.run_id}
    children = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == parent["run_id"]]
    assert len(children) == 5  # two trials and the shared stages
    provenance = [one.data.tags["env.ray"] for one in runs if one.info.run_id == parent["run_id"] or one in children]
    assert len(provenance) == 6 and all(provenance)


def test_progress_says_what_is_best(searched: tuple[Path, dict[str, Any], str]) -> None:
    output = searched[2]
    assert re.search(r"search mine: 2 finished of 2 trials \| ETA \d+ s", output) and "written:" in output
    best = [line.split("│")[-2].strip() for line in output.splitlines() if line.startswith("│ best")]
    assert best[-1] == f"{searched[1]['groups'][0]['score']['mean']:.4g}"


def test_every_trial_ends_in_mlflow_as_it_ended(sim_world: Path, tmp_path: Path) -> None:
    """Two trials fail at their start. Two workers train each of the others, which spend the budget before both are
    trained. One of them is ended, or both; Tune reports only the end of the one that has just reported."""
    output = tmp_path / "log"
    # 6 samples each, reported after 4 and 6. The tests' small image backbone takes no weights.
    images = ("teacher.image_backbone=resnet18", "teacher.image_channels=[128,256,512]")
    words = ("scaling.workers=2", *images, "--budget", "7")
    job = start(tmp_path, sim_world, output, ENDS, words)
    assert job.wait(timeout=800) == 1, output.read_text()
    assert "trials failed" in output.read_text() and "missing.pth" in output.read_text()
    document = json.loads((tmp_path / "run" / "search.json").read_text())
    ends = {trial["name"]: trial["status"] for trial in document["trials"]}
    assert {"failed", "stopped"} <= set(ends.values()) <= {"failed", "stopped", "finished"}, ends
    entry = json.loads((tmp_path / "run" / "mlflow_run.json").read_text())["search mine"]
    client = connect(entry["uri"])
    runs = client.search_runs([client.get_run(entry["run_id"]).info.experiment_id])
    status = {one.info.run_name: one.info.status for one in runs}
    as_ended = {"failed": "FAILED", "stopped": "KILLED", "finished": "FINISHED"}
    titles = {trial["name"]: title(trial["name"], trial["parameters"]) for trial in document["trials"]}
    assert {name: status[titles[name]] for name in ends} == {name: as_ended[end] for name, end in ends.items()}
    assert set(status.values()) == {"FINISHED", "KILLED", "FAILED"} and status["search mine"] == "FINISHED"


UNWATCHED = """
question: What are checkpoints worth that nobody scores during training?
trains: [boxes_only]
metric: mATE
space:
  optim.lr: {values: [1.0e-3, 2.0e-3]}
"""


def test_without_a_select_split_trials_are_compared_by_their_final_scores(sim_world: Path, tmp_path: Path) -> None:
    output = tmp_path / "log"
    job = start(tmp_path, sim_world, output, UNWATCHED, ('data.select_split=""',))
    assert job.wait(timeout=500) == 0, output.read_text()
    document = json.loads((tmp_path / "run" / "search.json").read_text())
    assert document["scored_on"] == "final" and len(document["trials"]) == 2
    for one in document["trials"]:
        assert (one["status"], one["curve"]) == ("finished", [])
        assert one["score"] == one["final"]["student_boxes_only"]["mATE"] > 0


VARIANTS = """
question: What is a teacher worth at clicks that it does not learn from?
trains: teacher
metric: bev_iou
seeds: [0, 1]
settings: [teacher.lidar_init=none, teacher.point_crop=false, teacher.heading_start=forward]
measured_on: point_labeled
evaluations: {start: true, floors: true, corruption: {corruption.blur_px: [0, 2]}}
reference: plain
samples: 2
variants:
  plain: []
  broken: [teacher.image_weights=missing.pth]
"""


def test_named_variants_are_measured_and_a_rerun_tries_those_that_failed(sim_world: Path, tmp_path: Path) -> None:
    """Two variants with two seeds; the image weights of one variant are missing."""
    output, run = tmp_path / "log", tmp_path / "run"
    images = ("teacher.image_backbone=resnet18", "teacher.image_channels=[128,256,512]")
    job = start(tmp_path, sim_world, output, VARIANTS, images)
    assert job.wait(timeout=500) == 1, output.read_text()
    assert "2 trials failed" in output.read_text()
    document = json.loads((run / "search.json").read_text())
    ends = {(t["parameters"]["variant"], t["parameters"]["seed"]): t["status"] for t in document["trials"]}
    expected = {"plain": "finished", "broken": "failed"}
    assert ends == {(name, seed): status for name, status in expected.items() for seed in (0, 1)}
    assert (document["measured_on"], document["scored_on"], document["judged"]) == (*["point_labeled"] * 2, "teacher")
    for trial in (trial for trial in document["trials"] if trial["status"] == "finished"):
        assert [(row["step"], row["progress"]) for row in trial["curve"]] == [(0, 0), (1, 100)]
        assert trial["score"] == trial["curve"][-1]["bev_iou"]
        assert set(trial["final"]) == {"teacher", "class_mean", "class_mean_pca"}
        assert trial["final"]["teacher"]["n"] == trial["final"]["class_mean"]["n"] == trial["data"]["clicks"] > 0
        # All samples have more clicks than the curve's two; without blur the figures are those of the curve's end.
        clean = trial["corruption"]["corruption.blur_px"]["0"]
        assert clean["bev_iou"] == pytest.approx(trial["score"]) and clean["n"] < trial["final"]["teacher"]["n"]
        assert trial["costs"]["parameters"] > 0 and trial["costs"]["step_s"] > 0
    assert [group["parameters"]["variant"] for group in document["groups"]] == ["plain", "broken"]
    assert (run / "report.html").is_file()
    done = {t["name"]: (run / t["run_dir"] / "trial" / "done.json") for t in document["trials"] if not t["error"]}
    before = {name: file.stat().st_mtime_ns for name, file in done.items()}
    job = start(tmp_path, sim_world, output, VARIANTS, images)
    assert job.wait(timeout=500) == 1 and "2 trials failed" in output.read_text()
    assert {name: file.stat().st_mtime_ns for name, file in done.items()} == before, "trained or measured again"
    assert len(json.loads((run / "search.json").read_text())["trials"]) == 4
