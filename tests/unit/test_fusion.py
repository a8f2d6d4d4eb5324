"""Tests of the plain camera branch: one pixel per level and view, averaged over the views that see the point."""

import numpy as np
import pytest
import torch

from pdetr3d.models.fusion import CameraPoint
from pdetr3d.models.roi_fusion import Views
from tests.model_cases import ring_cameras
from tests.reference.model_oracles import bilinear

SIZE = torch.tensor([64.0, 32.0])
POINTS = torch.tensor([[[20.0, 3.0, 1.0], [-15.0, 4.0, -2.0], [0.0, 0.0, 30.0]]])  # front, rear, above all cameras


def branch() -> CameraPoint:
    """A branch on two levels of 3 channels whose output is the sum of both levels."""
    module = CameraPoint(3, levels=2)
    with torch.no_grad():
        module.output.weight.copy_(torch.eye(3).repeat(1, 2))
        module.output.bias.zero_()
    return module


def look(lidar2img: torch.Tensor, valid: torch.Tensor, maps: list[torch.Tensor]) -> np.ndarray:
    roi = torch.cat([POINTS, torch.ones(1, 3, 4)], -1)
    views = Views(lidar2img[None], valid[None], SIZE, SIZE)
    return branch()(torch.zeros(1, 3, 3), roi, maps, views).detach().numpy()[0]


def case() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(0)
    maps = [torch.randn(1, 6, 3, 16, 32), torch.randn(1, 6, 3, 8, 16)]  # strides 2 and 4
    return ring_cameras(), torch.ones(6, dtype=torch.bool), maps


def expected_from(view: int, point: int, maps: list[torch.Tensor]) -> np.ndarray:
    image = ring_cameras()[view].numpy() @ np.append(POINTS[0, point].numpy(), 1)
    u, v = image[:2] / image[2]
    return sum(bilinear(m[0, view].numpy(), u / s, v / s) for m, s in zip(maps, (2, 4), strict=True))


@pytest.mark.parametrize(("point", "view"), [(0, 0), (1, 3)])
def test_samples_the_projected_point_of_every_level(point: int, view: int) -> None:
    np.testing.assert_allclose(look(*case())[point], expected_from(view, point, case()[2]), atol=1e-4)


def test_mean_over_the_views_that_see_it() -> None:
    views, valid, maps = case()
    views[1] = views[0]  # two cameras at one place with pictures of their own
    expected = (expected_from(0, 0, maps) + expected_from(0, 0, [m.roll(-1, 1) for m in maps])) / 2
    np.testing.assert_allclose(look(views, valid, maps)[0], expected, atol=1e-4)
    np.testing.assert_allclose(
        look(views, valid & (torch.arange(6) != 1), maps)[0], expected_from(0, 0, maps), atol=1e-4
    )


def test_nothing_where_no_camera_sees() -> None:
    views, valid, maps = case()
    assert (look(views, valid, maps)[2] == 0).all()
    assert (look(views, ~valid, maps) == 0).all()
