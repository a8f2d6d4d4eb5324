"""Ray Data source of batches: read tasks load them, so the driver never decodes a sample.

A row is one collated local batch: a column per array of ``Batch`` (raw bytes, zero-copy both ways) and a JSON header
with dtypes, shapes, step and rank. A read task makes one block, one rank's batches of ``steps_per_task`` steps: a task
costs about as much as reading a small batch does. Block i of an execution belongs to rank ``i % world_size``: with
``preserve_order`` Ray's equal split deals equal blocks out in turn, and ``RankBatches`` checks that it did.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from ray.data import DataContext, Datasource, ReadTask
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata

from pdetr3d.data.loading.load import one_thread
from pdetr3d.schema import SampleRecord
from pdetr3d.training.flow import PREFETCH
from pdetr3d.training.plan import LoadBatch, Plan

HEADER = "header"
# One execution holds its read tasks in the scheduler's memory: long trainings are cut into several.
MAX_TASKS = 4096
PAUSE_S = 0.03


def to_table(arrays: dict[str, NDArray], **header: int) -> pa.Table:
    """One-row Arrow table of raw buffers; ``from_table`` inverts it without copying."""
    shapes = {k: [v.dtype.str, list(v.shape)] for k, v in arrays.items()}
    columns = {k: _one_value(np.ascontiguousarray(v)) for k, v in arrays.items()}
    return pa.table({**columns, HEADER: [json.dumps({**header, "arrays": shapes})]})


def _one_value(array: NDArray) -> pa.Array:
    """A binary column of one value that shares the array's memory."""
    offsets = pa.py_buffer(np.array([0, array.nbytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array.reshape(-1).view(np.uint8))])


def from_table(table: pa.Table, row: int = 0) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Arrays (read-only views) and header of one row."""
    header = json.loads(table[HEADER][row].as_py())
    arrays = {}
    for name, (dtype, shape) in header["arrays"].items():
        buffer = table[name][row].as_buffer()
        arrays[name] = np.frombuffer(buffer, dtype).reshape(shape) if buffer.size else np.zeros(shape, dtype)
    return arrays, header


class Part(NamedTuple):
    """What makes one local batch: its records, their pass numbers, and where it belongs."""

    records: list[SampleRecord]
    passes: list[int]
    step: int
    rank: int


class BatchSource(Datasource):
    """Deals ``tasks``: a function of the execution's number that gives the parts of each read task.

    Args:
        tasks: called in the split coordinator once per execution (0, 1, 2, ...).
        load: reads, augments and collates one local batch.
    """

    def __init__(self, tasks: Callable[[int], Iterable[list[Part]]], load: LoadBatch) -> None:
        self.tasks, self.load = tasks, load

    def get_name(self) -> str:
        return "Samples"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        # The public interface has no epoch; this attribute is what Ray itself keys reshuffling by. -1: a schema probe.
        number = max(0, getattr(data_context, "_execution_idx", 0))
        return [ReadTask(_Read(self.load, parts), _metadata(len(parts))) for parts in self.tasks(number)]


def _metadata(rows: int) -> BlockMetadata:
    return BlockMetadata(num_rows=rows, size_bytes=None, input_files=None, exec_stats=None)


class _Read:
    """The body of one read task; holds the records of its batches only."""

    def __init__(self, load: LoadBatch, parts: list[Part]) -> None:
        self.load, self.parts = load, parts

    def __call__(self) -> Iterator[pa.Table]:
        one_thread()
        rows = (to_table(self.load(p.records, p.passes, p.step), step=p.step, rank=p.rank) for p in self.parts)
        yield pa.concat_tables(rows)  # copies nothing


def train_stream(
    records: Sequence[SampleRecord],
    plan: Plan,
    load: LoadBatch,
    world_size: int,
    first_step: int,
    data_cpus: float,
    steps_per_task: int = 1,
) -> ray.data.Dataset:
    """Dataset of the plan from ``first_step`` on, ``steps_per_execution`` steps per execution of it.

    Args:
        records: the stage's samples. plan: their order. load: reads a batch.
        data_cpus: logical CPUs of one read task. steps_per_task: steps that it loads for one rank.
    """
    span = steps_per_execution(world_size)

    def part(step: int, rank: int) -> Part:
        share = plan.at(step, rank, world_size)
        return Part([records[i] for i, _ in share], [n for _, n in share], step, rank)

    def tasks(number: int) -> Iterator[list[Part]]:
        begin = first_step + number * span
        steps = range(begin, min(begin + span, plan.steps))
        for chunk in (steps[i : i + steps_per_task] for i in range(0, len(steps), steps_per_task)):
            for rank in range(world_size):
                yield [part(step, rank) for step in chunk]

    blocks = -(-min(span, plan.steps - first_step) // steps_per_task) * world_size
    return ray.data.read_datasource(BatchSource(tasks, load), num_cpus=data_cpus, override_num_blocks=max(1, blocks))


class Breathe(ExecutionCallback):
    """Keeps Ray Data's scheduling loop from stepping more often than every PAUSE_S.

    While batches wait for a slow consumer and no read task is active, the loop of Ray 2.60 spins without a pause: half
    a core, measured, taken from training. Each step starts and collects any number of tasks: a pause is harmless. While
    tasks are active, each step waits for them 0.1 s by itself and is not held up here.
    """

    def __init__(self) -> None:
        self.last = 0.0

    def on_execution_step(self, executor: object) -> None:
        time.sleep(max(0.0, self.last + PAUSE_S - time.monotonic()))
        self.last = time.monotonic()


def quiet_ray_data() -> None:
    """Settings of every stream of ours, in whichever process builds it."""
    context = DataContext.get_current()
    context.enable_progress_bars = False  # the jobs print their own lines
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # so that a DataError keeps its message and exit code
    if Breathe not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(Breathe)


def steps_per_execution(world_size: int) -> int:
    """Optimizer steps of one Ray Data execution."""
    return max(1, MAX_TASKS // world_size)


def inference_stream(
    records: Sequence[SampleRecord],
    batch_size: int,
    load: LoadBatch,
    data_cpus: float,
    todo: Sequence[int] | None = None,
    steps_per_task: int = 1,
) -> ray.data.Dataset:
    """Dataset that delivers every record exactly once, in batches of up to ``batch_size``.

    Args:
        todo: numbers of the batches to deliver; None: all. Their records are in the read tasks, which the driver holds.
    """
    todo = range(-(-len(records) // batch_size)) if todo is None else todo
    chunks = [todo[i : i + steps_per_task] for i in range(0, len(todo), steps_per_task)]

    def part(step: int) -> Part:
        chunk = list(records[step * batch_size : (step + 1) * batch_size])
        return Part(chunk, [0] * len(chunk), step, 0)

    def tasks(number: int) -> Iterator[list[Part]]:
        return ([part(step) for step in chunk] for chunk in chunks)

    return ray.data.read_datasource(
        BatchSource(tasks, load), num_cpus=data_cpus, override_num_blocks=max(1, len(chunks))
    )


class RankBatches:
    """Iterates one rank's batches of a train stream over as many executions as the plan needs.

    Args:
        shard: ``ray.train.get_dataset_shard("train")``. plan, rank, world_size: as the stream's.
    """

    def __init__(self, shard: ray.data.DataIterator, plan: Plan, rank: int, world_size: int) -> None:
        self.shard, self.plan, self.rank, self.world_size = shard, plan, rank, world_size

    def from_step(self, start: int) -> Iterator[dict[str, NDArray]]:
        """Batches of steps start .. plan.steps - 1; earlier ones (the stream began at an older checkpoint) are dropped.

        Raises:
            RuntimeError: when a batch of another step or rank arrives (the split did not deal blocks in turn).
        """
        expected: int | None = None
        while start < self.plan.steps and (expected is None or expected < self.plan.steps):
            for arrays, header in self._rows():
                expected = min(header["step"], start) if expected is None else expected
                if (header["step"], header["rank"]) != (expected, self.rank):
                    raise RuntimeError(
                        f"rank {self.rank} expected step {expected}, got step {header['step']} of rank {header['rank']}"
                    )
                expected += 1
                if header["step"] >= start:
                    yield arrays

    def _rows(self) -> Iterator[tuple[dict[str, NDArray], dict[str, Any]]]:
        """One execution's batches, from whole blocks: to have Ray cut them into rows takes as long again, here."""
        blocks: Iterable[pa.Table] = self.shard.iter_batches(
            batch_size=None,  # type: ignore[arg-type]  # documented, typed as int
            batch_format="pyarrow",
            prefetch_batches=PREFETCH,
        )
        for block in blocks:
            for row in range(block.num_rows):
                yield from_table(block, row)
