"""Measures the costs that docs/results.md and docs/nuscenes.md show, on the real keyframe.

``python -m benchmarks.costs OUT.json`` writes the training steps of the full-size presets by part
(``bench_full_size``), the samples/s of the loaders (``bench_loaders``), and the plan of a training on 8 GPUs
(``pdetr3d plan``). It needs PDETR3D_REAL_DATA, a folder with nuScenes v1.0-mini. Run it on an idle machine: times of a
busy one are too long.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.bench_full_size import STUDENTS, TEACHERS, measured
from benchmarks.bench_loaders import compare_keyframe
from pdetr3d.tracking.provenance import git_state

PRESET, CLUSTER = "nuscenes-voxel", ("--workers", "8", "--samples", "28130")  # of the plan
SIZE_PX = (704, 396)  # of the loaders' images


def steps() -> list[dict[str, Any]]:
    """A training step of every model."""
    return [measured(*case) for case in STUDENTS + TEACHERS]


def loaders() -> dict[str, dict[str, float]]:
    """The samples/s of all ways to load."""
    with tempfile.TemporaryDirectory() as folder:
        return {kind: alone(compare_keyframe, kind, *SIZE_PX, Path(folder) / kind) for kind in ("teacher", "student")}


def alone(function: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """Call ``function`` in a process of its own: a process that has stopped its Ray may be ended by Ray's threads."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def plan() -> dict[str, Any]:
    """The plan for 8 GPUs from the costs of a sample, as ``pdetr3d plan`` computes it."""
    data = {"dataroot": os.environ["PDETR3D_REAL_DATA"], "version": "v1.0-mini", "train_split": "mini_train"}
    verb = [sys.executable, "-m", "ray_jobs.commands", "plan", "--preset", PRESET]
    with tempfile.TemporaryDirectory() as folder:
        costs, file = f"{folder}/costs.json", f"{folder}/plan.json"
        subprocess.run([*verb, "--measure", costs, *(f"data.{key}={value}" for key, value in data.items())], check=True)
        subprocess.run([*verb, "--measured", costs, *CLUSTER, "--json", file], check=True)
        document = json.loads(Path(file).read_text())
    return {"measured": document["measured"], "stages": document["plans"][0]["stages"]}


def run(out: Path) -> None:
    """Measure the parts that the JSON file ``out`` lacks, or all if it is of another commit, and write each to it."""
    code = git_state()["git.commit"]
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    if found.get("commit") != code:
        found = {"commit": code, "seconds": {}}
    out.parent.mkdir(parents=True, exist_ok=True)
    for part in (steps, loaders, plan):
        if part.__name__ not in found:
            began = time.monotonic()
            found[part.__name__] = part()
            found["seconds"][part.__name__] = time.monotonic() - began
            out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
