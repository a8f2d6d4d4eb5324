"""Deformable sampling against a plain loop and mmcv, forward and backward."""

import numpy as np
import pytest
import torch

from pdetr3d.models import deformable as module
from pdetr3d.models.deformable import deformable_sample, grid_offsets
from tests.reference.mmcv_deformable import flatten_maps, mmcv_deformable
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


def with_gradients(sample) -> list[torch.Tensor]:
    """Output of ``sample(values, location, weight)`` and its gradients with respect to the three arguments."""
    values, location, weight = case()
    inputs = [*values, location, weight]
    for tensor in inputs:
        tensor.requires_grad_()
    output = sample(values, location, weight)
    (output * torch.arange(output.numel()).view_as(output)).sum().backward()
    return [output, *(tensor.grad for tensor in inputs)]


def by_mmcv(values, location, weight) -> torch.Tensor:
    value, shapes = flatten_maps(values, heads=2)
    return mmcv_deformable()(value, shapes, location, weight)


def test_outputs_and_gradients_equal_mmcvs_pytorch_code() -> None:
    for got, expected in zip(with_gradients(deformable_sample), with_gradients(by_mmcv), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)


class KernelByContract:
    """Stand-in for mmcv's ``MultiScaleDeformableAttnFunction``: checks its arguments and computes in PyTorch."""

    @staticmethod
    def apply(value, shapes, first, location, weight, step) -> torch.Tensor:
        assert value.is_contiguous() and location.is_contiguous() and weight.is_contiguous()
        assert value.dtype == location.dtype == weight.dtype == torch.float32 and shapes.dtype == torch.long
        assert len(value) % step == 0 and first.tolist() == [0, int(shapes[0].prod())]
        return mmcv_deformable()(value, [tuple(s) for s in shapes.tolist()], location, weight)


def test_arguments_of_the_kernel_mean_what_mmcv_documents() -> None:
    def by_kernel(values, location, weight) -> torch.Tensor:
        return module.by_kernel(KernelByContract, values, location, weight)

    for got, expected in zip(with_gradients(by_kernel), with_gradients(deformable_sample), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)  # float32 against float64


@pytest.mark.gpu
@pytest.mark.compiled_ops
def test_kernel_equals_its_twin() -> None:
    assert module.cuda_kernel() is not None

    def on_gpu(values, location, weight) -> torch.Tensor:
        return deformable_sample(
            [v.float().cuda() for v in values], location.float().cuda(), weight.float().cuda()
        ).cpu()

    for got, expected in zip(with_gradients(on_gpu), with_gradients(deformable_sample), strict=True):
        torch.testing.assert_close(got.double(), expected, atol=1e-3, rtol=1e-4)


def test_zero_queries() -> None:
    values, location, weight = case()
    assert deformable_sample(values, location[:, :0], weight[:, :0]).shape == (2, 0, 6)


def test_grid_of_cell_centers_by_hand() -> None:
    assert grid_offsets(1).tolist() == [[0, 0]]
    np.testing.assert_allclose(grid_offsets(2).numpy(), [[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]])
