"""Tests of the torch loader: each rank's batches equal the plan's, bit by bit, for any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pdetr3d.schema import DataError, SampleRecord
from pdetr3d.training.plan import BatchLoader, Plan
from pdetr3d.training.torch_loader import PlannedBatches, torch_batches
from tests.training_cases import open_world


def load(records: Sequence[SampleRecord], passes: Sequence[int], step: int) -> dict[str, NDArray]:
    """Stand-in for BatchLoader that returns its arguments. The "records" are strings."""
    if "broken" in records:
        raise DataError("sweep.pcd.bin: truncated")
    return {
        "token": np.array(records, dtype=np.bytes_),
        "passes": np.array(passes, np.int64),
        "step": np.array([step]),
        "nothing": np.zeros((len(records), 0, 3), np.float32),
    }


@pytest.mark.parametrize("processes", [0, 1, 3])
@pytest.mark.parametrize(("ranks", "first"), [(1, 0), (2, 3), (3, 7)])
def test_ranks_get_the_plan_in_order(ranks: int, first: int, processes: int) -> None:
    plan, records = Plan(samples=5, batch_size=6, steps=7, seed=3), [f"sample{i}" for i in range(5)]
    for rank in range(ranks):
        batches = torch_batches(PlannedBatches(records, plan, load, rank, ranks, first), processes)  # type: ignore[arg-type]
        got = [
            (b["step"].tolist(), [(int(t[6:]), n) for t, n in zip(b["token"], b["passes"].tolist(), strict=True)])
            for b in batches
        ]
        assert got == [([step], plan.at(step, rank, ranks)) for step in range(first, plan.steps)]


@pytest.mark.parametrize("processes", [0, 2])
def test_a_data_error_keeps_its_message(processes: int) -> None:
    batches = PlannedBatches(["broken"], Plan(1, 1, 2, 0), load, 0, 1, 0)  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"^sweep.pcd.bin: truncated$"):
        list(torch_batches(batches, processes))


@pytest.mark.timeout(60)
def test_opencvs_threads_in_this_process_stop_no_loading_process() -> None:
    """OpenCV has threads in a process that has indexed images, say. A fork that sets their number waits for them."""
    cv2.setNumThreads(8)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 3)  # starts the threads
    batches = PlannedBatches(["a"], Plan(1, 1, 2, 0), load, 0, 1, 0)  # type: ignore[list-item]
    assert len(list(torch_batches(batches, 1))) == 2


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_real_batches_arrive_bit_by_bit(stage: str, sim_world: Path, tmp_path: Path) -> None:
    world = open_world(sim_world, tmp_path / "run")
    loader = BatchLoader(world.run.config, stage, cameras=stage == "teacher", weak_view=stage == "student")
    plan = Plan(len(world.records), 2, 4, 0)
    got = list(torch_batches(PlannedBatches(world.records, plan, loader, 0, 1, 1), 2))
    assert len(got) == 3
    for step, arrays in enumerate(got, start=1):
        share = plan.at(step, 0, 1)
        expected = loader([world.records[i] for i, _ in share], [n for _, n in share], step)
        assert arrays.keys() == expected.keys()
        for name, array in expected.items():
            assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape, name
            np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def test_nothing_is_left_to_do() -> None:
    done = PlannedBatches([], Plan(3, 2, 4, 0), load, 0, 1, 9)
    assert list(torch_batches(done, 0)) == []
