"""Tests of pillar assignment and features, against plain loops."""

import numpy as np
import pytest
import torch

from pdetr3d.models.pillars import PillarEncoder, thinned
from tests.model_cases import make_batch, tiny_config
from tests.reference.model_oracles import pillar_of


def encoder(*overrides: str) -> PillarEncoder:
    torch.manual_seed(0)
    return PillarEncoder(tiny_config(*overrides).model)


def test_rows_are_y_and_columns_are_x() -> None:
    points = torch.tensor([[12.7, -12.7, 0, 10, 0], [-12.7, 0.1, 0, 10, 0]])
    bev = encoder()(points, torch.tensor([0, 0]), 1)
    assert bev.shape == (1, 8, 32, 32)
    filled = torch.nonzero(bev[0].abs().sum(0)).tolist()
    assert filled == [[0, 31], [16, 0]]


def test_features_equal_a_plain_loop() -> None:
    model, batch = encoder(), make_batch(points=60)
    bev = model(batch.points, batch.point_sample, 2).detach().numpy()
    cells: dict[tuple[int, int, int], list[np.ndarray]] = {}
    for point, sample in zip(batch.points.numpy(), batch.point_sample.tolist(), strict=True):
        cells.setdefault((sample, *pillar_of(point, (-12.8, -12.8), 0.8)), []).append(point)
    expected = np.zeros_like(bev)
    for (sample, row, column), points in cells.items():
        mean = np.mean([p[:3] for p in points], 0)
        center = np.array([(column + 0.5) * 0.8 - 12.8, (row + 0.5) * 0.8 - 12.8])
        rows = [
            np.r_[p[:2] / 12.8, p[2], p[3] / 255, p[4] / 0.2, (p[:3] - mean) / 0.8, (p[:2] - center) / 0.8]
            for p in points
        ]
        features = model.norm(model.linear(torch.tensor(np.array(rows), dtype=torch.float32))).relu()
        expected[sample, :, row, column] = features.max(0).values.detach().numpy()
    np.testing.assert_allclose(bev, expected, atol=2e-5)


@pytest.mark.compiled_ops
def test_pillars_equal_mmcvs_voxelization() -> None:
    """Cells and points are equal; some points are out of range, and no cell has more points than both keep."""
    from mmcv.ops import Voxelization

    points = make_batch(samples=1, points=5000).points * torch.tensor([1.2, 1.2, 1, 1, 1])
    rows, cells, count = Voxelization([0.8, 0.8, 8], [-12.8, -12.8, -5, 12.8, 12.8, 3], 100, 2000)(points)
    place, order = (cells[:, 1].long() * 32 + cells[:, 2]).sort()  # z, y, x
    model = encoder("model.pillar_points=100")
    kept, pillar, filled = model.group(*model.assign(points, torch.zeros(len(points), dtype=torch.long)))
    assert torch.equal(filled, place) and torch.equal(torch.bincount(pillar), count[order].long())
    assert 2500 < len(kept) < 5000 and count.max() < 100
    sums = torch.zeros(len(filled), 5).index_add_(0, pillar, kept)
    torch.testing.assert_close(sums, rows.sum(1)[order], atol=1e-3, rtol=1e-5)


def test_full_pillars_are_thinned_out_evenly() -> None:
    # By hand: of 7 points at most 3 stay: rank r stays where floor(3 (r + 1) / 7) > floor(3 r / 7): r = 2, 4, 6.
    points = torch.zeros(10, 5)
    points[:, 0] = torch.tensor([1.0, -1, 1, 1, 1, -1, 1, 1, -1, 1])
    points[:, 3] = torch.arange(10)  # the intensity names the point
    model = encoder("model.pillar_points=3")
    kept, pillar, filled = model.group(*model.assign(points, torch.zeros(10, dtype=torch.long)))
    assert kept[:, 3].tolist() == [1, 5, 8, 3, 6, 9]
    assert pillar.tolist() == [0, 0, 0, 1, 1, 1]
    assert filled.tolist() == [16 * 32 + 14, 16 * 32 + 17]  # row 12.8 / 0.8, columns 11.8 / 0.8 and 13.8 / 0.8


def test_points_outside_are_dropped_and_none_is_normal() -> None:
    outside = torch.tensor([[12.81, 0, 0, 1, 0], [0, 0, 3.1, 1, 0], [0, -12.9, 0, 1, 0.0]])
    model = encoder()
    assert model(outside, torch.zeros(3, dtype=torch.long), 2).abs().sum() == 0
    empty = model(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), 2)
    assert empty.shape == (2, 8, 32, 32)
    empty.sum().backward()
    assert model.linear.weight.grad is not None


def test_thinning_is_even_and_leaves_short_runs_alone() -> None:
    run, count = torch.tensor([0] * 3 + [1] * 10 + [2] * 4), torch.tensor([3, 10, 4])
    kept = thinned(run, count, most=4)
    assert [int(kept[run == r].sum()) for r in range(3)] == [3, 4, 4]
    assert torch.nonzero(kept[run == 1])[:, 0].diff().tolist() in ([2, 3, 2], [3, 2, 3])
    assert thinned(run[:0], count[:0], most=4).shape == (0,)
