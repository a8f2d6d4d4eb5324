"""Measures how long commands, imports and the stages of a run need before they work, each beside its goal."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.goals import Goal, hold
from tests.training_cases import world_arguments

ROUNDS = 5
HELP_S, IMPORTS, FIRST_BATCH_S = 0.5, 1.05, 3.0  # goals: all are upper limits
OURS, RAYS = "import ray_jobs.plug.fit", "import ray.data, ray.train.torch"


def seconds(words: Sequence[str]) -> float:
    """The wall time [s] of ``python WORDS``."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def test_print_start_of_commands() -> None:
    """``pdetr3d --help``, and a worker's imports by those of Ray and torch alone; the rounds alternate."""
    rounds = [
        (seconds(["-m", "ray_jobs.commands", "--help"]), seconds(["-c", OURS]), seconds(["-c", RAYS]))
        for _ in range(ROUNDS)
    ]
    told, ours, rays = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"{OURS}: {ours:.2f} s; {RAYS}: {rays:.2f} s")
    hold(
        Goal("pdetr3d --help [s]", told, HELP_S, least=False),
        Goal("a worker's imports by those of Ray and torch", ours / rays, IMPORTS, least=False),
    )


@pytest.mark.timeout(600)
def test_print_first_batches(sim_world: Path, tmp_path: Path) -> None:
    """From a stage's begin to its first batch, when Ray runs: the stages of a teacher of some steps."""
    words = ["-m", "ray_jobs.train_teacher", "--preset", "quickstart", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, *words, *world_arguments(sim_world)], check=True, stdout=subprocess.PIPE, text=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("from a stage's begin to its first batch"))
    waited = {stage: float(number) for stage, number in re.findall(r"(\w+) ([\d.]+) s", line)}
    print(f"{waited=}")
    hold(Goal("first batch of the teacher [s]", waited["teacher"], FIRST_BATCH_S, least=False))
