"""Deformable sampling against a plain loop, forward and backward."""

import numpy as np
import torch

from pdetr3d.models.deformable import deformable_sample, grid_offsets
from tests.reference.model_oracles import deformable


def case() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    values = [torch.randn(2, 6, 5, 7, dtype=torch.double), torch.randn(2, 6, 3, 4, dtype=torch.double)]
    location = torch.rand(2, 3, 2, 2, 4, 2, dtype=torch.double) * 1.4 - 0.2  # some fall outside
    return values, location, torch.rand(2, 3, 2, 2, 4, dtype=torch.double)


def test_equals_a_plain_loop() -> None:
    values, location, weight = case()
    got = deformable_sample(values, location, weight)
    expected = deformable([v.numpy() for v in values], location.numpy(), weight.numpy())
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


def test_gradients_equal_finite_differences() -> None:
    values, location, weight = case()
    location = location * 0.6 + 0.2  # away from the border, where bilinear sampling has a kink
    inputs = [
        values[0][:1].clone().requires_grad_(),
        location[:1, :1].clone().requires_grad_(),
        weight[:1, :1].clone().requires_grad_(),
    ]
    assert torch.autograd.gradcheck(
        lambda v, p, w: deformable_sample([v, values[1][:1]], p, w), inputs, eps=1e-6, atol=1e-5
    )


def test_zero_queries() -> None:
    values, location, weight = case()
    assert deformable_sample(values, location[:, :0], weight[:, :0]).shape == (2, 0, 6)


def test_grid_of_cell_centers_by_hand() -> None:
    assert grid_offsets(1).tolist() == [[0, 0]]
    np.testing.assert_allclose(grid_offsets(2).numpy(), [[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]])
