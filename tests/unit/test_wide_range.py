"""Tests of a range that is neither square nor centered on the sensor: x 0 .. 19.2 m, y -12.8 .. 12.8 m.

Cells of 0.8 m make 32 rows (y) and 24 columns (x). A place (10.1, -3.9) lies in column 10.1 / 0.8 = 12.6 and in row
(-3.9 + 12.8) / 0.8 = 11.1.
"""

import numpy as np
import pytest
import torch

from pdetr3d import presets
from pdetr3d.batch import Batch, StudentOutput, TaskMaps, TeacherOutput
from pdetr3d.config import Config
from pdetr3d.geometry.center_code import encode, part
from pdetr3d.losses.guidance_masks import Grid, click_mask
from pdetr3d.losses.point_guided import warp_to_canonical
from pdetr3d.models.pillars import PillarEncoder
from pdetr3d.models.roi_fusion import LidarRoI
from pdetr3d.models.student import CenterDecoder
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import build
from pdetr3d.training.plan import BatchLoader
from tests.model_cases import change, make_batch, same_on_all_ranks, tiny_config

ROWS, COLUMNS, CELL = 32, 24, 0.8
RANGE = (0.0, -12.8, 19.2, 12.8)
PLACE, ROW, COLUMN = (10.1, -3.9), 11, 12


def wide(*overrides: str) -> Config:
    return tiny_config("model.range_m=[0,-12.8,-5,19.2,12.8,3]", *overrides)


def one_box() -> Batch:
    """Samples with a box and its click at PLACE; the second sample's box lies behind the sensor, out of range."""
    batch = make_batch(clicks=1)
    box, click = batch.box.clone(), batch.click.clone()
    for sample, (x, y) in enumerate((PLACE, (-0.1, 0.0))):
        box[sample, 0, :2] = click[sample, 0, :2] = torch.tensor([x, y])
    return change(batch, box=box, click=click, canonical_click=click.clone())


def test_grid_by_hand() -> None:
    assert wide().model.grid == (ROWS, COLUMNS) and wide().model.bev_range_m == RANGE
    voxel = wide("model.lidar=voxel", "model.voxel_m=[0.1,0.1,0.2]", "student.neck_strides=[1,2,4]").model
    assert voxel.voxel_grid == (41, 256, 192)


def test_presets_of_kitti_by_hand() -> None:
    """y 0 .. 70.4 m in cells of 0.4 m: 176 rows; x 80 m: 200 columns. Heads have half of both; full size is 0.2 m."""
    small, full = presets.PRESETS["kitti-small"], presets.PRESETS["kitti"]
    assert small.model.grid == (176, 200) and small.student_grid == (88, 100)
    assert full.model.grid == (352, 400) and full.student_grid == (176, 200)
    assert small.student_cell_m == pytest.approx(0.8) and full.student_cell_m == pytest.approx(0.4)


def test_a_cloud_is_not_mirrored_out_of_its_range() -> None:
    """The range is symmetric only in y, so y is mirrored in about half of the draws, and x never."""
    config = wide("student.augment_flip=true", "student.augment_rotation_rad=0", "student.augment_translation_m=0")
    draw = BatchLoader(config, "student", cameras=False).augment_range().draw
    signs = np.array([np.sign(np.diag(draw(np.random.default_rng(i)))[:2]) for i in range(60)])
    assert (signs[:, 0] == 1).all() and 15 < (signs[:, 1] == -1).sum() < 45


def test_the_target_cell_of_a_box() -> None:
    cells, index = one_box().objects(RANGE[:2], CELL, (ROWS, COLUMNS), tuple(range(10)))
    assert [t.tolist() for t in (cells.sample, cells.row, cells.column, index)] == [[0], [ROW], [COLUMN], [0]]


def test_surroundings_end_where_the_grid_ends() -> None:
    """A box in the corner (19.1, 12.7) is in row 31 and column 23, so only four of its 3 x 3 cells exist."""
    batch = one_box()
    box = batch.box.clone()
    box[0, 0, :2] = torch.tensor([19.1, 12.7])
    cells, _ = change(batch, box=box).surroundings(RANGE[:2], CELL, (ROWS, COLUMNS), tuple(range(10)), 1)
    assert sorted(zip(cells.row.tolist(), cells.column.tolist(), strict=True)) == [
        (30, 22),
        (30, 23),
        (31, 22),
        (31, 23),
    ]


def test_the_pillar_of_a_point() -> None:
    encoder = PillarEncoder(wide().model)
    points = torch.tensor([[*PLACE, 0, 0, 0], [-0.1, 0, 0, 0, 0], [0, 12.9, 0, 0, 0], [18.9, 12.7, 0, 0, 0]])
    kept, cell = encoder.assign(points, torch.tensor([1, 1, 1, 0]))
    assert cell.tolist() == [(ROWS + ROW) * COLUMNS + COLUMN, 31 * COLUMNS + 23]
    np.testing.assert_array_equal(kept, points[[0, 3]])
    bev = encoder.eval()(points, torch.tensor([1, 1, 1, 0]), 2)
    assert bev.shape == (2, 8, ROWS, COLUMNS)
    lit = torch.nonzero(bev.abs().sum(1)).tolist()
    assert lit == [[0, 31, 23], [1, ROW, COLUMN]]


def test_decoding_gives_the_box_back() -> None:
    config, batch = wide(), one_box()
    cells, index = batch.objects(RANGE[:2], CELL, (ROWS, COLUMNS), tuple(range(10)))
    box = batch.box[cells.sample, index]
    code = encode(box, batch.velocity[cells.sample, index], torch.tensor([[COLUMN * 0.8, ROW * 0.8 - 12.8]]), CELL)
    part(code, "direction").mul_(30)
    heat = torch.full((2, 10, ROWS, COLUMNS), -12.0)
    heat[0, batch.box_label[0, 0], ROW, COLUMN] = 6.0
    found = CenterDecoder(config)([TaskMaps(heat, cells, torch.cat([code, torch.zeros(1, 1)], 1))])
    assert [len(boxes) for boxes in found] == [1, 0]
    np.testing.assert_allclose(found[0].rows[0], batch.box[0, 0], atol=1e-4)


@pytest.mark.parametrize("guidance", ["gaussian", "full", "box", "segmentation"])
def test_a_student_learns_on_it(guidance: str) -> None:
    config = wide(f"student.guidance={guidance}")
    task, batch = build("student", config, FALLBACK_SIZE_M), one_box()
    output = task.model.train()(change(batch, weak_points=batch.weak_points + 0.3))  # another view
    assert isinstance(output, StudentOutput)
    assert output.tasks[0].heatmap.shape == (2, 10, ROWS, COLUMNS)
    assert (output.tasks[0].cells.row.tolist(), output.tasks[0].cells.column.tolist()) == ([ROW], [COLUMN])
    losses = task.losses(output, batch, same_on_all_ranks)
    assert torch.isfinite(torch.stack(list(losses.values()))).all() and losses["guidance"] > 0


def test_the_mask_of_a_click() -> None:
    batch = one_box()
    mask = click_mask(batch, batch.click_valid, torch.full((10,), 0.8), Grid(RANGE[:2], CELL, ROWS, COLUMNS))
    assert mask.shape == (2, ROWS, COLUMNS) and mask[1].sum() == 0
    assert mask[0, ROW, COLUMN] == 1 and mask[0, ROW, COLUMN + 1].item() == pytest.approx(np.exp(-0.5))


def test_warp_about_the_sensor_not_about_the_middle_of_the_range() -> None:
    """A quarter turn takes the cell center (4.4, -10.0), row 3, column 5, to (10.0, 4.4), row 21, column 12."""
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    augmented = torch.zeros(1, 1, ROWS, COLUMNS)
    augmented[0, 0, 21, 12] = 1
    canonical = warp_to_canonical(augmented, turn[None], RANGE)
    assert canonical[0, 0, 3, 5].item() == pytest.approx(1, abs=1e-4)
    assert canonical.sum().item() == pytest.approx(1, abs=1e-3)
    # (10.1, -3.9) goes to (3.9, 10.1); places from x < 0 (here (4.4, 10.0) -> (-10.0, 4.4)) were not seen.
    seen = warp_to_canonical(torch.ones_like(augmented), turn[None], RANGE)[0, 0]
    assert seen[ROW, COLUMN].item() == pytest.approx(1) and seen[28, 5] == 0


def test_lidar_roi_samples_the_cell_of_the_click() -> None:
    """With n = 1 and no free points the sample is the map's value at the RoI's center.

    The map is 100 row + column, linear between cell centers; (10.1, -3.9) lies 0.125 cells right of the middle of
    column 12 and 0.375 cells below that of row 11 (its middle is 11.5).
    """
    roi = LidarRoI(1, 1, 1, 1, 0)
    for layer in (roi.value[0], roi.output):
        torch.nn.init.ones_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    level = (100.0 * torch.arange(ROWS)[:, None] + torch.arange(COLUMNS)).view(1, 1, ROWS, COLUMNS)
    box = torch.tensor([[[*PLACE, 0, 4, 2, 1.5, 0.3]]])
    got = roi(torch.zeros(1, 1, 1), box, [level], torch.tensor(RANGE))
    assert got.item() == pytest.approx(100 * (11.125 - 0.5) + 12.625 - 0.5, abs=1e-2)


def test_a_teacher_answers_on_it() -> None:
    config = wide()
    task, batch = build("teacher", config, FALLBACK_SIZE_M), one_box()
    output = task.model.train()(batch)
    assert isinstance(output, TeacherOutput)
    losses = task.losses(output, batch, same_on_all_ranks)
    assert torch.isfinite(torch.stack(list(losses.values()))).all()
