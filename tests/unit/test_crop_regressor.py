"""Tests of the crop baseline: the points of each click, independence of clicks and samples, gradients, learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pdetr3d.batch import Batch, TeacherOutput
from pdetr3d.geometry.crops import REACH_FACTOR, REACH_M
from pdetr3d.models import point_crop
from pdetr3d.models.crop_regressor import CropRegressor
from pdetr3d.models.point_crop import crop_pairs
from pdetr3d.schema import FALLBACK_SIZE_M, DataError
from pdetr3d.training.build import build, click_boxes
from tests.model_cases import change, make_batch, one_sample, same_on_all_ranks, shaken, tiny_config
from tests.training_cases import open_world, run_locally

CROP = ("teacher.model=crop", "teacher.lidar_init=none")


def regressor(*overrides: str, shake: bool = True) -> CropRegressor:
    model = build("teacher", tiny_config(*CROP, *overrides), FALLBACK_SIZE_M).model
    model = shaken(model) if shake else model.eval()
    assert isinstance(model, CropRegressor)
    return model


def run(model: CropRegressor, batch: Batch) -> TeacherOutput:
    with torch.no_grad():
        return model(batch)


def pairs(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    prior = torch.tensor(FALLBACK_SIZE_M)[batch.click_label]
    return crop_pairs(batch.points, batch.point_sample, batch.click, prior, batch.click_valid)


@pytest.mark.parametrize("at_once", [point_crop.PAIRS, 900, 1])  # 400 points a sample: all clicks, two, one in one go
def test_pairs_equal_a_plain_loop(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_crop, "PAIRS", at_once)
    batch = make_batch(samples=3, clicks=4)
    valid = batch.click_valid.clone()
    valid[1, 2] = False
    batch = change(batch, click_valid=valid)
    point, crop = pairs(batch)
    expected = []
    for b in range(3):
        for k in range(4):
            length, width, height = FALLBACK_SIZE_M[int(batch.click_label[b, k])].tolist()
            for p, (x, y, z) in enumerate(batch.points[:, :3].tolist()):
                cx, cy, cz = batch.click[b, k].tolist()
                near = np.hypot(x - cx, y - cy) <= REACH_FACTOR * np.hypot(length, width) + REACH_M
                if near and abs(z - cz) <= height + REACH_M and int(batch.point_sample[p]) == b and valid[b, k]:
                    expected.append((b * 4 + k, p))
    assert sorted(zip(crop.tolist(), point.tolist(), strict=True)) == sorted(expected) and len(expected) > 100
    assert crop.tolist() == sorted(crop.tolist())


def test_starts_at_the_class_mean_box_at_the_click_heading_forward() -> None:
    batch = make_batch()
    box = run(regressor("teacher.heading_start=forward", shake=False), batch).box[-1]
    torch.testing.assert_close(box[..., 6], torch.full_like(box[..., 6], torch.pi / 2))
    torch.testing.assert_close(box[..., :3], batch.click)
    torch.testing.assert_close(box[..., 3:6], torch.tensor(FALLBACK_SIZE_M)[batch.click_label])


def test_samples_clicks_and_padding_do_not_touch_one_another() -> None:
    model, batch = regressor(), make_batch(clicks=5)
    whole = run(model, batch).box[-1]
    for i in range(2):
        torch.testing.assert_close(run(model, one_sample(batch, i)).box[-1][0], whole[i], atol=1e-5, rtol=1e-5)
    keys = ("click", "canonical_click", "click_label", "click_box", "click_valid")
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = change(batch, **{k: getattr(batch, k)[:, order] for k in keys})
    torch.testing.assert_close(run(model, moved).box[-1], whole[:, order], atol=1e-5, rtol=1e-5)
    padded = change(batch, **{k: torch.cat([getattr(batch, k), torch.zeros_like(getattr(batch, k))], 1) for k in keys})
    torch.testing.assert_close(run(model, padded).box[-1][:, :5], whole, atol=1e-5, rtol=1e-5)
    assert [len(boxes) for boxes in click_boxes(run(model, padded), padded)] == [5, 5]


def test_points_far_from_the_click_change_nothing_and_near_ones_do() -> None:
    model, batch = regressor(), make_batch(samples=1, clicks=1)
    before, (point, _) = run(model, batch).box[-1], pairs(batch)
    near = torch.zeros(len(batch.points), dtype=torch.bool)
    near[point] = True
    assert 0 < int(near.sum()) < len(batch.points)
    for rows, same in ((~near, True), (near, False)):
        intensity = batch.points.clone()
        intensity[rows, 3] = 255 - intensity[rows, 3]
        assert torch.equal(run(model, change(batch, points=intensity)).box[-1], before) == same


@pytest.mark.parametrize(("clicks", "points"), [(0, 400), (3, 0), (0, 0)])
def test_nothing_is_a_shape_and_every_parameter_still_gets_a_gradient(clicks: int, points: int) -> None:
    task = build("teacher", tiny_config(*CROP), FALLBACK_SIZE_M)
    batch = make_batch(clicks=clicks, points=points)
    terms = task.losses(task.model(batch), batch, same_on_all_ranks)
    torch.stack(list(terms.values())).sum().backward()
    missing = [name for name, parameter in task.model.named_parameters() if parameter.grad is None]
    assert missing == [] and all(np.isfinite(term.item()) for term in terms.values())


def test_reads_no_images_and_cannot_start_from_a_student() -> None:
    assert not build("teacher", tiny_config(*CROP), FALLBACK_SIZE_M).loader.cameras
    assert build("teacher", tiny_config(), FALLBACK_SIZE_M).loader.cameras
    with pytest.raises(DataError, match="teacher.lidar_init=none"):
        tiny_config("teacher.model=crop", "teacher.lidar_init=boxes_only")


@pytest.mark.slow
def test_it_learns_as_the_teacher_does(sim_world: Path, tmp_path: Path) -> None:
    optim = ["teacher.optim.batch_size=2", "teacher.optim.log_every=1", "teacher.optim.lr=0.01", "label.ratio=1.0"]
    world = open_world(sim_world, tmp_path / "run", *CROP, *optim)
    history = run_locally("teacher", world.run.config, world.boxed, tmp_path / "fit", 60).history
    losses = [metrics["box"] for _, metrics in history]
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6])  # measured: 0.87
