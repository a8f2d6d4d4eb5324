"""Whether memory grows with the dataset: the stream of the quickstart's teacher over more and more keyframes.

Index replication: the train keyframes of a run with a trained teacher (PDETR3D_RUN, default runs/quickstart), again
under other tokens. Each case runs as many steps in a process of its own; its peak is the sum of PSS over the process
and all that it started, Ray included. Prints a table, asserts no size.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import ray
from rich.console import Console
from rich.table import Table

from pdetr3d.config import Config
from pdetr3d.data.index import Index
from pdetr3d.data.label_manifest import training_records
from pdetr3d.data.manifest import LabelManifest
from pdetr3d.training import checkpoint
from pdetr3d.training.plan import BatchLoader, Plan
from ray_jobs.memory import PeakMemory
from tests.benchmarks.bench_loaders import BATCH, RUN, ray_batches

SELF = "tests.benchmarks.bench_memory"
KEYFRAMES, STEPS = (200, 2_000, 20_000), 1_000


def measure(keyframes: int) -> int:
    """Peak PSS [bytes] of streaming STEPS batches of so many keyframes."""
    config = Config.from_json(checkpoint.load(sorted((RUN / "teacher").glob("step_*.pt"))[-1])["config"])
    found = training_records(Index.open(RUN / "data" / "index.arrow"), LabelManifest.open(RUN / "data" / "manifest"))
    found = [found[i % len(found)] for i in range(keyframes)]
    records = [replace(record, sample_token=f"{record.sample_token}{i}") for i, record in enumerate(found)]
    load = BatchLoader(config, "teacher", cameras=True)
    with PeakMemory() as memory:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=1024**3)
        count = sum(1 for _ in ray_batches(records, Plan(len(records), BATCH, STEPS, 0), load))
        ray.shutdown()
    assert count == STEPS
    return memory.peak_bytes


@pytest.mark.timeout(1800)
def test_print_memory_by_keyframes() -> None:
    """One table."""
    if not list((RUN / "teacher").glob("step_*.pt")):
        pytest.skip(f"{RUN} holds no trained teacher: run `make quickstart`, or set PDETR3D_RUN")
    table = Table("keyframes", "peak PSS [GiB]".replace("[", r"\["), "of the first", title=f"{STEPS} steps of {BATCH}")
    first = 0.0
    for keyframes in KEYFRAMES:
        command = [sys.executable, "-m", SELF, str(keyframes)]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ}).stdout
        peak = float(lines.splitlines()[-1].removeprefix("PEAK "))
        first = first or peak
        table.add_row(f"{keyframes:,}", f"{peak / 2**30:.2f}", f"{peak / first:.3f}")
    Console(width=100).print(table)
    assert first > 0


if __name__ == "__main__":
    print(f"PEAK {measure(int(sys.argv[1]))}")
