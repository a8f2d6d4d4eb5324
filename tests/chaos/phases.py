"""Sends SIGTERM in every phase of a pipeline, measures the time to its end, and continues it with the same command."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pdetr3d.pipeline.training import CROPS
from tests.chaos.faults import Chaos
from tests.chaos.job import NO_STREAM, Job, command_of, equal, weights

LIMIT_S = 5.0
OVERRIDES = [
    "sim.scenes=12",
    "sim.select_scenes=2",
    "sim.val_scenes=12",
    "sim.image_size_px=[160,90]",
    "sim.lidar_azimuth_steps=360",
    "optim.batch_size=2",
    "optim.epochs=8",  # of 12 samples
    "optim.log_every=1",
    "optim.save_every=5",
    "teacher.optim.batch_size=2",
    "teacher.optim.epochs=20",  # of 4 samples
    "teacher.optim.log_every=1",
    "teacher.optim.save_every=5",
    "teacher.crop_optim.epochs=10",
    "teacher.crop_optim.log_every=1",
    "scaling.cpus_per_worker=0.5",
    "scaling.threads_per_worker=1",
    "run.arms=[ours]",
    *NO_STREAM,
]


@dataclass(frozen=True)
class Phase:
    """A phase of a job; ``begun`` and ``over`` judge by its files and output."""

    name: str
    begun: Callable[[Job], bool]
    over: Callable[[Job], bool]


@dataclass(frozen=True)
class Ended:
    """``exit_s``: time from SIGTERM to the driver's end. ``all_s``: to the end of all processes. ``late``: the phase
    was over before the driver ended, so the time was not measured in it."""

    phase: str
    exit_s: float
    all_s: float
    code: int
    late: bool


def _there(*names: str) -> Callable[[Job], bool]:
    return lambda job: any(any(job.run_dir.glob(name)) for name in names)


def _stepped(stage: str) -> Callable[[Job], bool]:
    return lambda job: len(job.steps(stage)) >= 2


def _ray(job: Job) -> bool:
    return any("gcs_server" in command_of(process) for process in job.family.values())


PHASES = [
    Phase("imports", lambda job: time.monotonic() > job.began + 1, _there("run.json")),
    Phase("simulating", _there("data/.world.partial-*/samples/LIDAR_TOP/*"), _there("data/world")),
    Phase("indexing", _there("data/world"), _there("data/index.arrow")),
    Phase("labeling", _there("data/index.arrow"), _there("data/manifest/manifest.json")),
    Phase("Ray starts", _ray, _there("ray/*")),
    Phase("workers start", _there(f"ray/{CROPS}"), _there(f"{CROPS}/done.json")),
    Phase("training of the crop branch", _stepped(CROPS), _there(f"{CROPS}/done.json")),
    Phase("training of the teacher", _stepped("teacher"), _there("teacher/done.json")),
    Phase("predicting at clicks", _there("pseudo_labels/batches"), _there("pseudo_labels/done.json")),
    Phase("training of the student", _stepped("student_ours"), _there("student_ours/done.json")),
    Phase("predicting the val split", _there("student_ours/done.json"), _there("evaluate_ours/*")),
    Phase("scoring", _there("evaluate_ours/*"), _there("evaluate_ours/done.json")),
]


def terminate(chaos: Chaos, place: Path, phase: Phase) -> Ended:
    """Start or continue the pipeline, and end it in the phase."""
    job = pipeline(chaos, place)
    job.wait_for(lambda: phase.begun(job))
    code = job.signal(signal.SIGTERM)
    late = phase.over(job)
    began = time.monotonic()
    job.clear()
    return Ended(phase.name, job.ended_s, job.ended_s + time.monotonic() - began, code, late)


def pipeline(chaos: Chaos, place: Path) -> Job:
    """The whole pipeline, which simulates its world."""
    return chaos.job(place, dataroot="", overrides=OVERRIDES, words=(sys.executable, "-m", "ray_jobs.pipeline"))


def finished(chaos: Chaos, place: Path) -> Path:
    """Let the pipeline in ``place`` finish; returns its run directory."""
    job = pipeline(chaos, place)
    if job.finish() != 0:
        raise RuntimeError(f"exit code {job.process.returncode}:\n{job.text()[-3000:]}")
    job.clear()
    return job.run_dir


def alike(one: Path, two: Path) -> bool:
    """Whether two runs have equal weights and pseudo labels, bit by bit."""
    labels = [
        pq.read_table(run / "pseudo_labels" / "pseudo_labels.parquet").drop(["teacher_digest"]) for run in (one, two)
    ]
    stages = (CROPS, "teacher", "student_ours")
    return labels[0].equals(labels[1]) and all(equal(weights(one, stage), weights(two, stage)) for stage in stages)
