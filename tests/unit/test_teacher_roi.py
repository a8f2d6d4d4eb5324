"""Tests of D-RoI by hand: sampling places, visibility, one softmax over all samples, missing cameras."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pdetr3d.batch import Batch
from pdetr3d.geometry.tensors import box_corners, project
from pdetr3d.models.fusion import CameraPoint
from pdetr3d.models.roi_fusion import CameraRoI, LidarRoI, SampleWeights, Views
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train_step
from pdetr3d.training.optim import make_optimizer
from pdetr3d.training.plan import Plan
from tests.model_cases import FUSIONS, change, make_batch, ring_cameras, shaken, tiny_config
from tests.reference.model_oracles import bilinear

FOCAL = 32 / math.tan(math.pi / 6)  # of ring_cameras, 64 x 32 px: 55.43 px
FRONT = torch.arange(6) == 0
# The maps cover 64 x 32 px, of which the image is the left 50 columns and the upper 30 rows.
PADDED = Views(ring_cameras()[None], FRONT[None], torch.tensor([50.0, 30.0]), torch.tensor([64.0, 32.0]))


def at_column(u: float, depth: float = 10.0) -> list[float]:
    """A point at sensor height whose pixel in the front camera is (u, 16)."""
    return [depth, (32 - u) * depth / FOCAL, 0.0]


def as_it_is(module: LidarRoI | CameraRoI) -> None:
    """Set values and output to the identity, equal weights for all samples, and offsets of zero."""
    with torch.no_grad():
        for layer in (*module.value, module.output):
            layer.weight.copy_(torch.eye(2).view_as(layer.weight))
            layer.bias.zero_()
        module.weights.linear.bias.zero_()


@pytest.mark.parametrize("fusion", ["concat", "d_roi"])
def test_padding_is_not_in_view(fusion: str) -> None:
    """Images of 50 x 30 px are padded to 64 x 32 px: pixel 45 belongs to the image, pixel 55 to the padding."""
    model = shaken(build("teacher", tiny_config(*FUSIONS[fusion]), FALLBACK_SIZE_M).model)
    batch = make_batch(samples=1, clicks=2)
    click = torch.tensor([[at_column(45), at_column(55)]])
    batch = change(batch, images=batch.images[:, :, :30, :50], click=click, camera_valid=FRONT[None])
    with torch.no_grad():
        one, other = (model(b).box[-1][0] for b in (batch, change(batch, images=255 - batch.images)))
    assert (one[0] - other[0]).abs().max() > 1e-4
    assert torch.equal(one[1], other[1])


def test_concat_samples_the_click_where_the_padded_maps_show_it() -> None:
    module, maps = CameraPoint(3, levels=1), torch.rand(1, 6, 3, 16, 32)  # stride 2
    with torch.no_grad():
        module.output.weight.copy_(torch.eye(3))
        module.output.bias.zero_()
        got = module(torch.zeros(1, 1, 3), torch.tensor([[[*at_column(45), 1, 1, 1, 0]]]), [maps], PADDED)
    expected = bilinear(maps[0, 0].numpy(), 45 / 2, 16 / 2)
    torch.testing.assert_close(got[0, 0].double(), torch.tensor(expected), atol=1e-5, rtol=0)


def test_the_roi_is_clipped_to_the_image_and_normalized_by_what_the_maps_cover() -> None:
    """A flat board, 4 m wide and 2 m high, is 10 m ahead and covers 44.3 x 11.1 px round pixel (43.1, 16)."""
    module = CameraRoI(2, 1, 1, roi_grid=2, free_points=0)
    roi = torch.tensor([[[10.0, -2, 0, 1e-6, 4, 2, 0]]])
    center, _ = project(PADDED.lidar2img, roi[..., :3])
    place = module.roi_places(PADDED, roi, center)[0, 0, 0]
    left, right = 32.0, 50.0  # the board's right edge is at 32 + 55.4 * 4 / 10 = 54.2
    columns = [left + (right - left) / 4, left + (right - left) * 3 / 4]
    rows = [16 - FOCAL / 10 / 2, 16 + FOCAL / 10 / 2]  # half of the upper half, of the lower
    expected = torch.tensor([[u / 64, v / 32] for v in rows for u in columns], dtype=torch.float32)
    torch.testing.assert_close(place, expected, atol=1e-5, rtol=0)


def test_the_grid_of_a_near_box_is_centered_on_its_click() -> None:
    """A car stands across, 8 m ahead. Its near side looks larger, so the middle of its corners is not the click."""
    module, size = CameraRoI(2, 1, 1, roi_grid=1, free_points=0), torch.tensor([640.0, 320.0])
    lidar2img = ring_cameras(640, 320)[None]
    roi = torch.tensor([[[8.0, -1.0, -0.5, 4.6, 1.9, 1.7, 0.8]]])
    center, _ = project(lidar2img, roi[..., :3])
    place = module.roi_places(Views(lidar2img, FRONT[None], size, size), roi, center)[0, 0, 0, 0] * size
    click = torch.tensor([320 + 10 * FOCAL * 1 / 8, 160 + 10 * FOCAL * 0.5 / 8])
    torch.testing.assert_close(place, click, atol=1e-3, rtol=0)
    corners = project(lidar2img, box_corners(roi))[0][0, 0, 0]
    assert ((corners.amin(0) + corners.amax(0)) / 2 - click).abs().max() > 3


def test_samples_share_one_softmax_of_those_that_are_valid() -> None:
    weights = SampleWeights(2, heads=1, levels=2, samples=2)
    with torch.no_grad():
        weights.linear.bias.copy_(torch.tensor([1.0, 2, 3, 4]).log())
    valid = torch.tensor([[True, True], [False, True]])
    got = weights(torch.zeros(1, 1, 2), valid)[0, 0, 0]
    torch.testing.assert_close(got, torch.tensor([[1 / 7, 2 / 7], [0, 4 / 7]]))
    assert torch.equal(weights(torch.zeros(1, 1, 2), ~valid & False), torch.zeros(1, 1, 1, 2, 2))


def test_camera_samples_that_offsets_push_out_of_the_image_have_no_weight() -> None:
    """Of four samples one moves into the padding and one off the map; the other two, and so their mean, read 1."""
    module = CameraRoI(2, 1, 1, roi_grid=2, free_points=0)
    as_it_is(module)
    maps = torch.full((1, 6, 2, 32, 64), 100.0)
    maps[..., :50] = 1
    roi = torch.tensor([[[*at_column(40), 1e-6, 1, 1, 0]]])
    query = torch.ones(1, 1, 2, requires_grad=True)
    offset = module.roi_offset.bias.data.view(4, 2)  # in cells, which are pixels here
    offset[1], offset[2] = torch.tensor([14.0, 0]), torch.tensor([0, -100.0])
    torch.testing.assert_close(module(query, roi, [maps], PADDED), torch.ones(1, 1, 2))
    offset[:] = 100
    nothing = module(query, roi, [maps], PADDED)
    nothing.sum().backward()
    assert torch.equal(nothing, torch.zeros(1, 1, 2))
    assert all(p.grad is None or p.grad.isfinite().all() for p in [query, *module.parameters()])


def test_lidar_samples_out_of_range_have_no_weight() -> None:
    """For a click at the end of the range half of its grid lies outside, and the other half reads the map unchanged."""
    module = LidarRoI(2, 1, 1, roi_grid=2, free_points=0)
    as_it_is(module)
    maps, range_m = torch.full((1, 2, 16, 16), 3.0), torch.tensor([-8.0, -8, 8, 8])
    roi = torch.tensor([[[7.0, 0, 0, 6, 6, 2, 0]], [[30.0, 0, 0, 6, 6, 2, 0]]])  # x = 5.5 and 8.5; far outside
    for box, expected in zip(roi, (3.0, 0.0), strict=True):
        got = module(torch.ones(1, 1, 2), box[None], [maps], range_m)
        torch.testing.assert_close(got, torch.full((1, 1, 2), expected))


def test_projection_is_exact_under_autocast() -> None:
    points = torch.tensor([[at_column(40, 50.0), at_column(10, 33.0)]])
    with torch.autocast("cpu", torch.bfloat16):
        pixel, depth = project(PADDED.lidar2img, points)
    torch.testing.assert_close(pixel[0, 0], torch.tensor([[40.0, 16], [10, 16]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(depth[0, 0], torch.tensor([50.0, 33]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("fusion", ["concat", "d_roi"])
@pytest.mark.parametrize("missing", [[0, 3], range(6)], ids=["two", "all"])
def test_a_training_step_without_cameras(fusion: str, missing: list[int], tmp_path: Path) -> None:
    """The losses are finite and do not depend on the content of a missing camera's slot."""
    batch = make_batch()
    batch.camera_valid[:, missing] = False
    noise = batch.images.clone()
    noise[:, missing] = 255 - noise[:, missing]
    terms, gradients = one_step(fusion, batch, tmp_path)
    other_terms, other = one_step(fusion, change(batch, images=noise), tmp_path)
    assert all(value.isfinite() for value in terms.values()) and terms["grad_norm"] > 0
    torch.testing.assert_close(other_terms, terms)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    camera = {name: g for name, g in gradients.items() if ".camera." in name}
    assert camera and any(bool(g.abs().sum() > 0) for g in camera.values()) == (len(missing) < 6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(other[name], gradient, msg=name)


def one_step(fusion: str, batch: Batch, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Loss terms and gradients of a new teacher's first step, with noise on its zero-initialized layers."""
    task = build("teacher", tiny_config(*FUSIONS[fusion]), FALLBACK_SIZE_M)
    shaken(task.model).train()
    context = LocalContext([], Plan(2, 2, 1, 0), task.loader, folder)
    terms = train_step(task.model, make_optimizer(task.model, task.optim), task, batch, context, rate=1e-3)
    return terms, {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}
