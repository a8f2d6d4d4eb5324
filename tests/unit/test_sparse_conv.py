"""Tests of sparse convolution: against dense convolution, forward and backward, and against mmcv if installed."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from pdetr3d.models.sparse_conv import (
    SUBMANIFOLD,
    Kernel,
    MmcvRules,
    SparseTensor,
    TorchRules,
    cells_of,
    flat_index,
    make_rules,
)

STRIDED = Kernel((3, 3, 3), (2, 2, 2), (1, 1, 1), submanifold=False)
KERNELS = {
    "submanifold": SUBMANIFOLD,
    "strided": STRIDED,
    "strided, z not padded": Kernel((3, 3, 3), (2, 2, 2), (0, 1, 1), submanifold=False),
    "along z alone": Kernel((3, 1, 1), (2, 1, 1), (0, 0, 0), submanifold=False),
}
SHAPE = (5, 6, 8)
# Active cells per sample: some, one sample empty, one voxel, none, all of them.
FILLED = {"some": (40, 25), "a sample without": (0, 30), "one voxel": (1, 0), "none": (0, 0), "all": (240, 240)}


def sparse_case(filled: tuple[int, ...], channels: int = 3, seed: int = 0) -> SparseTensor:
    """Random features (double) at random cells."""
    g = torch.Generator().manual_seed(seed)
    volume = SHAPE[0] * SHAPE[1] * SHAPE[2]
    index = torch.cat(
        [i * volume + torch.randperm(volume, generator=g)[:n].sort().values for i, n in enumerate(filled)]
    )
    features = torch.randn(len(index), channels, generator=g, dtype=torch.double)
    return SparseTensor(features, cells_of(index, SHAPE), SHAPE, len(filled))


def random_weight(kernel: Kernel, inputs: int = 3, outputs: int = 4) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randn(*kernel.size, inputs, outputs, generator=g, dtype=torch.double)


def dense_convolution(inputs: SparseTensor, weight: torch.Tensor, kernel: Kernel) -> torch.Tensor:
    """conv3d of the dense tensor, set to zero at cells that are not active in the sparse output."""
    filters = weight.permute(4, 3, 0, 1, 2)
    output = F.conv3d(inputs.dense(), filters, stride=kernel.stride, padding=kernel.padding)
    return output * reached(inputs, kernel)[:, None]


def reached(inputs: SparseTensor, kernel: Kernel) -> torch.Tensor:
    """(B, D, H, W) bool: which output cells are active, by plain loops over taps."""
    active = torch.zeros(inputs.batch_size, *kernel.output_shape(inputs.shape), dtype=torch.bool)
    for sample, *cell in inputs.cells.tolist():
        if kernel.submanifold:
            active[sample, cell[0], cell[1], cell[2]] = True
            continue
        for tap in product(*map(range, kernel.size)):
            shifted = [n + p - k for n, p, k in zip(cell, kernel.padding, tap, strict=True)]
            at = [n // s for n, s in zip(shifted, kernel.stride, strict=True)]
            divides = all(n % s == 0 for n, s in zip(shifted, kernel.stride, strict=True))
            if divides and all(0 <= n < size for n, size in zip(at, active.shape[1:], strict=True)):
                active[sample, at[0], at[1], at[2]] = True
    return active


@pytest.mark.parametrize("filled", FILLED.values(), ids=FILLED)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_equals_dense_convolution_forward_and_backward(kernel: Kernel, filled: tuple[int, ...]) -> None:
    inputs, weight = sparse_case(filled), random_weight(kernel)
    rules = make_rules(inputs, kernel)
    got = gradients(inputs, weight, lambda x, w: SparseTensor(
        rules.convolve(x.features, w), rules.cells, rules.shape, x.batch_size).dense())  # fmt: skip
    expected = gradients(inputs, weight, lambda x, w: dense_convolution(x, w, kernel))
    assert got[0].shape == (2, 4, *kernel.output_shape(SHAPE))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


def gradients(inputs: SparseTensor, weight: torch.Tensor, convolve) -> tuple[torch.Tensor, ...]:
    """The dense output, and the gradients of features and weight of its product with fixed random numbers."""
    features, weight = inputs.features.clone().requires_grad_(), weight.clone().requires_grad_()
    output = convolve(SparseTensor(features, inputs.cells, inputs.shape, inputs.batch_size), weight)
    factor = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    return output.detach(), *torch.autograd.grad((output * factor).sum(), (features, weight))


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_output_cells_are_those_in_reach_in_order(kernel: Kernel) -> None:
    inputs = sparse_case((7, 12))
    rules = make_rules(inputs, kernel)
    assert rules.cells.tolist() == torch.nonzero(reached(inputs, kernel)).tolist()
    assert rules.shape == kernel.output_shape(SHAPE)


def test_two_voxels_by_hand() -> None:
    """Along x: voxels 0 and 1 with 10 and 20; taps (left, center, right) 1, 2, 3, all else 0.

    Submanifold: cell 0 sees itself and its right neighbor: 2 * 10 + 3 * 20; cell 1: 1 * 10 + 2 * 20.
    Stride 2, padding 1: cell 0 covers x = -1, 0, 1 as cell 0 above; cell 1 covers x = 1, 2, 3: 1 * 20.
    """
    inputs = SparseTensor(torch.tensor([[10.0], [20.0]]), torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]]), (1, 1, 6), 1)
    weight = torch.zeros(3, 3, 3, 1, 1)
    weight[1, 1, :, 0, 0] = torch.tensor([1.0, 2, 3])
    rules = make_rules(inputs, SUBMANIFOLD)
    assert rules.convolve(inputs.features, weight)[:, 0].tolist() == [80, 50]
    rules = make_rules(inputs, STRIDED)
    assert rules.shape == (1, 1, 3) and rules.cells.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
    assert rules.convolve(inputs.features, weight)[:, 0].tolist() == [80, 20]


def test_flat_index_and_cells_are_inverse() -> None:
    cells = torch.tensor([[0, 0, 0, 0], [0, 4, 5, 7], [1, 2, 3, 4]])
    assert flat_index(cells, SHAPE).tolist() == [0, 239, 240 + (2 * 6 + 3) * 8 + 4]
    assert torch.equal(cells_of(flat_index(cells, SHAPE), SHAPE), cells)


@pytest.mark.gpu
@pytest.mark.compiled_ops
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_mmcv_equals_the_twin_forward_and_backward(kernel: Kernel) -> None:
    inputs = sparse_case((40, 25))
    inputs = SparseTensor(inputs.features.float().cuda(), inputs.cells.cuda(), SHAPE, 2)
    weight = random_weight(kernel).float().cuda()
    results = []
    for engine in (MmcvRules, TorchRules):
        rules = engine(inputs, kernel)
        features, filters = inputs.features.clone().requires_grad_(), weight.clone().requires_grad_()
        output = SparseTensor(rules.convolve(features, filters), rules.cells, rules.shape, 2).dense()
        factor = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).cuda()
        results.append((output.detach(), *torch.autograd.grad((output * factor).sum(), (features, filters))))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    assert isinstance(make_rules(inputs, kernel), MmcvRules)  # these kernels are used here


@pytest.mark.gpu
@pytest.mark.compiled_ops
def test_weights_are_those_of_mmcvs_modules() -> None:
    from mmcv.ops import SparseConv3d, SparseConvTensor, SubMConv3d

    inputs = sparse_case((40, 25))
    theirs_in = SparseConvTensor(inputs.features.float().cuda(), inputs.cells.int().cuda(), list(SHAPE), 2)
    modules = {SUBMANIFOLD: SubMConv3d(3, 4, 3, bias=False), STRIDED: SparseConv3d(3, 4, 3, 2, 1, bias=False)}
    for kernel, module in modules.items():
        expected = module.cuda()(theirs_in).dense().cpu()
        rules = TorchRules(inputs, kernel)
        rows = rules.convolve(inputs.features.float(), module.weight.detach().cpu())
        got = SparseTensor(rows, rules.cells, rules.shape, 2).dense()
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
