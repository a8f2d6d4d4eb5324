"""Tests of PGSS: the warp between views, the masks at the clicks, and a loss term with gradients in the features."""

import numpy as np
import pytest
import torch

from pdetr3d.data.augmentation.augment import AugmentRange
from pdetr3d.losses.guidance_masks import Grid, box_mask, drawn_clicks, foreground_mask
from pdetr3d.losses.point_guided import PointGuidance, ramp_of, warp_to_canonical
from pdetr3d.models.norm import statistics_held
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import build
from tests.model_cases import change, make_batch, one_sample, same_on_all_ranks, tiny_config

R, CELLS = 51.2, 128
BLOBS_M = [(10.0, 5.0), (-20.0, 12.0), (7.0, -25.0), (-15.0, -18.0)]


def blobs(matrix: np.ndarray, sigma_m: float) -> torch.Tensor:
    """A map (1, 1, H, W) with a Gaussian at each transformed place."""
    axis = (torch.arange(CELLS) + 0.5) * (2 * R / CELLS) - R
    bev = torch.zeros(CELLS, CELLS)
    for x, y in BLOBS_M:
        u, v, *_ = matrix @ np.array([x, y, 0, 1])
        bev += torch.exp(-((axis[None, :] - u) ** 2 + (axis[:, None] - v) ** 2) / (2 * sigma_m**2))
    return bev[None, None]


def linear(a: float, b: float, c: float, d: float, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = [[a, b], [c, d]]
    matrix[:2, 3] = shift
    return matrix


CASES = {
    "flip x": linear(-1, 0, 0, 1),
    "flip y": linear(1, 0, 0, -1),
    "both flips": linear(-1, 0, 0, -1),
    "rotation": linear(np.cos(0.3), -np.sin(0.3), np.sin(0.3), np.cos(0.3)),
    "scale": linear(1.15, 0, 0, 1.15),
    "translation": linear(1, 0, 0, 1, (1.0, -1.0)),
    "product": AugmentRange(True, 0.39, (0.85, 1.15), 0.5).draw(np.random.default_rng(3)),
}


@pytest.mark.parametrize("name", CASES)
def test_warp_undoes_each_augmentation_and_their_product(name: str) -> None:
    matrix = CASES[name]
    scale = np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    augmented = blobs(matrix, sigma_m=3 * scale)  # blobs grow with the scale, so the warp back gives the original size
    warped = warp_to_canonical(augmented, torch.tensor(matrix, dtype=torch.float32)[None], (-R, -R, R, R))
    expected = blobs(np.eye(4), sigma_m=3)
    error = (warped - expected).abs().sum() / expected.abs().sum()
    wrong = (augmented - expected).abs().sum() / expected.abs().sum()
    assert error < 0.02 < wrong


def guidance(*overrides: str) -> PointGuidance:
    config = tiny_config(*overrides)
    return PointGuidance(config, torch.full((10,), 1.6), same_on_all_ranks)


def test_mask_is_one_at_the_clicks_and_gaussian_around() -> None:
    batch = make_batch(clicks=3)
    mask = guidance().mask(batch, 32, 32)
    for b in range(2):
        for click in batch.canonical_click[b]:
            column, row = ((click[:2] + 12.8) / 0.8).floor().long().tolist()
            assert mask[b, row, column] == 1
            if column + 2 < 32:  # sigma 1.6 m = 2 cells
                assert mask[b, row, column + 2] >= np.exp(-0.5) - 1e-6
    assert (mask == 1).sum() <= 6 and mask.max() <= 1


def test_mask_of_an_invalid_or_distant_click_is_empty() -> None:
    batch = make_batch(clicks=1)
    assert guidance().mask(change(batch, click_valid=torch.zeros(2, 1, dtype=torch.bool)), 32, 32).sum() == 0
    assert guidance().mask(change(batch, canonical_click=torch.full((2, 1, 3), 50.0)), 32, 32).sum() == 0


KINDS = ["full", "partial", "gaussian", "box", "segmentation"]


def test_loss_by_hand() -> None:
    """Opposite features give 2 - 2 cos = 4 per cell, weighted by the Gaussians, summed and divided by the clicks.

    Equal features give 0. Sigma is 1.6 m, which is 2 cells, and the Gaussian reaches 6 cells to each side, so its mass
    is (sum of exp(-i^2 / 8) over -6 .. 6)^2 = 25.1.
    """
    mass = sum(np.exp(-(i**2) / 8) for i in range(-6, 7)) ** 2
    assert mass == pytest.approx(2 * np.pi * 4, rel=0.01)
    apart = torch.tensor([[[-8.0, -6, 0], [7, 5, 0], [0, 0, 0]], [[-6.0, 6, 0], [0, 0, 0], [0, 0, 0]]])
    valid = torch.tensor([[True, True, False], [True, False, False]])
    batch = change(make_batch(clicks=3), canonical_click=apart, click_valid=valid)
    term, strong = guidance("student.guidance_weight=0.5"), torch.randn(2, 8, 32, 32)
    assert term(strong, -strong, batch).item() == pytest.approx(0.5 * 4 * mass, rel=1e-5)
    assert term(strong, strong, batch).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_weigh_as_much_as_the_gaussians_of_the_clicks(kind: str) -> None:
    batch, strong = make_batch(clicks=8), torch.randn(2, 8, 32, 32)
    expected = guidance()(strong, -strong, batch)
    got = guidance(f"student.guidance={kind}")(strong, -strong, batch)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_normalizers_are_those_of_all_ranks(kind: str) -> None:
    """The losses of two ranks, each divided by the means over ranks, average to the loss of the whole batch."""
    batch, term = make_batch(clicks=8), guidance(f"student.guidance={kind}")
    batch = change(
        batch,
        click_valid=batch.click_valid & (torch.arange(8) < torch.tensor([[8], [3]])),
        box_valid=batch.box_valid & (torch.arange(8) < torch.tensor([[8], [3]])),
        weak_points=torch.cat([batch.weak_points[:400], batch.weak_points[400:] * torch.tensor([0.3, 0.3, 1, 1, 1])]),
    )
    strong, weak = torch.randn(2, 2, 8, 32, 32)
    masses, gaussians = term.mask(batch, 32, 32).sum((1, 2)), term.gaussians(batch, 32, 32).sum((1, 2))
    assert kind == "full" or masses[0] > 1.2 * masses[1] > 0
    halves = []
    for i in range(2):
        means = {masses[i]: masses.mean(), gaussians[i]: gaussians.mean(), 1.0 * (8, 3)[i]: torch.tensor(5.5)}
        mean_of = {round(float(own), 3): mean for own, mean in means.items()}
        one = PointGuidance(term.config, term.sigma_m, lambda own, known=mean_of: known[round(own.item(), 3)])
        halves.append(one(strong[i : i + 1], weak[i : i + 1], one_sample(batch, i)).item())
    assert sum(halves) / 2 == pytest.approx(term(strong, weak, batch).item(), rel=1e-5)


def test_half_precision_does_not_blur_the_places() -> None:
    """Under autocast the sampling grid stays in float32: bf16 has only 8 bits for 32 cells and their fractions."""
    batch, (strong, weak) = make_batch(), torch.randn(2, 2, 8, 32, 32).bfloat16()
    batch = change(batch, augmentation=torch.tensor(CASES["product"], dtype=torch.float32).repeat(2, 1, 1))
    expected = guidance()(strong.float(), weak.float(), batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(guidance()(strong, weak, batch), expected)


def test_partial_guidance_looks_at_the_drawn_clicks() -> None:
    batch = make_batch(clicks=8)
    batch = change(batch, click=batch.click + 0.3)  # augmented clicks; the mask lies at the original ones
    drawn = drawn_clicks(batch.click, 0.4)
    assert 0 < drawn.sum() < 16
    expected = guidance().mask(change(batch, click_valid=drawn), 32, 32)
    term = guidance("student.guidance=partial", "student.guidance_click_share=0.4")
    assert torch.equal(term.mask(batch, 32, 32), expected)
    nobody = change(batch, click_valid=torch.zeros(2, 8, dtype=torch.bool))
    assert term.mask(nobody, 32, 32).sum() == 0


def test_box_and_segmentation_guidance_look_at_the_head_grid() -> None:
    batch, grid = make_batch(), Grid((-12.8, -12.8), 0.8, 32, 32)
    assert torch.equal(guidance("student.guidance=box").mask(batch, 32, 32), box_mask(batch, grid))
    assert torch.equal(guidance("student.guidance=segmentation").mask(batch, 32, 32), foreground_mask(batch, grid))


def test_ramp_by_hand() -> None:
    assert [ramp_of(0.4, share) for share in (0, 0.1, 0.4, 0.9)] == [0, 0.25, 1, 1]
    assert ramp_of(0, 0) == 1


def test_full_guidance_looks_everywhere() -> None:
    assert guidance("student.guidance=full").mask(make_batch(), 32, 32).min() == 1


def test_guidance_changes_the_features() -> None:
    batch = make_batch()
    flip = torch.tensor([-1.0, 1, 1, 1])
    batch = change(
        batch, points=batch.points * torch.tensor([-1.0, 1, 1, 1, 1]), augmentation=torch.diag(flip).repeat(2, 1, 1)
    )  # fmt: skip
    gradients = []
    for on in (True, False):
        task = build("student", tiny_config("student.guidance_weight=1"), FALLBACK_SIZE_M, guidance=on)
        terms = task.losses(task.model(batch), batch, same_on_all_ranks)
        assert ("guidance" in terms) == on
        sum(terms.values()).backward()
        gradients.append(task.model.neck.blocks[0][0].weight.grad.clone())
    assert (gradients[0] - gradients[1]).abs().max() > 1e-4


def test_weak_pass_leaves_batch_statistics_alone() -> None:
    task, batch = build("student", tiny_config("model.norm=batch"), FALLBACK_SIZE_M), make_batch()
    model = task.model.train()
    with torch.no_grad(), statistics_held(model):
        before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
        model.features(batch.points, batch.point_sample, 2)
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    model.features(batch.points, batch.point_sample, 2)
    assert any(not torch.equal(before[k], model.state_dict()[k]) for k in before)
