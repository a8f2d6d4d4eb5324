"""Tests of the Ray Data source: every record arrives once, and every rank gets the plan in order."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray.data
from numpy.typing import NDArray
from ray.data import DataContext

from pdetr3d.data.loading.pack import pack
from pdetr3d.schema import Boxes3D, PointLabels, SampleRecord
from pdetr3d.training.plan import BatchLoader, Plan
from ray_jobs.plug import stream
from ray_jobs.plug.stream import RankBatches, from_table, inference_stream, to_table, train_stream
from tests.training_cases import open_world, world_config

pytestmark = pytest.mark.ray


def make_records(count: int) -> list[SampleRecord]:
    labels, boxes = PointLabels.empty(), Boxes3D.empty()
    return [
        SampleRecord(f"sample{i}", "scene", i, "box", "", (), (None,) * 6, np.eye(4), np.eye(4), boxes, labels)
        for i in range(count)
    ]


def load(records: Sequence[SampleRecord], passes: Sequence[int], step: int) -> dict[str, NDArray]:
    """Replaces BatchLoader: returns the requested records, passes and step."""
    return {
        "token": np.array([r.sample_token for r in records], dtype=np.bytes_),
        "number": np.array([r.timestamp_us for r in records], np.int64),
        "passes": np.array(passes, np.int64),
        "step": np.array([step]),
        "nothing": np.zeros((len(records), 0, 3), np.float32),
    }


ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "float64": np.array([np.nan, np.inf, -0.0]),
    "int64": np.array([[2**62], [-1]]),
    "uint8": np.arange(256, dtype=np.uint8).reshape(4, 4, 4, 4),
    "bool": np.array([True, False, True]),
    "bytes": np.array([b"a", b"longer token"]),
    "no_boxes": np.zeros((2, 0, 7), np.float32),
    "no_images": np.zeros((3, 0, 0, 0, 3), np.uint8),
    "no_tokens": np.zeros(0, "S5"),
    "transposed": np.arange(6).reshape(2, 3).T,
}


def test_tables_hold_arrays_bit_by_bit() -> None:
    table = to_table(ARRAYS, step=5, rank=1)
    assert table.num_rows == 1
    arrays, header = from_table(table)
    assert (header["step"], header["rank"]) == (5, 1)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape, name
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def test_the_object_store_keeps_them(ray_local: None) -> None:
    table = ray.get(ray.put(to_table(ARRAYS, step=0, rank=0)))
    for name, array in from_table(table)[0].items():
        np.testing.assert_array_equal(array, ARRAYS[name], err_msg=name)


@pytest.mark.parametrize(("records", "batch", "steps_per_task"), [(0, 4, 1), (1, 4, 3), (7, 3, 2), (8, 4, 1)])
def test_inference_delivers_every_record_once(records: int, batch: int, steps_per_task: int, ray_local: None) -> None:
    dataset = inference_stream(make_records(records), batch, load, 0.5, None, steps_per_task)
    tables = list(dataset.iter_batches(batch_size=1, batch_format="pyarrow"))
    numbers = [n for table in tables for n in from_table(table)[0]["number"].tolist()]
    assert Counter(numbers) == Counter(range(records))
    assert all(len(from_table(table)[0]["number"]) <= batch for table in tables)
    assert len(tables) == -(-records // batch)


def deliver(
    plan: Plan, ranks: int, first: int, starts: int, steps_per_task: int = 1
) -> dict[int, list[list[tuple[int, int]]]]:
    """rank -> batches of (sample, pass) pairs by ``streaming_split``, as in Ray Train, with one thread per rank."""
    context = DataContext.get_current()
    before, context.execution_options.preserve_order = context.execution_options.preserve_order, True
    try:
        dataset = train_stream(make_records(plan.samples), plan, load, ranks, first, 0.5, steps_per_task)
        shards = dataset.streaming_split(ranks, equal=True)
    finally:
        context.execution_options.preserve_order = before
    got: dict[int, list[list[tuple[int, int]]]] = {}
    errors: list[BaseException] = []

    def consume(rank: int) -> None:
        try:
            batches: Iterator[dict[str, NDArray]] = RankBatches(shards[rank], plan, rank, ranks).from_step(starts)
            got[rank] = []
            for step, b in enumerate(batches, starts):
                assert b["step"].tolist() == [step]
                got[rank].append(list(zip(b["number"].tolist(), b["passes"].tolist(), strict=True)))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=consume, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    if errors:
        raise errors[0]
    return got


def planned(plan: Plan, ranks: int, start: int) -> dict[int, list[list[tuple[int, int]]]]:
    return {rank: [plan.at(step, rank, ranks) for step in range(start, plan.steps)] for rank in range(ranks)}


@pytest.mark.parametrize(
    ("ranks", "batch", "steps_per_task"),  # 6 steps: one task of 4, one of 2
    [(1, 4, 4), (2, 4, 1), (3, 6, 4)],
)
def test_ranks_get_the_plan_in_order(ranks: int, batch: int, steps_per_task: int, ray_local: None) -> None:
    plan = Plan(samples=7, batch_size=batch, steps=6, seed=0)
    got = deliver(plan, ranks, 0, 0, steps_per_task)
    assert got == planned(plan, ranks, 0)
    for step in range(plan.steps):  # the global batch does not depend on the number of ranks
        assert [pair for rank in range(ranks) for pair in got[rank][step]] == plan.at(step, 0, 1)
    # The batch does not divide 7, so passes end within batches. Each pass still has every sample exactly once.
    times = Counter(pair for batches in got.values() for pairs in batches for pair in pairs)
    whole = 6 * batch // 7
    assert all(times[sample, number] == 1 for sample in range(7) for number in range(whole))
    assert set(times.values()) == {1} and times.total() == 6 * batch and max(n for _, n in times) == whole


def test_a_pack_streams_the_batches_of_the_files(sim_world: Path, tmp_path: Path, ray_local: None) -> None:
    world = open_world(sim_world, tmp_path / "run")
    index = tmp_path / "run" / "data" / "index.arrow"
    packed = f"data.packed={pack(index, ['sim_train'], str(tmp_path / 'pack'), num_sweeps=2, processes=1).uri}"
    plan = Plan(len(world.records), batch_size=2, steps=4, seed=0)

    def batches(records: Sequence[SampleRecord], *overrides: str) -> list[dict[str, NDArray]]:
        loader = BatchLoader(world_config(sim_world, *overrides), "teacher", cameras=True)
        tables = train_stream(records, plan, loader, 1, 0, 0.5, 2).iter_batches(batch_size=1, batch_format="pyarrow")
        return [arrays for arrays, header in sorted(map(from_table, tables), key=lambda found: found[1]["step"])]

    files = batches(world.records)
    shards = batches([replace(record, lidar_path="none", sweeps=()) for record in world.records], packed)
    assert len(files) == len(shards) == 4
    for one, other in zip(files, shards, strict=True):
        assert one.keys() == other.keys() and one["images"].any() and len(one["points"]) > 200
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize(("ranks", "first", "start", "steps_per_task"), [(2, 3, 3, 1), (1, 2, 4, 3), (1, 6, 6, 2)])
def test_a_resume_begins_at_its_step(ranks: int, first: int, start: int, steps_per_task: int, ray_local: None) -> None:
    """This holds if the stream began at an older checkpoint than the trainer, and if no step is left."""
    plan = Plan(samples=5, batch_size=4, steps=6, seed=0)
    assert deliver(plan, ranks, first, start, steps_per_task) == planned(plan, ranks, start)


@pytest.mark.parametrize(("ranks", "first", "steps_per_task"), [(1, 0, 3), (2, 1, 1)])
def test_several_executions_continue_the_plan(
    ranks: int, first: int, steps_per_task: int, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_TASKS", 4)  # 4 steps per execution with one rank, 2 with two
    plan = Plan(samples=5, batch_size=2, steps=7, seed=1)
    assert deliver(plan, ranks, first, first, steps_per_task) == planned(plan, ranks, first)


class OneBlock:
    """A shard with one block: step 3 of rank 1."""

    def iter_batches(self, **options: object) -> Iterator[object]:
        yield to_table({}, step=3, rank=1)


@pytest.mark.parametrize(("rank", "start"), [(1, 1), (0, 3)])
def test_a_block_of_another_step_or_rank_is_refused(rank: int, start: int) -> None:
    """A stream that is ahead of the checkpoint would silently lose steps; another split would mix ranks."""
    batches = RankBatches(OneBlock(), Plan(5, 4, 6, 0), rank, 2)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=f"rank {rank} expected step {start}, got step 3 of rank 1"):
        list(batches.from_step(start))
