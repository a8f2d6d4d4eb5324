"""Measures whether memory grows with the dataset: the stream of the quickstart's teacher with more and more keyframes.

As in ``bench_million``, the index is replicated: the train keyframes of a run with a trained teacher (PDETR3D_RUN,
default runs/quickstart) once, ten times, a hundred times, under other tokens. Each case runs as many steps in a process
of its own; its peak is the sum of PSS over the process and all that it started, Ray included. Prints a table, asserts
no size.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from rich.console import Console
from rich.table import Table

from benchmarks.bench_loaders import BATCH, RUN, ray_batches, run_data
from benchmarks.bench_million import write
from pdetr3d.data.index.index import FILE, Index
from pdetr3d.data.label_manifest import training_records
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.training.plan import BatchLoader, Plan
from ray_jobs.plug.memory import PeakMemory
from ray_jobs.start.launch import init_ray

SELF = "benchmarks.bench_memory"
COPIES, STEPS = (1, 10, 100), 1_000


def measure(folder: Path) -> tuple[int, int]:
    """Stream STEPS batches of a folder's index and manifest; returns peak PSS [bytes] and number of keyframes."""
    load = BatchLoader(run_data()[0], "teacher", cameras=True)
    with PeakMemory() as memory:
        records = training_records(Index.open(folder / FILE), LabelManifest.open(folder))
        init_ray(use_gpu=False)  # with the jobs' settings
        count = sum(1 for _ in ray_batches(records, Plan(len(records), BATCH, STEPS, 0), load))
        ray.shutdown()
    assert count == STEPS
    return memory.peak_bytes, len(records)


@pytest.mark.timeout(1800)
def test_print_memory_by_keyframes(tmp_path: Path) -> None:
    """Print the table."""
    run_data()  # skips without one
    table = Table("keyframes", "peak PSS [GiB]".replace("[", r"\["), "of the first", title=f"{STEPS} steps of {BATCH}")
    first = 0.0
    index = Index.open(RUN / "data" / "index.arrow")
    for copies in COPIES:
        (folder := tmp_path / str(copies)).mkdir()
        write(index, folder, copies * len(index.rows("sim_train")))
        command = [sys.executable, "-m", SELF, str(folder)]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ}).stdout
        peak, keyframes = map(int, lines.splitlines()[-1].split("\t")[1:])
        first = first or peak
        table.add_row(f"{keyframes:,}", f"{peak / 2**30:.2f}", f"{peak / first:.3f}")
    Console(width=100).print(table)
    assert first > 0


if __name__ == "__main__":
    print("PEAK", *measure(Path(sys.argv[1])), sep="\t")
