"""Tests of the capacity plan's arithmetic: values by hand, and quantities that must grow or fall with others."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pdetr3d import presets
from pdetr3d.config import Config
from pdetr3d.finished.capacity import model
from pdetr3d.finished.capacity.costs import Cluster, Measurement, StageCost
from pdetr3d.schema import DataError
from pdetr3d.training import flow

COST = StageCost(
    cpu_s={"points": 0.01, "images": 0.03},
    disk_bytes=2e6,
    batch_bytes=4e6,
    record_bytes=1e4,
    flops=1e12,
    parameters=40_000_000,
    gradient_bytes=1.6e8,
    checkpoint_bytes=4e8,
    checkpoint_s=0.5,
)
CLUSTER = Cluster(
    gpus=16,
    gpus_per_node=8,
    cores_per_node=64,
    object_store_gb=100,
    head_object_store_gb=8,
    network_gbit_s=100,
    storage_gb_s=2,
    tflops=100,
    mfu=0.5,
)
# 8 workers of 4 cores; 2 samples of a batch each.
KEYS = ["optim.batch_size=16", "optim.epochs=10", "optim.checkpoints=2", "label.ratio=0.25", "teacher.optim.epochs=4"]
KEYS += ["optim.save_every=0", "teacher.optim.save_every=0"]  # checkpoints are written to be kept alone
SAVES = ["optim.save_every=500", "teacher.optim.save_every=500"]


def config(*overrides: str) -> Config:
    return presets.load("nuscenes-voxel", [*KEYS, *overrides])


def student(samples: int = 32_000, cost: StageCost = COST, **cluster: float) -> model.Estimate:
    return model.estimate("student", cost, config(), CLUSTER.model_copy(update=cluster), samples)


def with_cost(**changes: object) -> StageCost:
    return COST.model_copy(update=changes)


def test_work_by_hand() -> None:
    """16 GPUs: batches of 32 (student), 16 (teacher: 8 over 8 workers) and 64 (inference) samples.

    A checkpoint is written every 500 steps, including the kept ones (student: half-way and last; teacher: last).
    """
    assert model.work_of("student", config(*SAVES), 32_000, 16) == model.Work(32_000, 320_000, 2, 10_000, 2, 20)
    assert model.work_of("teacher", config(*SAVES), 32_000, 16) == model.Work(8_000, 32_000, 1, 2_000, 1, 4)
    assert model.work_of("pseudo_labels", config(), 32_000, 16) == model.Work(24_000, 24_000, 4, 375, 0, 0)
    assert model.work_of("pseudo_labels", config("label.pseudo_for=all"), 32_000, 16).records == 32_000
    assert model.work_of("student", config(), 32_000, 16).saves == 2
    short = model.work_of("student", config(*SAVES), 1, 512)
    assert (short.steps, short.checkpoints, short.saves) == (1, 1, 1)  # never none, and no more checkpoints than steps


def test_pace_of_a_gpu() -> None:
    assert model.gpu_pace(COST, CLUSTER) == 50  # 100e12 * 0.5 / 1e12


def test_ring_all_reduce_by_hand() -> None:
    """4 members: quarters of the payload are sent 3 times to sum them and 3 times to distribute the sums."""
    assert model.allreduce_bytes(4, 100.0) == 6 * 25
    assert model.allreduce_bytes(1, 100.0) == 0


def test_network_by_hand() -> None:
    """Two nodes: half of 2 MB of files, a quarter of 4 MB of batches, and 300 MB of gradients for 32 samples."""
    work = model.work_of("student", config(), 32_000, 16)
    assert model.network_bytes(COST, work, CLUSTER) == pytest.approx(1e6 + 1e6 + 300e6 / 32)
    alone = CLUSTER.model_copy(update={"gpus": 8})
    assert model.network_bytes(COST, work, alone) == 2e6  # gradients and batches stay in the node


def test_every_resource_by_hand() -> None:
    """320,000 samples at 800 samples/s take 400 s. Each of two checkpoints takes 0.5 s, and 0.4 GB at 2 GB/s."""
    resources = student().resources
    batch, stream = 8e6, 64 * 8e6
    expected = {
        model.GPU: (800, 800),
        model.CPU: (32, 2 * 64 - 16 * 4),
        model.STORAGE: (1.6, 2),
        model.NETWORK: (800 * 11.375e6 * 8 / 1e9, 100),
        model.STREAM: (32, 16 * stream / (flow.TASK_BATCHES * batch)),
        # 128 tasks work at once, of 16 * 64 / (3 * 128) = 2.7 steps: blocks of two batches.
        model.STORE: ((8 * 3 * 2 * batch + 8 * stream) / 1e9, 100),
        model.HEAD: (0.32, 8),
        model.CHECKPOINTS: (1.4 / 3600, 400 / 3600),
    }
    assert {name: (r.needs, r.has) for name, r in resources.items()} == {
        name: pytest.approx(pair) for name, pair in expected.items()
    }


def test_where_gpus_are_the_scarcest() -> None:
    made = student()
    assert made.bottlenecks[:2] == [model.GPU, model.STORAGE]  # 1, 0.8
    assert made.samples_per_s == 800 and made.hours == pytest.approx((400 + 1.4) / 3600)
    assert made.cores_per_gpu == pytest.approx(2) and made.allreduce_bytes == pytest.approx(3e8)
    assert made.checkpoint_gb == pytest.approx(0.8) and (made.spill_gb, made.head_spill_gb) == (0, 0)


SCARCE = [
    (model.CPU, {"cpu_s": {"points": 0.4}}, {"storage_gb_s": 1000}, 5.0),  # 320 of 64 cores
    (model.STORAGE, {}, {"storage_gb_s": 0.4}, 4.0),
    (model.NETWORK, {}, {"network_gbit_s": 36.4}, 2.0),
    (
        model.STREAM,
        {"batch_bytes": flow.MAX_STREAM_BYTES / 6},
        {"network_gbit_s": 1000},
        2.0,
    ),  # one a GPU
]


@pytest.mark.parametrize(("name", "cost", "cluster", "slower"), SCARCE, ids=[case[0] for case in SCARCE])
def test_the_scarcest_sets_the_pace(name: str, cost: dict, cluster: dict, slower: float) -> None:
    made = student(cost=with_cost(**cost), **cluster)
    assert made.bottlenecks[0] == name
    assert made.samples_per_s == pytest.approx(800 / slower)
    write_s = 2 * (0.5 + 0.4 / cluster.get("storage_gb_s", 2))
    assert made.hours == pytest.approx((400 * slower + write_s) / 3600)


def test_what_does_not_fit_is_named_and_spills_but_slows_nothing() -> None:
    made = student(object_store_gb=1, head_object_store_gb=0.02)
    assert made.bottlenecks[:2] == [model.HEAD, model.STORE]
    assert made.head_spill_gb == pytest.approx(0.3)
    assert made.spill_gb == pytest.approx(0.384 + 8 * 64 * 8e6 / 1e9 - 1)
    assert made.samples_per_s == 800


def test_checkpoints_can_be_the_bottleneck() -> None:
    made = student(32, with_cost(checkpoint_s=10))  # 320 samples: 0.4 s
    assert made.bottlenecks[0] == model.CHECKPOINTS and made.hours == pytest.approx((0.4 + 20.4) / 3600)


def test_pseudo_labels_write_nothing_and_have_no_limit_of_their_own() -> None:
    made = model.estimate("pseudo_labels", with_cost(batch_bytes=1e9), config(), CLUSTER, 32_000)
    assert {model.STREAM, model.CHECKPOINTS}.isdisjoint(made.resources) and made.checkpoint_gb == 0


def test_a_measured_pace_takes_the_place_of_the_assumed_one() -> None:
    made = model.estimate("student", COST, config(), CLUSTER, 32_000, gpu_samples_per_s=5.0)
    assert made.gpu_samples_per_s == 5 and made.samples_per_s == 80 and made.cores_per_gpu == pytest.approx(0.2)


def test_a_node_that_is_not_full_has_all_its_cores() -> None:
    assert model.loading_cores(config(), CLUSTER.model_copy(update={"gpus": 9})) == 2 * 64 - 9 * 4


def test_workers_that_leave_no_core_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"--cores-per-node 32: 16 workers of scaling.cpus_per_worker 4 leave none of 2"
    ):
        student(cores_per_node=32)


@pytest.mark.parametrize("more", ["gpus", "storage_gb_s", "network_gbit_s", "tflops", "cores_per_node"])
def test_more_of_anything_never_takes_longer(more: str) -> None:
    sizes = [getattr(CLUSTER, more) * 2**i for i in range(6)]
    hours = [student(320_000, **{more: size}).hours for size in sizes]
    assert all(later <= earlier * 1.001 for earlier, later in pairwise(hours))
    assert hours[-1] < 0.99 * hours[0] or more not in ("gpus", "tflops")


def test_more_samples_take_longer_and_more_room() -> None:
    made = [student(32_000 * 10**i) for i in range(4)]
    assert all(b.hours > 9 * a.hours for a, b in pairwise(made))
    assert made[3].bottlenecks[0] == model.HEAD  # 32 M records of 10 kB


def measurement() -> Measurement:
    other = with_cost(flops=4e12)
    stages = {"teacher": other, "pseudo_labels": COST, "student": COST}
    told = {"preset": "x", "depends_on": {}, "train_samples": 1, "measured_samples": 1, "sweeps": 1}
    return Measurement(**told, stand_in_sweeps=0, cpu="x", cores=1, load_average=0, stages=stages)


def test_a_measured_teacher_tells_how_fast_it_predicts() -> None:
    made = model.plan(measurement(), config(), CLUSTER, 32_000, {"teacher": 3.0})
    assert made["teacher"].gpu_samples_per_s == 3 and made["pseudo_labels"].gpu_samples_per_s == 12
    assert made["student"].gpu_samples_per_s == 50


def test_the_sweep_doubles_gpus_and_ends_at_512() -> None:
    swept = model.plans(measurement(), config(), CLUSTER, 28_130, {})
    assert list(swept) == [16, 32, 64, 128, 256, 512]
    assert list(swept[16]) == [28_130, 1_000_000, 10_000_000, 100_000_000]
    assert swept[64][1_000_000] == model.plan(
        measurement(), config(), CLUSTER.model_copy(update={"gpus": 64}), 1_000_000, {}
    )
    assert list(model.plans(measurement(), config(), CLUSTER, 20_000_000, {})[16]) == [20_000_000, 100_000_000]
