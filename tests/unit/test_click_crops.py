"""Tests of crops around clicks: their points, batches, draws that depend on the click alone, and learning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pdetr3d.batch import Batch
from pdetr3d.data.loading.crops import CLICK_REACH, CropLoader, Crops, crops_of, cut_crops
from pdetr3d.data.loading.load import load_sample
from pdetr3d.geometry.crops import REACH_FACTOR, REACH_M
from pdetr3d.models.point_crop import BoxCrop, crop_pairs, find_clicks
from pdetr3d.pseudo_labels import class_mean_boxes
from pdetr3d.schema import FALLBACK_SIZE_M, SOURCE_PSEUDO, Boxes3D
from pdetr3d.training.build import build
from tests.model_cases import same_on_all_ranks, tiny_config
from tests.training_cases import open_world

PRIOR = FALLBACK_SIZE_M


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    return open_world(sim_world, tmp_path_factory.mktemp("crops") / "run", "label.ratio=1.0")


@pytest.fixture(scope="module")
def crops(world) -> Crops:  # noqa: ANN001
    return crops_of(world.boxed[:2], world.run.config.data, PRIOR, cameras=True)


def test_a_crop_holds_the_points_that_any_click_of_its_box_can_see(world, crops: Crops) -> None:  # noqa: ANN001
    record = world.boxed[0]
    data = world.run.config.data
    cut, points = cut_crops(record, data, PRIOR, cameras=True), load_sample(record, data, cameras=False).points
    assert len(cut) == int((record.clicks.box_index >= 0).sum()) > 3
    for i in range(len(cut)):
        mine = cut.points[cut.start[i] : cut.start[i + 1]]
        length, width, height = PRIOR[cut.label[i]].astype(float)
        drift = max(np.linalg.norm(cut.box[i, 3:6]) * CLICK_REACH, np.linalg.norm(cut.click[i] - cut.box[i, :3]))
        offset = points[:, :3].astype(float) - cut.box[i, :3]
        inside = np.hypot(offset[:, 0], offset[:, 1]) <= REACH_FACTOR * np.hypot(length, width) + REACH_M + drift
        inside &= np.abs(offset[:, 2]) <= height + REACH_M + drift
        assert len(mine) == min(1024, inside.sum()) and np.isin(mine[:, 0], points[inside, 0]).all()
    both = cut_crops(world.boxed[1], world.run.config.data, PRIOR, cameras=True)
    assert len(crops) == len(cut) + len(both)
    np.testing.assert_array_equal(crops.points[crops.start[len(cut)] :], both.points)


def test_as_stored_a_batch_is_the_samples_own_numbers(crops: Crops) -> None:
    batch = Batch.from_arrays(CropLoader(crops, 0).as_stored([3, 1]))
    np.testing.assert_allclose(batch.box[:, 0], crops.box[[3, 1]], atol=1e-5)
    np.testing.assert_allclose(batch.click[:, 0], crops.click[[3, 1]], atol=1e-5)
    assert batch.click_label[:, 0].tolist() == crops.label[[3, 1]].tolist()
    for b, i in enumerate([3, 1]):
        np.testing.assert_array_equal(
            batch.points[batch.point_sample == b], crops.points[crops.start[i] : crops.start[i + 1]]
        )


def test_in_training_a_crop_turns_and_mirrors_as_a_whole_by_a_key_of_its_own(crops: Crops) -> None:
    loader = CropLoader(crops, seed=7, redraw=False)
    two, alone = (Batch.from_arrays(loader(*share)) for share in (([2, 0], [5, 1]), ([0], [1])))
    np.testing.assert_array_equal(two.box[1], alone.box[0])
    assert not torch.equal(alone.box[0], Batch.from_arrays(loader([0], [2])).box[0])
    mirrored = []
    for number in range(12):
        batch = Batch.from_arrays(loader([2], [number]))
        linear = batch.augmentation[0, :2, :2]
        mirrored.append(torch.det(linear).item())
        np.testing.assert_allclose(linear @ linear.T, np.eye(2), atol=1e-6)
        expected = crops.points[crops.start[2] : crops.start[3], :2] @ linear.numpy().T
        np.testing.assert_allclose(batch.points[:, :2], expected, atol=1e-4)
        np.testing.assert_allclose(batch.click[0, 0, :2], linear.numpy() @ crops.click[2, :2], atol=1e-4)
        yaw, before = batch.box[0, 0, 6].item(), crops.box[2, 6]
        np.testing.assert_allclose(
            [np.cos(yaw), np.sin(yaw)], linear.numpy() @ [np.cos(before), np.sin(before)], atol=1e-5
        )
    assert {round(value) for value in mirrored} == {1, -1}


def test_clicks_of_simulation_are_drawn_anew_and_people_s_are_not(crops: Crops) -> None:
    people = np.zeros(len(crops), bool)
    people[0] = True
    mixed = Crops(**{**vars(crops), "redrawn": ~people})
    batch = CropLoader(mixed, 0)([0, 1], [4, 4])
    np.testing.assert_allclose(batch["canonical_click"][0, 0], crops.click[0], atol=1e-5)
    assert np.abs(batch["canonical_click"][1, 0] - crops.click[1]).max() > 1e-3


def test_pairs_of_one_click_a_sample_are_those_of_many(crops: Crops) -> None:
    """The fast path for one click per sample equals the general path, which a second click without points forces."""
    batch = Batch.from_arrays(CropLoader(crops, 0).as_stored(range(6)))
    prior = torch.tensor(PRIOR)[batch.click_label]
    cloud = (batch.points, batch.point_sample)
    short = crop_pairs(*cloud, batch.click, prior, batch.click_valid)
    twice = [torch.cat([t, t], 1) for t in (batch.click, prior, batch.click_valid)]
    twice[2][:, 1] = False
    point, crop = crop_pairs(*cloud, *twice)
    assert torch.equal(point, short[0]) and torch.equal(crop, 2 * short[1])


def test_a_box_crop_sees_its_box_in_its_own_frame() -> None:
    """Points on the ground, beside the box and beyond its end have no effect; nor has a rotation of the whole scene."""
    torch.manual_seed(0)
    net = BoxCrop(8, 10).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    click, label = torch.tensor([[[20.0, 0.0, 0.0]]]), torch.tensor([[0]])
    length, width, height = PRIOR[0].tolist()

    def see(points: torch.Tensor, angle: float) -> torch.Tensor:
        turned = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float32)
        cloud, at = points.clone(), click.clone()
        cloud[:, :2], at[..., :2] = points[:, :2] @ turned.T, click[..., :2] @ turned.T
        clicks = find_clicks(
            cloud, torch.zeros(len(cloud), dtype=torch.long), at, label, label == 0, torch.tensor(PRIOR)
        )
        with torch.no_grad():
            return net(clicks, torch.tensor([[[np.cos(angle), np.sin(angle)]]], dtype=torch.float32))

    def at(x: float, y: float, z: float) -> torch.Tensor:
        return torch.tensor([[20 + x, y, z, 10.0, 0.0]])

    car = torch.cat([at(length / 2, 0.3, 0.2), at(-length / 2, width / 2, 0.4), at(0.5, -width / 2, 0.0)])
    seen = see(car, 0.0)
    torch.testing.assert_close(see(car, 1.1), seen, atol=1e-4, rtol=1e-4)
    ground, beside = at(0.0, 0.0, 0.1 - height / 2), at(0.0, 0.75 * width + 0.5, 0.0)
    assert torch.equal(see(torch.cat([car, ground, beside]), 0.0), seen)
    assert not torch.equal(see(torch.cat([car, at(0.0, width / 2, 0.5)]), 0.0), seen)


def test_crops_are_taken_by_number(crops: Crops) -> None:
    taken = crops.take(np.array([4, 0, 4]))
    assert taken.click_id.tolist() == crops.click_id[[4, 0, 4]].tolist() and taken.start[0] == 0
    for place, number in enumerate([4, 0, 4]):
        mine = taken.points[taken.start[place] : taken.start[place + 1]]
        np.testing.assert_array_equal(mine, crops.points[crops.start[number] : crops.start[number + 1]])
        np.testing.assert_array_equal(taken.window[place], crops.window[number])
    assert len(crops.take(np.zeros(0, np.int64))) == 0


def test_a_click_without_a_box_is_cut_like_one_with_a_class_mean_box(world) -> None:  # noqa: ANN001
    record, data = world.boxed[0], world.run.config.data
    clicks = record.clicks
    mean = class_mean_boxes(clicks, PRIOR, np.zeros(len(clicks)))
    known = replace(record, boxes=mean, clicks=replace(clicks, box_index=np.arange(len(clicks))))
    unknown = replace(record, boxes=Boxes3D.empty(), clicks=replace(clicks, box_index=np.full(len(clicks), -1)))
    cut = cut_crops(unknown, data, PRIOR, cameras=True, boxed=False)
    for name, value in vars(cut_crops(known, data, PRIOR, cameras=True)).items():
        if name not in ("redrawn", "direction", "source"):
            np.testing.assert_array_equal(getattr(cut, name), value, err_msg=name)
    assert len(cut) == len(clicks) and not cut.redrawn.any()
    assert (cut.direction == 0.5).all() and (cut.source == SOURCE_PSEUDO).all()
    assert len(cut_crops(unknown, data, PRIOR, cameras=True)) == 0
    assert len(cut_crops(known, data, PRIOR, cameras=True, boxed=False)) == 0


@pytest.mark.slow
def test_boxes_along_their_own_axis_are_learned_from_crops(crops: Crops) -> None:
    """Before training the branch gives the class-mean box at the click; after training it fits its training set."""
    config = tiny_config("teacher.decoder_layers=2")
    torch.set_num_threads(1)
    task = build("crops", config, PRIOR)
    optimizer, loader = torch.optim.AdamW(task.model.parameters(), 5e-3), CropLoader(crops, 0)
    every = list(range(len(crops)))
    losses = []
    for step in range(60):
        batch = Batch.from_arrays(loader(every, [step] * len(every)))
        output = task.model(batch)
        loss = sum(task.losses(output, batch, same_on_all_ranks).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])
