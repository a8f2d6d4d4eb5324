"""Tests of voxels, against a plain loop and by hand, and of the sparse encoder against dense convolutions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d import presets
from pdetr3d.models.sparse_conv import SUBMANIFOLD, SparseTensor, cells_of
from pdetr3d.models.sparse_encoder import ResidualBlock, SparseConv, SparseEncoder
from pdetr3d.models.voxels import VoxelEncoder
from tests.model_cases import make_batch, tiny_config

# 64 x 64 x 20 voxels on the tiny range, encoded to 16 x 16 cells of 1.6 m: z 21 -> 11 -> 5 -> 2.
VOXELS = ["model.lidar=voxel", "model.voxel_m=[0.4,0.4,0.4]", "model.voxel_channels=[4,6,8]"]


def encoder(*overrides: str) -> VoxelEncoder:
    torch.manual_seed(0)
    return VoxelEncoder(tiny_config(*VOXELS, *overrides).model)


def plain_voxels(
    points: np.ndarray, sample: np.ndarray, size: tuple[float, float, float], most: int, cap: int
) -> dict[tuple[int, ...], np.ndarray]:
    """(sample, z, y, x) -> mean point: first ``most`` points of a voxel, first ``cap`` voxels of a sample."""
    voxels: dict[tuple[int, ...], list[np.ndarray]] = {}
    opened: dict[int, int] = {}
    for point, b in zip(points, sample.tolist(), strict=True):
        x, y, z = (math.floor((p - low) / s) for p, low, s in zip(point[:3], (-12.8, -12.8, -5), size, strict=True))
        if not (0 <= x < 64 and 0 <= y < 64 and 0 <= z < 20):
            continue
        cell = (b, z, y, x)
        if cell not in voxels:
            if opened.get(b, 0) == cap:
                continue
            opened[b] = opened.get(b, 0) + 1
            voxels[cell] = []
        if len(voxels[cell]) < most:
            voxels[cell].append(point)
    return {cell: np.mean(rows, 0) for cell, rows in voxels.items()}


@pytest.mark.parametrize(("most", "cap"), [(10, 1000), (2, 1000), (3, 20)])
def test_voxels_equal_a_plain_loop(most: int, cap: int) -> None:
    batch = make_batch(points=300)
    # Half of the points crowd round the sensor, some lie outside; samples come interleaved.
    points = batch.points * torch.where(torch.arange(600) % 2 == 0, 0.1, 1.2)[:, None]
    sample = torch.arange(600) // 3 % 2
    got = encoder(f"model.voxel_points={most}", f"model.max_voxels=[{cap},5]").voxelize(points, sample, 2)
    expected = plain_voxels(points.double().numpy(), sample.numpy(), (0.4, 0.4, 0.4), most, cap)
    assert [tuple(cell) for cell in got.cells.tolist()] == sorted(expected)
    means = np.array([expected[cell] for cell in sorted(expected)])
    means /= [12.8, 12.8, 1, 255, 0.2]  # as pillars scale them
    np.testing.assert_allclose(got.features, means, atol=2e-6)
    assert got.shape == (21, 64, 64) and got.batch_size == 2
    if cap == 20:
        assert torch.bincount(got.cells[:, 0]).tolist() == [20, 20]


def test_caps_by_hand() -> None:
    """x identifies the voxel (0.2 m in cell 32, 0.6 m in 33, ...) and z the point; the first points and voxels stay."""
    points = torch.zeros(7, 5)
    points[:, 0] = torch.tensor([1.0, 0.2, 1.0, 0.2, 1.0, 0.6, 0.6])
    points[:, 2] = torch.tensor([0.01, 0.02, 0.03, 0.04, 0.09, 0.05, 0.06])
    model = encoder("model.voxel_points=2", "model.max_voxels=[2,3]")
    sample = torch.zeros(7, dtype=torch.long)
    training = model.train().voxelize(points, sample, 1)
    assert training.cells[:, 3].tolist() == [32, 34]
    torch.testing.assert_close(training.features[:, 2], torch.tensor([0.03, 0.02]))  # (2 + 4) / 2, (1 + 3) / 2
    inference = model.eval().voxelize(points, sample, 1)
    assert inference.cells[:, 3].tolist() == [32, 33, 34]


def test_points_outside_are_dropped() -> None:
    """The range ends at z = 3, so the grid's extra layer stays empty."""
    points = torch.tensor([[12.81, 0, 0, 1, 0], [0, 0, 3.0, 1, 0], [0, 0, 2.99, 1, 0], [0, -12.81, 0, 1, 0.0]])
    got = encoder().voxelize(points, torch.zeros(4, dtype=torch.long), 1)
    assert got.cells.tolist() == [[0, 19, 32, 32]]


@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
@pytest.mark.parametrize("points", [0, 1])
def test_no_point_and_one_point_train_every_parameter(points: int, norm: str) -> None:
    """Batch norm would fail on such clouds, and DDP needs a gradient for every parameter."""
    model = encoder(f"model.norm={norm}").train()
    bev = model(torch.full((points, 5), 0.1), torch.zeros(points, dtype=torch.long), 2)
    assert bev.shape == (2, 16, 16, 16) and bev.isfinite().all()
    assert bool(bev.abs().sum() > 0) == (points > 0)
    bev.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_rows_are_y_and_columns_are_x() -> None:
    points = torch.tensor([[12.7, -12.7, 0, 10, 0]])
    bev = encoder()(points, torch.tensor([0]), 1)
    rows, columns = torch.nonzero(bev[0].abs().sum(0), as_tuple=True)
    assert rows.max() <= 1 and columns.min() >= 14


def test_size_of_the_full_preset() -> None:
    """method.md 2.2: 41 x 1024 x 1024 voxels -> 2 slices of 128 channels at stride 8."""
    model = VoxelEncoder(presets.NUSCENES_VOXEL.model)
    batch = make_batch(points=200)
    bev = model(batch.points * torch.tensor([4.0, 4, 1, 1, 1]), batch.point_sample, 2)
    assert bev.shape == (2, 256, 128, 128) and bev.abs().sum() > 0
    # SECOND's residual encoder at 5 input channels, without biases: counted layer by layer.
    convolutions = 27 * (5 * 16 + 4 * (16**2 + 32**2 + 64**2 + 128**2) + 16 * 32 + 32 * 64 + 64 * 128) + 3 * 128**2
    norms = 2 * (16 + 4 * (16 + 32 + 64 + 128) + 32 + 64 + 128 + 128)
    assert sum(p.numel() for p in model.parameters()) == convolutions + norms


def test_encoder_equals_dense_convolutions() -> None:
    """Outputs and gradients are equal, with norms that have non-trivial statistics."""
    torch.manual_seed(0)
    model = SparseEncoder(5, (4, 6, 8), "batch").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean), nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    shape = (21, 16, 24)
    index = torch.randperm(2 * math.prod(shape))[:150].sort().values
    voxels = SparseTensor(torch.randn(150, 5), cells_of(index, shape), shape, 2)
    sparse, dense = model(voxels), dense_encoder(model, voxels)
    assert sparse.shape == (2, 16, 4, 6)
    torch.testing.assert_close(sparse, dense, atol=1e-5, rtol=1e-4)
    factor, parameters = torch.randn(sparse.shape), list(model.parameters())
    ours = torch.autograd.grad((sparse * factor).sum(), parameters)
    theirs = torch.autograd.grad((dense * factor).sum(), parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max() + 1), rtol=0)


def dense_encoder(model: SparseEncoder, voxels: SparseTensor) -> Tensor:
    """The sparse encoder's layers as dense convolutions under a mask of active cells."""
    mask = SparseTensor(torch.ones(len(voxels.cells), 1), voxels.cells, voxels.shape, voxels.batch_size).dense()

    def layer(conv: SparseConv, x: Tensor, mask: Tensor) -> Tensor:
        kernel = conv.kernel
        x = F.conv3d(x, conv.weight.permute(4, 3, 0, 1, 2), stride=kernel.stride, padding=kernel.padding)
        norm = conv.norm
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps) * mask

    x = layer(model.input, voxels.dense(), mask).relu()
    for stage, blocks in enumerate(model.blocks):
        for block in blocks:
            assert isinstance(block, ResidualBlock) and block.first.kernel == SUBMANIFOLD
            x = (x + layer(block.second, layer(block.first, x, mask).relu(), mask)).relu()
        down = model.output if stage == len(model.blocks) - 1 else model.downs[stage]
        kernel = down.kernel
        mask = (F.conv3d(mask, torch.ones(1, 1, *kernel.size), None, kernel.stride, kernel.padding) > 0).float()
        x = layer(down, x, mask).relu()
    return x.flatten(1, 2)


@pytest.mark.compiled_ops
def test_voxels_equal_mmcvs_hard_voxelization() -> None:
    from mmcv.ops import Voxelization

    points = make_batch(samples=1, points=5000).points
    theirs = Voxelization([0.4, 0.4, 0.4], [-12.8, -12.8, -5, 12.8, 12.8, 3], 3, 2000, deterministic=True)
    rows, cells, count = theirs(points)
    mean = rows.sum(1) / count[:, None] / torch.tensor([12.8, 12.8, 1, 255, 0.2])
    order = np.lexsort(cells.numpy().T[::-1])
    model = encoder("model.voxel_points=3", "model.max_voxels=[2000,2000]")
    ours = model.voxelize(points, torch.zeros(len(points), dtype=torch.long), 1)
    assert torch.equal(ours.cells[:, 1:], cells[order].long())
    torch.testing.assert_close(ours.features, mean[order], atol=1e-5, rtol=1e-5)
