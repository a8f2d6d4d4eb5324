"""Tests of the mean teacher: targets in the strong view by hand, which samples give losses, no use of clicks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pdetr3d.batch import Batch
from pdetr3d.config import Config
from pdetr3d.data.labels.self_labels import half_labeled
from pdetr3d.losses.center_criterion import BOX_TERMS, CenterCriterion
from pdetr3d.schema import SOURCE_PSEUDO, Boxes3D, SampleRecord
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train
from pdetr3d.training.mean_teacher import MeanTeacher, with_boxes
from pdetr3d.training.plan import Plan
from tests.model_cases import change, make_batch, same_on_all_ranks, tiny_config
from tests.training_cases import one_thread, open_world
from tests.unit.test_loop import Interrupted, equal

PRIOR = np.ones((10, 3), np.float32)


def boxes(*rows: tuple[float, ...], score: list[float]) -> Boxes3D:
    """Rows x, y, z, l, w, h, yaw of cars with a velocity."""
    table = np.array(rows, np.float32).reshape(-1, 7)
    velocity, label = np.ones((len(table), 2)), np.zeros(len(table))
    return Boxes3D.build(
        table[:, :3], table[:, 3:6], table[:, 6], label,
        velocity_m_s=velocity, score=np.array(score), source=SOURCE_PSEUDO,
    )  # fmt: skip


class Oracle(nn.Module):
    """Stand-in for the averaged model that stores its input batch."""

    seen: Batch

    def forward(self, batch: Batch) -> object:
        self.seen = batch
        return None


def mixed_batch() -> Batch:
    """Three samples, the middle one box-labeled, the others without boxes; weak clouds are shifted by 1000 m."""
    batch = make_batch(samples=3, clicks=2)
    labeled = torch.tensor([False, True, False])
    shifted = batch.weak_points + torch.tensor([1000.0, 0, 0, 0, 0])
    return change(batch, box_labeled=labeled, box_valid=batch.box_valid & labeled[:, None], weak_points=shifted)


def test_targets_are_the_weak_views_boxes_moved_into_the_strong_view() -> None:
    """The motion is p' = 2 * Rot(90 deg) * mirror(y) * p + (1, -1, 0.5).

    It takes (10, 2, .5) to (10, -2, .5), (2, 10, .5) and (5, 19, 1.5), and yaw 0.3 to -0.3 and pi/2 - 0.3. Sizes
    double. The score 0.2 is below the threshold.
    """
    augmentation = torch.eye(4).repeat(3, 1, 1)
    augmentation[0] = torch.tensor([[0.0, 2, 0, 1], [2, 0, 0, -1], [0, 0, 2, 0.5], [0, 0, 0, 1]])
    batch = change(mixed_batch(), augmentation=augmentation)
    found = boxes((10, 2, 0.5, 4, 2, 1.5, 0.3), (1, 1, 0, 1, 1, 1, 0), score=[0.9, 0.2])
    config = tiny_config("student.mean_teacher_threshold=0.5")
    average = Oracle()
    taught = MeanTeacher(config, lambda output, view: [found, found[:0]]).teach(average, batch)

    expected = torch.tensor([5, 19, 1.5, 8, 4, 3, math.pi / 2 - 0.3])
    torch.testing.assert_close(taught.box[0, 0], expected, atol=1e-5, rtol=0)
    assert taught.box_valid.tolist() == [[True, False], [True, True], [False, False]]
    assert taught.box_label[0, 0] == 0 and taught.box_score[0, 0] == np.float32(0.9)
    assert taught.velocity[0].isnan().all() and len(taught.weak_points) == 0
    for name in ("box", "velocity", "box_label", "box_score"):
        assert torch.equal(getattr(taught, name)[1], getattr(batch, name)[1])
    # The teacher saw the weak clouds of the point-labeled samples alone.
    assert average.seen.token.tolist() == [b"sample0", b"sample2"]
    assert average.seen.points[:, 0].min() > 900 and average.seen.point_sample.unique().tolist() == [0, 1]
    assert torch.equal(average.seen.points[:400], batch.weak_points[:400])
    assert torch.equal(average.seen.points[400:], batch.weak_points[800:])


def test_more_targets_than_the_batch_has_room_for() -> None:
    batch = mixed_batch()
    before = {name: getattr(batch, name).clone() for name in ("box", "box_valid", "box_score")}
    many = boxes(*[(i, 0, 0, 1, 1, 1, 0) for i in range(5)], score=[0.5] * 5)
    wide = with_boxes(batch, [2], [many])
    assert (wide.box_source[2] == SOURCE_PSEUDO).sum() == len(many) and wide.box_source.shape == wide.box_label.shape
    assert (
        wide.box.shape == (3, 5, 7) and wide.velocity.shape == (3, 5, 2) and wide.box_valid.sum(1).tolist() == [0, 2, 5]
    )
    assert wide.box[2, :, 0].tolist() == [0, 1, 2, 3, 4] and torch.equal(wide.box[1, :2], batch.box[1])
    none = with_boxes(batch, [0, 2], [many[:0], many[:0]])
    assert none.box_valid.sum() == 2
    assert all(torch.equal(getattr(batch, name), value) for name, value in before.items())
    empty = change(batch, box=batch.box[:, :0], velocity=batch.velocity[:, :0], box_label=batch.box_label[:, :0],
                   box_score=batch.box_score[:, :0], box_valid=batch.box_valid[:, :0])  # fmt: skip
    assert with_boxes(empty, [0, 2], [many[:0], many[:0]]).box.shape == (3, 0, 7)


def losses_of(config: Config, batch: Batch, step: int = 20) -> tuple[dict[str, torch.Tensor], nn.Module]:
    """The loss terms at a step of 40, and the model."""
    task = build("student", config, PRIOR, mean_teacher=True)
    task.before_step(step, 40)
    return task.losses(task.model.train()(batch), batch, same_on_all_ranks), task.model


def test_labeled_and_taught_samples_have_losses_of_their_own() -> None:
    """With group norm samples are independent, so each part equals the loss of its own samples.

    After an eighth of the steps the weight of the unlabeled part is a quarter of its value at half of the steps.
    """
    config = tiny_config("student.mean_teacher_weight=0.5", "student.mean_teacher_warmup=0.5")
    batch = with_boxes(mixed_batch(), [0], [boxes((3, 2, 0, 4, 2, 1.5, 0.3), score=[0.9])])
    batch = replace(batch, weak_points=batch.weak_points[:0], weak_point_sample=batch.weak_point_sample[:0])
    terms, model = losses_of(config, batch, step=5)
    names = ("heatmap", *BOX_TERMS)
    assert terms.keys() == {prefix + name for prefix in ("", "unlabeled_") for name in names}
    for sample, prefix, weight in ((1, "", 1.0), (0, "unlabeled_", 0.125)):
        alone = batch.select(torch.arange(3) == sample)
        expected = CenterCriterion(config, same_on_all_ranks)(model(alone).tasks, alone)
        for name in names:
            torch.testing.assert_close(terms[prefix + name], weight * expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("labeled", [[True, True, True], [False, False, False]])
def test_a_sample_without_targets_teaches_nothing(labeled: list[bool]) -> None:
    batch = change(mixed_batch(), box_labeled=torch.tensor(labeled))
    if not any(labeled):
        batch = change(batch, box_valid=torch.zeros_like(batch.box_valid))
    terms, model = losses_of(tiny_config(), batch)
    sum(terms.values()).backward()
    assert terms["unlabeled_heatmap"] == 0 and terms["unlabeled_box"] == 0
    learns = any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert learns == any(labeled)
    assert all(p.grad is not None for p in model.parameters())  # DistributedDataParallel waits for each


def test_select_takes_samples_with_their_points() -> None:
    batch = make_batch(samples=3, clicks=2, points=5)
    chosen = batch.select(torch.tensor([True, False, True]))
    assert len(chosen) == 2 and chosen.token.tolist() == [b"sample0", b"sample2"]
    assert chosen.point_sample.tolist() == [0] * 5 + [1] * 5 == chosen.weak_point_sample.tolist()
    assert torch.equal(chosen.points, torch.cat([batch.points[:5], batch.points[10:]]))
    assert torch.equal(chosen.box, batch.box[[0, 2]]) and torch.equal(chosen.click, batch.click[[0, 2]])
    assert len(batch.select(torch.zeros(3, dtype=torch.bool))) == 0


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    overrides = ("optim.batch_size=2", "optim.checkpoints=2", "optim.log_every=1", "student.mean_teacher_threshold=0.1")
    return open_world(sim_world, tmp_path_factory.mktemp("mean_teacher"), *overrides)


def run(config: Config, records: list[SampleRecord], folder: Path, context: type = LocalContext) -> LocalContext:
    """Train a mean teacher for six steps."""
    folder.mkdir(parents=True, exist_ok=True)
    task = build("student", config, PRIOR, mean_teacher=True)
    local: LocalContext = context(records, Plan(len(records), 2, 6, 0, repeats=True), task.loader, folder)
    with one_thread():
        train(task, local, 6, config.to_json(), folder / "scratch")
    return local


def test_it_trains_its_average_teaches_and_a_resume_continues(world, tmp_path: Path) -> None:  # noqa: ANN001
    config = world.run.config
    records = half_labeled(world.boxed, [r for r in world.records if r.role == "point"])
    straight = run(config, records, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(config, records, tmp_path / "resumed", Interrupted)
    run(config, records, tmp_path / "resumed")
    one, two = (checkpoint.load(tmp_path / name / "step_0000006" / "checkpoint.pt") for name in ("straight", "resumed"))
    assert equal(dict(one["average"]), dict(two["average"])) and equal(dict(one["model"]), dict(two["model"]))
    assert one["average"]["n_averaged"] == 6
    assert any(metrics["unlabeled_heatmap"] > 0 for _, metrics in straight.history)  # the average taught something
    assert any(metrics["box"] > 0 for _, metrics in straight.history)
