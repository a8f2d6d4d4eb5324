"""CenterPoint's targets, losses, decoding and NMS against oracles and hand-made cases."""

import numpy as np
import pytest
import torch

from pdetr3d.batch import Batch, Cells, TaskMaps
from pdetr3d.geometry.boxes import bev_iou_aligned
from pdetr3d.geometry.center_code import encode, part
from pdetr3d.geometry.nms import nms_bev
from pdetr3d.losses.center_criterion import (
    BOX_TERMS,
    DIRECTION_WEIGHT,
    CenterCriterion,
    gaussian_cells,
    gaussian_maps,
    gaussian_radius,
    heatmap_focal_loss,
    heatmap_weights,
)
from pdetr3d.models.center_head import Regression, peaks
from pdetr3d.models.student import CenterDecoder
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import build
from tests.model_cases import change, make_batch, same_on_all_ranks, tiny_config
from tests.reference.model_oracles import greedy_nms, heatmap, overlap_after_shift


@pytest.mark.parametrize(("length", "width"), [(5.8, 2.4), (14, 3.7), (1, 1), (40, 8)])
def test_radius_is_the_largest_shift_that_keeps_the_overlap(length: float, width: float) -> None:
    radius = gaussian_radius(torch.tensor(length), torch.tensor(width)).item()
    assert overlap_after_shift(length, width, radius) == pytest.approx(0.1, abs=1e-4)
    assert overlap_after_shift(length, width, radius * 1.01) < 0.1


def test_heatmaps_equal_a_plain_loop() -> None:
    centers, radii = [(3, 4), (4, 5), (0, 9), (11, 0)], [2, 3, 2, 4]
    r = torch.tensor(radii, dtype=torch.float64)
    got = gaussian_maps(torch.tensor(centers), (2 * r + 1) / 6, r, torch.zeros(4, dtype=torch.long), (1, 12, 10))
    np.testing.assert_allclose(got[0], heatmap(centers, radii, 12, 10), atol=1e-12)


def test_heatmaps_of_nothing() -> None:
    none = torch.zeros(0)
    got = gaussian_maps(torch.zeros(0, 2, dtype=torch.long), none, none, none.long(), (3, 4, 5))
    assert got.tolist() == np.zeros((3, 4, 5)).tolist()


def test_focal_loss_by_hand() -> None:
    logits, target = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.5])
    # p = 1/2: positive (1/2)^2 ln 2; negative (1/2)^2 (1/2)^4 ln 2
    expected = np.log(2) * (0.25 + 0.25 / 16)
    assert heatmap_focal_loss(logits, target).item() == pytest.approx(expected, rel=1e-6)


def perfect_maps(config, batch) -> list[TaskMaps]:
    """The heatmap and regressions that encode the batch's boxes exactly."""
    grid = config.model.grid
    heat = torch.full((len(batch), 10, *grid), -12.0)
    cells, index = batch.objects((-12.8, -12.8), 0.8, grid, tuple(range(10)))
    box, velocity = batch.box[cells.sample, index], batch.velocity[cells.sample, index]
    heat[cells.sample, batch.box_label[cells.sample, index], cells.row, cells.column] = 6.0
    return [TaskMaps(heat, cells, perfect_code(box, velocity, cells))]


def perfect_code(box: torch.Tensor, velocity: torch.Tensor, cells: Cells) -> torch.Tensor:
    """The ideal head outputs on a grid of 0.8 m cells from -12.8 m on, with directions that are almost certain."""
    code = encode(box, velocity, cells.corners((-12.8, -12.8), 0.8), 0.8)
    part(code, "direction").mul_(30)
    return code


def test_cells_of_objects_by_hand() -> None:
    batch = make_batch(clicks=2)
    box = batch.box.clone()
    box[0, :, :2] = torch.tensor([[-12.7, 12.7], [0.1, 13.0]])  # the second lies beyond the grid
    cells, index = change(batch, box=box).objects((-12.8, -12.8), 0.8, (32, 32), tuple(range(10)))
    assert [cells.sample[0].item(), cells.row[0].item(), cells.column[0].item(), index[0].item()] == [0, 31, 0, 0]
    assert (cells.sample == 0).sum() == 1


def test_surroundings_are_every_cell_in_reach_once_with_its_nearest_box() -> None:
    batch, grid, reach = make_batch(clicks=5, seed=3), 32, 2
    box = batch.box.clone()
    box[0, 1, :2] = box[0, 0, :2] + torch.tensor([1.0, 0.4])  # neighbors that reach the same cells
    box[1, 0, :2] = torch.tensor([-12.7, 12.7])  # in a corner of the grid
    batch = change(batch, box=box)
    cells, index = batch.surroundings((-12.8, -12.8), 0.8, (grid, grid), tuple(range(10)), reach)
    got = {(s, r, c): i for s, r, c, i in zip(*(t.tolist() for t in vars(cells).values()), index.tolist(), strict=True)}
    assert len(got) == len(index)
    expected = {}
    for s in range(2):
        center = (batch.box[s, :, :2].numpy() + 12.8) / 0.8
        for r in range(grid):
            for c in range(grid):
                near = [i for i, (x, y) in enumerate(center) if max(abs(int(x) - c), abs(int(y) - r)) <= reach]
                if near:
                    expected[s, r, c] = min(near, key=lambda i: np.hypot(*(center[i] - (c + 0.5, r + 0.5))))
    assert got == expected


def test_a_box_is_decoded_from_any_cell_in_reach() -> None:
    """Decoding inverts the regression target of every cell in reach of a box, not only of its center cell."""
    config, batch = tiny_config("student.regression_reach=1"), make_batch(clicks=1, seed=2)
    cells, index = batch.surroundings((-12.8, -12.8), 0.8, (32, 32), tuple(range(10)), 1)
    box, velocity = batch.box[cells.sample, index], batch.velocity[cells.sample, index]
    heat = torch.full((2, 10, 32, 32), -12.0)
    maps = [TaskMaps(heat, cells, perfect_code(box, velocity, cells))]
    terms = CenterCriterion(config, same_on_all_ranks)(maps, batch)
    assert all(terms[name].item() == pytest.approx(0, abs=1e-5) for name in BOX_TERMS)
    for chosen in range(9):  # the peak stands in one of the nine cells
        one = Cells(cells.sample[[chosen]], cells.row[[chosen]], cells.column[[chosen]])
        peak = heat.clone()
        peak[one.sample, batch.box_label[0, 0], one.row, one.column] = 6.0
        found = CenterDecoder(config)([TaskMaps(peak, one, maps[0].regression[[chosen]])])[0]
        np.testing.assert_allclose(found.center_m[0], batch.box[0, 0, :3], atol=1e-4)


def test_regression_at_cells_equals_dense_convolutions() -> None:
    torch.manual_seed(0)
    branch = Regression(8, "group").eval()
    shared = torch.randn(2, 8, 6, 7)
    sample, row, column = torch.meshgrid(torch.arange(2), torch.arange(6), torch.arange(7), indexing="ij")
    cells = Cells(sample.flatten(), row.flatten(), column.flatten())
    branch.norm = torch.nn.Identity()  # a group norm sees the patch; a batch norm in inference only stored numbers
    hidden = torch.relu(torch.nn.functional.conv2d(shared, branch.hidden.weight, padding=1)).split(8, 1)
    dense = [
        torch.nn.functional.conv2d(h, c.weight, c.bias, padding=1)
        for h, c in zip(hidden, branch.outputs.values(), strict=True)
    ]
    expected = torch.cat(dense, 1).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(branch(shared, cells), expected, atol=1e-5, rtol=1e-5)


def test_peaks_by_hand() -> None:
    heat = torch.full((1, 2, 5, 5), -10.0)
    heat[0, 0, 1, 1], heat[0, 0, 1, 2], heat[0, 1, 4, 4], heat[0, 0, 3, 0] = 2.0, 1.0, 3.0, -1.0
    cells = peaks(heat, 0.3, 10)
    assert list(zip(cells.row.tolist(), cells.column.tolist(), strict=True)) == [(4, 4), (1, 1)]  # (1, 2) is no maximum
    assert len(peaks(heat, 0.3, 1).row) == 1 and len(peaks(heat, 0.99, 10).row) == 0


def test_decoding_inverts_encoding() -> None:
    config, batch = tiny_config("student.nms_iou=0.99"), make_batch(clicks=3, seed=2)
    boxes = CenterDecoder(config)(perfect_maps(config, batch))
    for b in range(2):
        assert len(boxes[b]) == 3
        order = np.argsort(boxes[b].center_m[:, 0])
        expected = batch.box[b][batch.box[b][:, 0].argsort()].numpy()
        got = boxes[b].rows[order]
        np.testing.assert_allclose(got, expected, atol=1e-4)
        velocity = batch.velocity[b][batch.box[b][:, 0].argsort()].numpy()
        np.testing.assert_allclose(boxes[b].velocity_m_s[order], velocity, atol=1e-4)
        assert sorted(boxes[b].label.tolist()) == sorted(batch.box_label[b].tolist())


def test_a_cell_may_be_a_peak_of_two_classes() -> None:
    config, batch = tiny_config(), make_batch(clicks=1, seed=2)
    maps = perfect_maps(config, batch)[0]
    label = batch.box_label[0, 0].item()
    other = (label + 1) % 10
    maps.heatmap[0, other, maps.cells.row[0], maps.cells.column[0]] = 0.0
    boxes = CenterDecoder(config)([maps])[0]
    assert boxes.label.tolist() == [label, other]
    assert boxes.score.tolist() == pytest.approx([1 / (1 + np.exp(-6)), 0.5])
    np.testing.assert_allclose(boxes.rows[0], boxes.rows[1])


def test_box_loss_of_perfect_maps_is_zero_and_unknown_velocity_is_masked() -> None:
    config = tiny_config("student.box_weight=0.25", "student.velocity_weight=0.2")
    batch = make_batch(clicks=3, seed=2)
    criterion, maps = CenterCriterion(config, same_on_all_ranks), perfect_maps(config, batch)
    assert all(criterion(maps, batch)[name].item() == pytest.approx(0, abs=1e-5) for name in BOX_TERMS)
    unknown = change(batch, velocity=torch.full_like(batch.velocity, torch.nan))
    wrong = [TaskMaps(maps[0].heatmap, maps[0].cells, maps[0].regression + torch.eye(12)[11])]  # vy + 1
    assert criterion(wrong, unknown)["box"].item() == pytest.approx(0, abs=1e-5)
    # 6 objects, weight 0.25 x 0.2, one error of 1 m/s each, divided by 6 objects
    assert criterion(wrong, batch)["box"].item() == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("objects", [0, 1])
def test_loss_is_finite_without_objects(objects: int) -> None:
    batch = make_batch(clicks=4)
    keep = torch.arange(4) < objects
    few = change(batch, box_valid=batch.box_valid & keep, click_valid=batch.click_valid & keep)
    task = build("student", tiny_config(), FALLBACK_SIZE_M)
    terms = task.losses(task.model(few), few, same_on_all_ranks)
    assert all(torch.isfinite(v) for v in terms.values())
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in task.model.parameters())


def test_loss_normalizer_is_the_global_count() -> None:
    """The losses of two halves, each divided by the mean count over ranks, average to the loss of the whole batch."""
    config = tiny_config()
    task = build("student", config, FALLBACK_SIZE_M)
    from tests.model_cases import one_sample

    batch = make_batch(clicks=5)
    batch = change(batch, box_valid=batch.box_valid & (torch.arange(5) < torch.tensor([[5], [2]])))
    whole = CenterCriterion(config, same_on_all_ranks)(task.model(batch).tasks, batch)
    halves = []
    for i in range(2):
        half = one_sample(batch, i)
        halves.append(CenterCriterion(config, lambda _: torch.tensor(3.5))(task.model(half).tasks, half))
    for key in whole:
        assert whole[key].item() == pytest.approx((halves[0][key].item() + halves[1][key].item()) / 2, rel=1e-4)


def test_nms_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    n = 60
    rows = np.concatenate([rng.uniform(-8, 8, (n, 3)), rng.uniform(1, 5, (n, 3)), rng.uniform(-3, 3, (n, 1))], 1)
    score = rng.random(n)
    label = rng.integers(0, 2, len(rows))
    pairs = bev_iou_aligned(np.repeat(rows, n, 0), np.tile(rows, (n, 1))).reshape(n, n)
    for classes in (np.zeros_like(label), label):
        overlap = np.where(classes[:, None] == classes, pairs, 0)
        assert nms_bev(rows, score, classes, 0.2).tolist() == greedy_nms(overlap, score, 0.2)
    assert nms_bev(np.zeros((0, 7)), np.zeros(0), np.zeros(0), 0.2).tolist() == []


def test_student_needs_neither_clicks_nor_images_at_test_time() -> None:
    task, batch = build("student", tiny_config(), FALLBACK_SIZE_M), make_batch()
    task.model.eval()
    blind = change(
        batch, images=batch.images[:, :0], click=batch.click[:, :0], click_valid=batch.click_valid[:, :0],
        weak_points=batch.weak_points[:0], weak_point_sample=batch.weak_point_sample[:0],
    )  # fmt: skip
    torch.testing.assert_close(task.model(blind).tasks[0].heatmap, task.model(batch).tasks[0].heatmap)


def test_direction_loss_by_hand() -> None:
    """A direction of length 2 and 60 degrees off has log odds 2 cos 60 = 1, so the loss is log(1 + 1/e) per object.

    Barriers look the same from both sides, and cones from all sides: both learn no direction, and cones no axis.
    """
    batch = make_batch(samples=1, clicks=4, seed=2)
    batch = change(batch, box_label=torch.tensor([[0, 8, 5, 9]]))  # car, pedestrian, barrier, traffic cone
    config = tiny_config("student.box_weight=0.25")
    criterion, maps = CenterCriterion(config, same_on_all_ranks), perfect_maps(config, batch)[0]
    yaw = batch.box[0, batch.objects((-12.8, -12.8), 0.8, (32, 32), tuple(range(10)))[1], 6]
    part(maps.regression, "direction").copy_(2 * torch.stack([(yaw + np.pi / 3).cos(), (yaw + np.pi / 3).sin()], 1))
    part(maps.regression, "axis").add_(0.5)
    terms = criterion([maps], batch)
    assert terms["direction"].item() == pytest.approx(0.25 * DIRECTION_WEIGHT * np.log1p(np.exp(-1)) * 2 / 4, rel=1e-5)
    assert terms["box"].item() == pytest.approx(0.25 * 3 * (0.5 + 0.5) / 4, rel=1e-5)


def test_heatmap_weights_by_hand() -> None:
    """Radius 2, sigma 5/6: 1 + t (w - 1) with t = 1 at the peak, exp(-0.72) a cell beside it, 0 beyond the radius."""
    center, radius = torch.tensor([[3, 3], [3, 5], [3, 9]]), torch.tensor([2.0, 2, 2])
    gaussians = (center, (2 * radius + 1) / 6, radius, torch.zeros(3, dtype=torch.long), (1, 7, 14))
    weight = torch.tensor([0.25, 1, 3])
    got = heatmap_weights(gaussian_maps(*gaussians), gaussian_cells(*gaussians), weight)[0]
    beside = np.exp(-1 / (2 * (5 / 6) ** 2))
    assert beside == pytest.approx(np.exp(-0.72))
    assert got[3, 3].item() == 0.25 and got[3, 5].item() == 1 and got[3, 9].item() == 3
    assert got[3, 2].item() == pytest.approx(1 - 0.75 * beside) and got[4, 9].item() == pytest.approx(1 + 2 * beside)
    assert got[3, 4].item() == 1  # between the first two, equally near: the larger weight
    assert got[3, 0].item() == got[0, 3].item() == got[6, 13].item() == 1
    none = torch.zeros(0)
    nothing = (torch.zeros(0, 2, dtype=torch.long), none, none, none.long(), (1, 3, 4))
    assert heatmap_weights(gaussian_maps(*nothing), gaussian_cells(*nothing), none).eq(1).all()


WEIGHTS = ("student.human_weight=2.0", "student.pseudo_weight=0.5", "student.score_power=2.0")


def test_label_weights_by_hand() -> None:
    """A person's box has weight 2; pseudo labels of score 1/2 and 1 have 0.5 * 0.5^2 = 0.125 and 0.5."""
    batch = make_batch(samples=1, clicks=3, seed=2)
    batch = change(batch, box_source=torch.tensor([[0, 1, 1]]), box_score=torch.tensor([[1.0, 0.5, 1]]))
    config = tiny_config(*WEIGHTS, "student.box_weight=1.0")
    criterion, maps = CenterCriterion(config, same_on_all_ranks), perfect_maps(config, batch)[0]
    assert criterion.label_weights(batch).tolist() == [[2, 0.125, 0.5]]
    cells, index = maps.cells, batch.objects((-12.8, -12.8), 0.8, (32, 32), tuple(range(10)))[1]
    error = torch.tensor([1.0, 10, 100])[index, None] * torch.eye(12)[2]  # height, by object
    wrong = [TaskMaps(maps.heatmap, cells, maps.regression + error)]
    # Three objects; the weights are not normalized away.
    assert criterion(wrong, batch)["box"].item() == pytest.approx((2 * 1 + 0.125 * 10 + 0.5 * 100) / 3, rel=1e-5)

    flat = [TaskMaps(torch.zeros_like(maps.heatmap), cells, maps.regression)]  # p = 1/2 everywhere
    expected = 0.0
    targets, weights = np.zeros((10, 32, 32)), np.ones((10, 32, 32))
    for i, w in enumerate((2, 0.125, 0.5)):
        x, y, _, length, width = (batch.box[0, i, :5] + torch.tensor([12.8, 12.8, 0, 0, 0])).div(0.8).tolist()
        radius = max(2, int(gaussian_radius(torch.tensor(length), torch.tensor(width))))
        own = heatmap([(int(y), int(x))], [radius], 32, 32)
        label = batch.box_label[0, i].item()
        larger = own > targets[label]
        targets[label][larger], weights[label][larger] = own[larger], 1 + own[larger] * (w - 1)
    for target, weight in zip(targets.flat, weights.flat, strict=True):
        expected += weight * np.log(2) * 0.25 * (1 if target == 1 else (1 - target) ** 4)
    assert criterion(flat, batch)["heatmap"].item() == pytest.approx(expected / 3, rel=1e-5)


def test_a_direction_that_a_label_does_not_know_is_not_learned() -> None:
    """Labels of probability 1, 3/4 and 1/2 have weights 1, 1/2 and 0 in the direction loss, and all else alike."""
    batch = change(make_batch(samples=1, clicks=3, seed=2), box_label=torch.zeros(1, 3, dtype=torch.long))
    config = tiny_config("student.box_weight=1.0")
    maps = perfect_maps(config, batch)[0]
    part(maps.regression, "direction").zero_()  # log 2 for each object
    criterion = CenterCriterion(config, same_on_all_ranks)
    sure = criterion([maps], batch)
    unsure = criterion([maps], change(batch, box_direction=torch.tensor([[1.0, 0.75, 0.5]])))
    assert sure["direction"].item() == pytest.approx(DIRECTION_WEIGHT * np.log(2), rel=1e-5)
    assert unsure["direction"].item() == pytest.approx(DIRECTION_WEIGHT * np.log(2) * 1.5 / 3, rel=1e-5)
    assert unsure["box"] == sure["box"] and unsure["heatmap"] == sure["heatmap"]


def test_default_weights_change_no_bit() -> None:
    """With default weights loss and gradients equal those without weights, for boxes of any origin and score."""
    task, batch = build("student", tiny_config(), FALLBACK_SIZE_M), make_batch(clicks=6, seed=4)
    pseudo = change(batch, box_source=batch.box_source + 1, box_score=torch.rand(2, 6))

    def bits(labels: Batch, weighted: CenterCriterion) -> list[bytes]:
        task.model.zero_grad()
        terms = weighted(task.model(labels).tasks, labels)
        sum(terms.values()).backward()
        grads = [p.grad for p in task.model.parameters() if p.grad is not None]
        return [t.detach().numpy().tobytes() for t in (*terms.values(), *grads)]

    plain = bits(batch, CenterCriterion(tiny_config(), same_on_all_ranks))
    assert bits(pseudo, CenterCriterion(tiny_config(), same_on_all_ranks)) == plain
    assert bits(pseudo, CenterCriterion(tiny_config(*WEIGHTS), same_on_all_ranks)) != plain
