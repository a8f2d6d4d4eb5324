"""Costs measured by ``pdetr3d plan --measure`` equal those counted independently from files, arrays and parameters."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pdetr3d.data.loading.load import load_sample
from pdetr3d.finished.capacity import measure
from pdetr3d.finished.capacity.costs import Measurement, depends_on
from pdetr3d.schema import FALLBACK_SIZE_M, DataError
from pdetr3d.training import model_size
from pdetr3d.training.build import build
from pdetr3d.training.plan import BatchLoader
from ray_jobs.plug.stream import to_table
from tests.training_cases import World, one_thread, open_world, world_config

PASTING = f"student.gt_sampling={[9] * 10}"


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return open_world(sim_world, tmp_path_factory.mktemp("capacity") / "run", "label.ratio=1.0")


@pytest.fixture(scope="module")
def made(sim_world: Path) -> Iterator[Measurement]:
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(measure, "ROUNDS", 1)
        patch.setattr(model_size, "SWEEP_POINTS", 500)
        yield measure.measure(world_config(sim_world, "data.num_sweeps=5", PASTING))


def test_all_stages_of_the_train_split(made: Measurement, sim_world: Path) -> None:
    """Six train keyframes: the first of each scene has two earlier sweeps, the second more than four."""
    assert (made.train_samples, made.measured_samples, made.sweeps) == (6, 6, 5)
    assert made.stand_in_sweeps == 1
    assert made.depends_on == depends_on(world_config(sim_world, "data.num_sweeps=5", PASTING))
    assert list(made.stages) == ["teacher", "pseudo_labels", "student"]
    assert "images" in made.stages["teacher"].cpu_s and "images" not in made.stages["student"].cpu_s
    assert all(sum(stage.cpu_s.values()) > 0 for stage in made.stages.values())


def test_bytes_on_disk_are_the_files(world: World, made: Measurement) -> None:
    def files(cameras: bool) -> float:
        sizes = []
        for record in world.records:
            sweeps = [sweep.path for sweep in record.sweeps[:4]]
            sweeps += [record.lidar_path] * (4 - len(sweeps))
            paths = [record.lidar_path, *sweeps, *(camera.path for camera in record.cameras if cameras and camera)]
            sizes.append(sum(Path(path).stat().st_size for path in paths))
        return float(np.mean(sizes))

    assert made.stages["teacher"].disk_bytes == made.stages["pseudo_labels"].disk_bytes == files(True)
    assert made.stages["student"].disk_bytes == files(False)


def test_bytes_in_the_object_store_are_those_of_rays_block(world: World) -> None:
    """A batch has two samples. The block adds a header of a few hundred bytes."""
    loader = build("teacher", world.run.config, FALLBACK_SIZE_M).loader
    cost = measure.sample_cost(loader, world.records[:2], 2)
    block = to_table(loader(world.records[:2], [0, 0], 0)).nbytes
    assert 0 < block - 2 * cost["batch_bytes"] < 4096


def test_bytes_of_a_record_are_what_one_more_costs(world: World, made: Measurement) -> None:
    """The slope from 2 to 6 records, plus the sweeps that the first keyframe of each scene lacks: two of four."""

    def relative(path: str) -> str:
        return str(Path(path).relative_to(world.data.index.dataroot))

    sizes = [len(pickle.dumps(world.records.select(np.arange(n)), protocol=5)) for n in (2, 4, 6)]
    more = (sizes[2] - sizes[0]) / 4
    absent = [140 + len(relative(record.lidar_path)) for record in world.records if len(record.sweeps) == 2]
    assert len(absent) == 3 and relative(world.records[0].lidar_path).startswith("samples/LIDAR_TOP/")
    assert made.stages["student"].record_bytes == pytest.approx(more + 2 * sum(absent) / 6, rel=0.1)
    assert 2_000 < made.stages["student"].record_bytes < 8_000


def test_objects_are_pasted_where_training_pastes(world: World, made: Measurement) -> None:
    config = world.run.config.model_copy(update={"data": world.run.config.data.model_copy(update={"num_sweeps": 5})})
    records = [measure.with_all_sweeps(record, 5) for record in world.records]
    plain = measure.sample_cost(build("student", config, FALLBACK_SIZE_M).loader, records, 2)
    assert abs(made.stages["student"].batch_bytes / plain["batch_bytes"] - 1) > 1e-3


def test_time_is_split_by_part(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading six samples takes 12 s with points only, 30 s with images, and 48 s as whole batches."""
    taken = iter([12.0, 30.0, 48.0, 12.0, 18.0, 12.0, 9.0, 30.0])
    monkeypatch.setattr(measure, "cpu_s", lambda body: next(taken))
    teacher = build("teacher", world.run.config, FALLBACK_SIZE_M).loader
    assert measure.sample_cost(teacher, world.records, 2)["cpu_s"] == {
        "points": 2,
        "images": 3,
        "augmentation, collation": 3,
    }
    student = replace(teacher, stage="student", cameras=False)
    assert measure.sample_cost(student, world.records, 2)["cpu_s"] == {"points": 2, "augmentation, collation": 1}
    noisy = measure.sample_cost(teacher, world.records, 2)["cpu_s"]
    assert noisy == {"points": 2, "images": 0, "augmentation, collation": 3}  # never negative


def test_a_batch_that_is_larger_than_the_dataset_repeats_it(world: World) -> None:
    seen: list[int] = []

    class Watch(BatchLoader):
        def __call__(self, records, passes, step=0):  # type: ignore[no-untyped-def]
            seen.append(len(records))
            return super().__call__(records, passes, step)

    loader = Watch(world.run.config, "predict", cameras=False)
    one = measure.sample_cost(loader, world.records[:1], 1)
    four = measure.sample_cost(loader, world.records[:1], 4)
    assert set(seen) == {1, 4} and four["disk_bytes"] == one["disk_bytes"]
    assert four["batch_bytes"] == pytest.approx(one["batch_bytes"], rel=0.01)


def test_cpu_seconds_are_the_median_of_the_processs_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The median ignores one slow round; the clock does not run while the process waits."""
    monkeypatch.setattr(measure, "ROUNDS", 5)
    cost = iter([0.1, 9.0, 0.3, 0.2, 0.4])
    now = [5.0]
    monkeypatch.setattr(measure, "time", SimpleNamespace(process_time=lambda: now[0]))

    def body() -> None:
        now[0] += next(cost)

    assert measure.cpu_s(body) == pytest.approx(0.3)
    assert next(cost, None) is None


def test_absent_sweeps_are_the_keyframe_again(world: World) -> None:
    record = next(record for record in world.records if len(record.sweeps) == 2)
    full = measure.with_all_sweeps(record, 5)
    assert [sweep.path for sweep in full.sweeps] == [
        *(sweep.path for sweep in record.sweeps),
        record.lidar_path,
        record.lidar_path,
    ]
    assert len(measure.with_all_sweeps(record, 2).sweeps) == 1 and measure.with_all_sweeps(record, 3) == record
    data = world.run.config.data.model_copy(update={"num_sweeps": 5})
    points = load_sample(full, data, cameras=False).points
    key = load_sample(record, data.model_copy(update={"num_sweeps": 1}), cameras=False).points
    np.testing.assert_array_equal(points[-len(key) :], key)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_checkpoint_holds_weights_two_moments_and_the_average(world: World, tmp_path: Path, ema: float) -> None:
    config = world_config(Path(), f"teacher.optim.ema_decay={ema}")
    task = build("teacher", config, FALLBACK_SIZE_M)
    cost = measure.model_cost(task, config, tmp_path)
    count = sum(p.numel() for p in task.model.parameters())
    assert cost["parameters"] == count and cost["gradient_bytes"] == 4 * count
    assert 0 < cost["checkpoint_bytes"] - (4 if ema else 3) * 4 * count < 1_000_000 and cost["checkpoint_s"] > 0


def test_frozen_weights_have_no_gradients(tmp_path: Path) -> None:
    task = build("student", world_config(Path()), FALLBACK_SIZE_M)
    task.model.get_submodule("backbone").requires_grad_(False)
    cost = measure.model_cost(task, world_config(Path()), tmp_path)
    rest = sum(p.numel() for name, p in task.model.named_parameters() if not name.startswith("backbone."))
    assert cost["gradient_bytes"] == 4 * rest < 4 * cost["parameters"]


def test_flops_of_all_passes() -> None:
    forward = {"LiDAR encoder": 5, "backbone": 30, "neck": 10, "heads": 15}
    config = world_config(Path())
    assert measure.training_flops("teacher", config, forward) == 3 * 60
    assert measure.training_flops("student", config, forward) == 3 * 60 + 45  # the weak view, but for its heads
    assert measure.training_flops("student", world_config(Path(), "student.guidance=none"), forward) == 3 * 60
    again = world_config(Path(), "model.checkpoint_activations=true")
    assert measure.training_flops("teacher", again, forward) == 4 * 60


def test_predicting_is_a_forward_pass(made: Measurement) -> None:
    assert 3 * made.stages["pseudo_labels"].flops == made.stages["teacher"].flops
    assert made.stages["pseudo_labels"].gradient_bytes == made.stages["pseudo_labels"].checkpoint_bytes == 0


@pytest.mark.parametrize("override", ["data.dataroot=''", "data.packed=s3://bucket/pack"])
def test_files_are_measured_not_packs_nor_nothing(sim_world: Path, override: str) -> None:
    with pytest.raises(DataError, match="reads the files of a dataset: name it by data.dataroot"):
        measure.measure(world_config(sim_world, override))
