"""A sweep at toy size: its driver is killed in the middle, the same command ends it, shared stages are trained once."""

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
from tests.training_cases import world_arguments

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
SPACE = """
question: Does a killed sweep go on?
trains: [ours, boxes_only]
metric: mATE
settings: [optim.checkpoints=2]
space:
  student.mask_sigma_factor: {values: [0.25, 1.0]}
"""
# The first image weights are not there: trials with them, the first two, fail as soon as they start.
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
    """The sweep, in a process group of its own. ``words``: more of its command."""
    (folder / "mine.yaml").write_text(space)
    command = [sys.executable, "-m", "ray_jobs.sweep", str(folder / "mine.yaml"), "--preset", "quickstart"]
    with output.open("wb") as stream:
        return subprocess.Popen(
            [*command, "--run-dir", str(folder / "run"), "--out", str(folder / "out"), "--concurrent", "2",
             *world_arguments(dataroot, *OVERRIDES), *words],
            cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def wait_for_a_score(job: subprocess.Popen[bytes], run: Path, output: Path, timeout_s: float = 240) -> None:
    end = time.monotonic() + timeout_s
    while not any(json.loads(f.read_text())["curve"] for f in run.glob("trials/*/trial.json")):
        assert job.poll() is None and time.monotonic() < end, output.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def swept(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """(run directory, sweep.json, output of the second call) of a sweep that was killed once."""
    folder = tmp_path_factory.mktemp("sweep")
    run, outputs = folder / "run", [folder / "first.log", folder / "second.log"]
    job = start(folder, sim_world, outputs[0])
    wait_for_a_score(job, run, outputs[0])
    family = psutil.Process(job.pid).children(recursive=True)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    for process in alive:
        process.kill()
    assert not (run / "sweep.json").exists()
    job = start(folder, sim_world, outputs[1])
    assert job.wait(timeout=300) == 0, outputs[1].read_text()
    yield run, json.loads((run / "sweep.json").read_text()), outputs[1].read_text()


def test_every_combination_was_trained_to_its_end(swept: tuple[Path, dict[str, Any], str]) -> None:
    run, document, _ = swept
    trials = document["trials"]
    assert [trial["status"] for trial in trials] == ["finished"] * 2
    assert sorted(trial["parameters"]["student.mask_sigma_factor"] for trial in trials) == [0.25, 1.0]
    for trial in trials:
        assert [(row["step"], row["samples"]) for row in trial["curve"]] == [(2, 4), (3, 6)]
        assert trial["score"] == trial["curve"][-1]["mATE"]
        assert trial["data"]["keyframes"] == 6 and trial["data"]["box_keyframes"] == 2  # a scene of three
        config = json.loads((run / trial["run_dir"] / "run.json").read_text())
        assert config["student.mask_sigma_factor"] == trial["parameters"]["student.mask_sigma_factor"]
    assert len(document["groups"]) == 2 and document["space"]["question"] == "Does a killed sweep go on?"
    assert json.loads((run.parent / "out" / "mine.json").read_text()) == document


def test_what_trials_share_was_trained_once(swept: tuple[Path, dict[str, Any], str]) -> None:
    run, document, _ = swept
    kinds = ["shared/boxes_only", "shared/labels", "shared/teacher"]
    assert [name.split("-")[0] for name in document["shared"]] == kinds
    assert [file.parent.parent.parent.name for file in run.rglob("ray/teacher")] == ["shared"]
    assert len({file.read_bytes() for file in run.glob("shared/*/teacher/step_*.pt")}) == 1
    assert not list(run.glob("trials/*/teacher/step_*.pt"))
    assert [file.parent.parent.parent.name for file in run.rglob("ray/student_boxes_only")] == ["shared"]
    boxes_only = {file.read_bytes() for file in run.rglob("student_boxes_only/step_*.pt")}
    assert len(boxes_only) == len(list(run.glob("shared/*/student_boxes_only/step_*.pt")))
    labels = {(run / t["run_dir"] / "pseudo_labels" / "pseudo_labels.parquet").read_bytes() for t in document["trials"]}
    assert labels == {(run / document["shared"][1] / "pseudo_labels" / "pseudo_labels.parquet").read_bytes()}


def test_no_run_is_left_running(swept: tuple[Path, dict[str, Any], str]) -> None:
    run, document, _ = swept
    entry = json.loads((run / "mlflow_run.json").read_text())
    (parent,) = (one for name, one in entry.items() if name.startswith("sweep"))
    client = connect(parent["uri"])
    experiment = client.get_run(parent["run_id"]).info.experiment_id
    runs = client.search_runs([experiment])
    assert {one.info.status for one in runs} == {"FINISHED"}
    names = [one.info.run_name for one in runs]
    # One teacher for two students, trained in one run, scored at the clicks that it labeled in another: the killed
    # process's runs were continued, not started anew.
    assert sorted(names, key=str.lower) == sorted(
        [
            "sweep mine",
            "crops",
            "teacher",
            "teacher",
            "student_boxes_only",
            *(Path(name).name for name in document["shared"]),
        ]
        + [
            f"{what} {t['name']}"
            for t in document["trials"]
            for what in ("trial", "student_ours", "student_boxes_only")
        ],
        key=str.lower,
    )
    teachers = [one for one in runs if one.info.run_name == "teacher"]
    trained, scored = sorted(teachers, key=lambda one: one.info.start_time)
    assert scored.data.tags["trained_by"] == trained.info.run_id
    students = [one for one in runs if one.info.run_name.startswith("student_ours")]
    assert {one.data.tags["teacher_run_id"] for one in students} == {trained.info.run_id}
    children = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == parent["run_id"]]
    assert len(children) == 5  # two trials and what they share
    provenance = [one.data.tags["env.ray"] for one in runs if one.info.run_id == parent["run_id"] or one in children]
    assert len(provenance) == 6 and all(provenance)


def test_progress_says_what_is_best(swept: tuple[Path, dict[str, Any], str]) -> None:
    output = swept[2]
    assert re.search(r"sweep mine: 2 finished of 2 trials \| ETA \d+ s", output) and "written:" in output
    best = [line.split("│")[-2].strip() for line in output.splitlines() if line.startswith("│ best")]
    assert best[-1] == f"{swept[1]['groups'][0]['score']['mean']:.4g}"


def test_every_trial_ends_in_mlflow_as_it_ended(sim_world: Path, tmp_path: Path) -> None:
    """Two fail as they start. Two workers each train the others, which together spend the budget before both are
    trained: one is ended, or both, of which Tune tells nobody but of the one that has just reported."""
    output = tmp_path / "log"
    # 6 samples each, told after 4 and 6. The tests' small image backbone takes no weights.
    images = ("teacher.image_backbone=resnet18", "teacher.image_channels=[128,256,512]")
    words = ("scaling.workers=2", *images, "--budget", "7")
    job = start(tmp_path, sim_world, output, ENDS, words)
    assert job.wait(timeout=800) == 1, output.read_text()
    assert "trials failed" in output.read_text() and "missing.pth" in output.read_text()
    document = json.loads((tmp_path / "run" / "sweep.json").read_text())
    ends = {trial["name"]: trial["status"] for trial in document["trials"]}
    assert {"failed", "stopped"} <= set(ends.values()) <= {"failed", "stopped", "finished"}, ends
    entry = json.loads((tmp_path / "run" / "mlflow_run.json").read_text())["sweep mine"]
    client = connect(entry["uri"])
    runs = client.search_runs([client.get_run(entry["run_id"]).info.experiment_id])
    status = {one.info.run_name: one.info.status for one in runs}
    as_ended = {"failed": "FAILED", "stopped": "KILLED", "finished": "FINISHED"}
    assert {name: status[f"trial {name}"] for name in ends} == {name: as_ended[end] for name, end in ends.items()}
    assert set(status.values()) == {"FINISHED", "KILLED", "FAILED"} and status["sweep mine"] == "FINISHED"
