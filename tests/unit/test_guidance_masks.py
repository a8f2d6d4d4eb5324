"""Tests of point guidance's masks on cases drawn by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pdetr3d.batch import Batch
from pdetr3d.data.augmentation.augment import AugmentRange, move_boxes
from pdetr3d.losses.guidance_masks import Grid, box_mask, drawn_clicks, foreground_mask
from pdetr3d.schema import Boxes3D
from tests.model_cases import change, make_batch, one_sample

SMALL = Grid((-2.0, -2.0), 1.0, 4, 4)  # cells' centers at -1.5, -0.5, 0.5, 1.5


def with_boxes(rows: list[list[float]]) -> Batch:
    """One box x, y, l, w, yaw per sample."""
    batch = make_batch(samples=len(rows), clicks=1)
    box = torch.tensor([[[x, y, 0.0, length, width, 1.0, yaw]] for x, y, length, width, yaw in rows])
    return change(batch, box=box)


def cells(mask: torch.Tensor) -> list[tuple[int, int]]:
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    return [(int(r), int(c)) for r, c in torch.nonzero(mask)]


def test_box_mask_by_hand() -> None:
    """A half length of 1.1 m covers one cell to either side along the heading; a half width of 0.4 m covers none."""
    batch = with_boxes([[0.5, -0.5, 2.2, 0.8, 0.0], [0.5, -0.5, 2.2, 0.8, np.pi / 2], [0.5, -0.5, 2.2, 0.8, np.pi / 4]])
    mask = box_mask(batch, SMALL)
    assert cells(mask[0]) == [(1, 1), (1, 2), (1, 3)]
    assert cells(mask[1]) == [(0, 2), (1, 2), (2, 2)]
    assert cells(mask[2]) == [(1, 2)]  # the next one along the diagonal is 1.41 away
    assert box_mask(change(batch, box_valid=torch.zeros(3, 1, dtype=torch.bool)), SMALL).sum() == 0


def test_a_box_between_the_centers_of_cells_has_the_cell_that_holds_its_center() -> None:
    batch = with_boxes([[0.9, -0.9, 0.1, 0.1, 0.0], [60.0, 0.5, 0.1, 0.1, 0.0]])
    mask = box_mask(batch, SMALL)
    assert cells(mask[0]) == [(1, 2)] and mask[1].sum() == 0


def test_two_boxes_on_a_cell_count_once_and_none_is_moved_onto_another_sample() -> None:
    batch = make_batch(samples=2, clicks=2)
    box = torch.tensor([0.5, -0.5, 0.0, 0.5, 0.5, 1.0, 0.0]).expand(2, 2, 7)
    mask = box_mask(change(batch, box=box, box_valid=torch.tensor([[True, True], [False, False]])), SMALL)
    assert cells(mask[0]) == [(1, 2)] and mask[1].sum() == 0


def similarity(flip: tuple[float, float] = (1, 1), angle: float = 0, scale: float = 1, shift: float = 0) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.eye(4)
    matrix[:3, :3] = scale * np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag([*flip, 1])
    matrix[:3, 3] = [shift, -2 * shift, 0.3]
    return matrix


MOVES = {
    "flip x": similarity(flip=(-1, 1)),
    "flip y": similarity(flip=(1, -1)),
    "rotation": similarity(angle=0.4),
    "scale": similarity(scale=1.15),
    "translation": similarity(shift=1.3),
    "product": AugmentRange(True, 0.39, (0.85, 1.15), 0.5).draw(np.random.default_rng(3)),
}


@pytest.mark.parametrize("name", MOVES)
def test_box_mask_is_canonical_whatever_the_augmentation(name: str) -> None:
    batch, grid = make_batch(clicks=6), Grid((-12.8, -12.8), 0.8, 32, 32)
    expected = box_mask(batch, grid)
    assert expected.sum() > 20
    moved = batch.box.clone()
    for b in range(2):
        rows = batch.box[b].numpy()
        boxes = Boxes3D.build(rows[:, :3], rows[:, 3:6], rows[:, 6], np.zeros(6, np.int64))
        moved[b] = torch.tensor(move_boxes(boxes, MOVES[name]).rows)
    matrix = torch.tensor(MOVES[name], dtype=torch.float32).repeat(2, 1, 1)
    assert torch.equal(box_mask(change(batch, box=moved, augmentation=matrix), grid), expected)
    assert not torch.equal(box_mask(change(batch, box=moved), grid), expected)


def with_cloud(clouds: list[list[tuple[float, float, float]]]) -> Batch:
    rows = [(x, y, z, 0.0, 0.0) for cloud in clouds for x, y, z in cloud]
    sample = torch.arange(len(clouds)).repeat_interleave(torch.tensor([len(cloud) for cloud in clouds]))
    return change(make_batch(samples=len(clouds)), weak_points=torch.tensor(rows).view(-1, 5), weak_point_sample=sample)


def test_foreground_by_hand() -> None:
    """Two ground cells of 4 m: a road at -1.8 m with a false echo below it, and a terrace beside it, 1.8 m higher."""
    road = [(0.1 + 0.3 * i, 1.5, -1.8) for i in range(10)]
    terrace = [(4.1 + 0.3 * i, 1.5, 0.0) for i in range(10)]
    things = [
        (1.5, 2.5, -1.4),  # 0.4 m up: foreground
        (2.5, 2.5, -1.6),  # 0.2 m up: ground
        (3.5, 0.5, 1.3),  # 3.1 m up: overhead
        (3.5, 3.5, 1.1),  # 2.9 m up: foreground
        (5.5, 0.5, 0.5),  # on the terrace: foreground
        (6.5, 0.5, 0.2),  # on the terrace: ground, though far above the road
        (50.0, 0.5, 5.0),  # off the grid
    ]
    valley = [(x, y, z - 1.0) for x, y, z in road]  # of another sample
    mask = foreground_mask(
        with_cloud([[*road, (0.5, 0.5, -4.0), *terrace, *things], valley]), Grid((-8.0, -8.0), 1.0, 16, 16)
    )
    assert cells(mask[0]) == [(8, 13), (10, 9), (11, 11)]  # row 8 is y in [0, 1), column 8 is x in [0, 1)
    assert mask[1].sum() == 0  # the samples' grounds are their own


def test_foreground_of_nothing_is_nothing() -> None:
    assert foreground_mask(with_cloud([[], []]), SMALL).shape == (2, 4, 4)
    assert foreground_mask(with_cloud([[], [(90.0, 0.0, 1.0)]]), SMALL).sum() == 0


def test_clicks_are_drawn_by_themselves_alone() -> None:
    batch = make_batch(clicks=40)
    drawn = drawn_clicks(batch.click, 0.5)
    assert 20 < drawn.sum() < 60
    order = torch.randperm(40)
    assert torch.equal(drawn_clicks(one_sample(batch, 1).click[:, order], 0.5)[0], drawn[1, order])
    assert not torch.equal(drawn_clicks(batch.click + 0.01, 0.5), drawn)  # the augmentation of another pass
    more = drawn_clicks(batch.click, 0.7)
    assert (more >= drawn).all() and drawn_clicks(batch.click, 1.0).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_of_drawn_clicks_is_the_asked_one(share: float) -> None:
    click = torch.rand(4, 1000, 3, generator=torch.Generator().manual_seed(0)) * 100 - 50
    assert drawn_clicks(click, share).float().mean().item() == pytest.approx(share, abs=0.025)  # 3 sigma at most


def test_clicks_of_a_grid_that_is_not_square_stay_in_their_row() -> None:
    grid = replace(SMALL, rows=3)
    place = torch.tensor([[-1.5, 0.5], [1.9, -2.0], [0.0, 1.1], [-2.1, 0.0]])
    inside, flat = grid.flat(place, torch.tensor([0, 1, 0, 0]))
    assert inside.tolist() == [True, True, False, False]
    assert flat[:2].tolist() == [2 * 4 + 0, 12 + 0 * 4 + 3]
