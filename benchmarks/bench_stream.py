"""Measures how many loading tasks Ray Data runs at once under a limit of object store memory (``flow.TASK_BATCHES``).

Tasks only wait, and the consumer takes batches as they come, so the rate gives the number of tasks at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data import ExecutionOptions, ExecutionResources
from rich.console import Console
from rich.table import Table

from pdetr3d.training.plan import Plan
from ray_jobs.plug.stream import RankBatches, quiet_ray_data, train_stream

MIB = 1024**2
LOAD_S, TASKS, STEPS, WARM_UP = 0.8, 10, 60, 20
CASES = [(32, 128), (32, 256), (32, 0), (8, 64), (16, 256)]  # MiB of a batch, MiB of the limit (0: Ray's own)


class Wait:
    """Replaces loading: returns a batch of so many bytes after LOAD_S."""

    def __init__(self, batch_bytes: int) -> None:
        self.batch_bytes = batch_bytes

    def __call__(self, records: Sequence[object], passes: Sequence[int], step: int) -> dict[str, NDArray]:
        time.sleep(LOAD_S)
        return {"bytes": np.full(self.batch_bytes, step, np.uint8)}


def tasks_at_once(batch_mib: int, limit_mib: int) -> float:
    """The mean number of running tasks after warming up."""
    plan = Plan(10, 1, STEPS, 0)
    dataset = train_stream([None] * 10, plan, Wait(batch_mib * MIB), 1, 0, data_cpus=1.0)  # type: ignore[list-item]
    limits = ExecutionResources(object_store_memory=limit_mib * MIB) if limit_mib else ExecutionResources()
    dataset.context.execution_options = ExecutionOptions(preserve_order=True, resource_limits=limits)
    batches = RankBatches(dataset.streaming_split(1, equal=True)[0], plan, 0, 1).from_step(0)
    arrived = [time.perf_counter() for _ in batches][WARM_UP:]
    return LOAD_S / float(np.mean([b - a for a, b in pairwise(arrived)]))


def test_print_tasks_at_once() -> None:
    """Print the table."""
    ray.init(
        address="local", num_cpus=TASKS, include_dashboard=False, log_to_driver=False, object_store_memory=3 * 1024**3
    )
    quiet_ray_data()
    table = Table(
        "MiB of a batch", "MiB of the limit", "tasks at once", "batches of the limit a task", title=f"{TASKS} CPUs"
    )
    try:
        for batch, limit in CASES:
            tasks = tasks_at_once(batch, limit)
            share = f"{limit / batch / tasks:.1f}" if limit else "-"
            table.add_row(str(batch), str(limit or "none"), f"{tasks:.1f}", share)
            assert tasks > 0
    finally:
        ray.shutdown()
    Console(width=100).print(table)
