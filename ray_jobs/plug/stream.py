"""The Ray Data source of batches, which read tasks load, so that the driver never decodes a sample.

A row is one collated local batch: a column per array of ``Batch`` (raw bytes without copying) and a JSON header with
dtypes, shapes, step and rank. A read task makes one block with one rank's batches of ``steps_per_task`` steps, because
the overhead of a task is as large as reading a small batch. Block i of an execution belongs to rank ``i % world_size``:
with ``preserve_order`` Ray's equal split distributes equal blocks in turn, which ``RankBatches`` checks.
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
MAX_TASKS = 4096  # read tasks per execution, which the scheduler holds in memory; longer trainings have several
PAUSE_S = 0.03  # least time between two steps of Ray Data's scheduling loop (``Breathe``)


def to_table(arrays: dict[str, NDArray], **header: int) -> pa.Table:
    """Convert arrays to an Arrow table with one row of raw buffers; ``from_table`` converts back without copying."""
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
    """The description of a local batch: its records, their pass numbers, its step and rank."""

    records: list[SampleRecord]
    passes: list[int]
    step: int
    rank: int


class BatchSource(Datasource):
    """A Ray Data source whose read tasks load local batches.

    Args:
        tasks: number of the execution (0, 1, 2, ...) -> the parts of each read task. The split coordinator calls it
            once per execution.
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
        # The public interface has no epoch. Ray uses this attribute for reshuffling; -1 means a probe of the schema.
        number = max(0, getattr(data_context, "_execution_idx", 0))
        return [ReadTask(_Read(self.load, parts), _metadata(len(parts))) for parts in self.tasks(number)]


def _metadata(rows: int) -> BlockMetadata:
    return BlockMetadata(num_rows=rows, size_bytes=None, input_files=None, exec_stats=None)


class _Read:
    """The body of a read task; it holds only the records of its batches."""

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
    """The dataset of a plan from ``first_step`` on; each execution of it has ``steps_per_execution`` steps.

    Args:
        records: the stage's samples. plan: their order. load: reads a batch. world_size: number of workers.
        data_cpus: logical CPUs of a read task. steps_per_task: number of steps that a task loads for one rank.
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
    """Limits the steps of Ray Data's scheduling loop to one per PAUSE_S.

    While batches wait for a slow consumer and no read task is active, the loop of Ray 2.60 runs without a pause and
    takes half a core (measured). A pause is harmless, because a step starts and collects any number of tasks. While
    tasks are active, a step waits for them for 0.1 s and needs no pause.
    """

    def __init__(self) -> None:
        self.last = 0.0

    def on_execution_step(self, executor: object) -> None:
        time.sleep(max(0.0, self.last + PAUSE_S - time.monotonic()))
        self.last = time.monotonic()


def quiet_ray_data() -> None:
    """Set Ray Data's options for our streams; call it in every process that builds one."""
    context = DataContext.get_current()
    context.enable_progress_bars = False  # jobs print their own lines
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # so that a DataError keeps its message and exit code
    if Breathe not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(Breathe)


def steps_per_execution(world_size: int) -> int:
    """The number of optimizer steps per Ray Data execution."""
    return max(1, MAX_TASKS // world_size)


def inference_stream(
    records: Sequence[SampleRecord],
    batch_size: int,
    load: LoadBatch,
    data_cpus: float,
    todo: Sequence[int] | None = None,
    steps_per_task: int = 1,
) -> ray.data.Dataset:
    """A dataset that delivers every record exactly once, in batches of up to ``batch_size``.

    Args:
        records: the samples. batch_size: samples per batch. load: reads a batch. data_cpus: logical CPUs of a read
            task. todo: numbers of the batches to deliver; None: all. The driver holds their records in read tasks.
            steps_per_task: batches per read task.
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
    """Iterates over one rank's batches of a train stream, with as many executions as the plan needs.

    Args:
        shard: ``ray.train.get_dataset_shard("train")``. plan, rank, world_size: of the stream.
    """

    def __init__(self, shard: ray.data.DataIterator, plan: Plan, rank: int, world_size: int) -> None:
        self.shard, self.plan, self.rank, self.world_size = shard, plan, rank, world_size

    def from_step(self, start: int) -> Iterator[dict[str, NDArray]]:
        """The batches of steps start .. plan.steps - 1.

        Batches of earlier steps are dropped; they come if the stream began at an older checkpoint.

        Raises:
            RuntimeError: when a batch of another step or rank arrives, because the split did not distribute blocks in
                turn.
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
        """The batches of one execution. Reading whole blocks takes half the time of letting Ray cut them into rows."""
        blocks: Iterable[pa.Table] = self.shard.iter_batches(
            batch_size=None,  # type: ignore[arg-type]  # documented, typed as int
            batch_format="pyarrow",
            prefetch_batches=PREFETCH,
        )
        for block in blocks:
            for row in range(block.num_rows):
                yield from_table(block, row)
