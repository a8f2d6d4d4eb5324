"""Tests of axes estimated from the points around a click, against values by hand and a plain loop."""

import numpy as np
import pytest
import torch

from pdetr3d.geometry.crops import axes_from_points

CAR, BARRIER = (4.6, 2.0, 1.7), (0.5, 2.5, 1.0)


def line(angle: float, at: tuple[float, float, float] = (0, 0, 0), half: float = 1.5, n: int = 11) -> np.ndarray:
    """Points along a line through ``at``."""
    along = np.linspace(-half, half, n)[:, None]
    return np.array(at) + along * np.array([[np.cos(angle), np.sin(angle), 0]])


def axis(points: np.ndarray, at: tuple[float, float, float] = (0, 0, 0), size: tuple[float, ...] = CAR) -> np.ndarray:
    """The axis (2,) of one click."""
    tensors = (torch.tensor(np.array(a), dtype=torch.float32) for a in (points, [at], [size]))
    return axes_from_points(*tensors)[0].numpy()


def double(angle: float) -> np.ndarray:
    return np.array([np.cos(2 * angle), np.sin(2 * angle)])


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 2, 2.0, 3.0])
def test_axis_of_a_line_is_the_line_as_sure_as_its_points_are_many(angle: float) -> None:
    assert axis(line(angle, (7, -3, 1)), (7, -3, 1)) == pytest.approx(11 / 16 * double(angle), abs=1e-4)
    assert axis(line(angle, n=45)) == pytest.approx(0.9 * double(angle), abs=1e-4)


def test_a_cross_is_less_sure_and_a_square_has_no_axis() -> None:
    cross = np.concatenate([line(0.0, half=2, n=5), line(np.pi / 2, half=1, n=5)])
    # x spreads twice as far, with four times the variance: (4 - 1) / (4 + 1) = 0.6.
    assert axis(cross) == pytest.approx([0.6 * 10 / 15, 0], abs=1e-5)
    square = np.array([[1, 1, 0], [-1, 1, 0], [1, -1, 0], [-1, -1, 0], [0, 0, 0]], float)
    assert axis(square).tolist() == [0, 0]


def test_a_box_wider_than_long_heads_across_the_axis() -> None:
    along_x = line(0.0, (0, 8, 0), half=1.2)  # a barrier across the road faces forward
    assert axis(along_x, (0, 8, 0), BARRIER) == pytest.approx(11 / 16 * double(np.pi / 2), abs=1e-4)
    assert axis(along_x, (0, 8, 0), CAR) == pytest.approx([11 / 16, 0], abs=1e-4)


def test_ground_and_strangers_do_not_count_and_few_points_say_nothing() -> None:
    at = (0, 10, 0)
    ground = line(0.0, (0, 10, -0.8), n=200)  # 5 cm above the underside at -0.85: below it + 20 cm
    stranger = line(0.0, (0, 14, 0), n=200)  # 4 m away, the cylinder reaches 2.51 m
    car = line(1.0, at)
    assert axis(np.concatenate([ground, stranger, car]), at) == pytest.approx(11 / 16 * double(1.0), abs=1e-4)
    assert axis(np.concatenate([ground, stranger, car[:4]]), at).tolist() == [0, 0]
    assert axis(np.zeros((0, 5)), at).tolist() == [0, 0]
    assert axes_from_points(torch.zeros(9, 5), torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 2)


def loop(points: np.ndarray, at: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The axis of one click, computed point by point."""
    mine = []
    for p in points - at:
        if np.hypot(p[0], p[1]) <= np.hypot(size[0], size[1]) / 2 and 0.2 - size[2] / 2 <= p[2] <= size[2] / 2:
            mine.append(p[:2])
    if len(mine) < 5:
        return np.zeros(2)
    values, vectors = np.linalg.eigh(np.cov(np.array(mine).T, bias=True))
    heading = np.arctan2(vectors[1, 1], vectors[0, 1]) + (np.pi / 2 if size[1] > size[0] else 0)
    return (values[1] - values[0]) / values.sum() * len(mine) / (len(mine) + 5) * double(heading)


def test_equals_a_plain_loop_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform([-6, -6, -1], [6, 6, 1], (100, 3)).astype(np.float32)
    clicks = rng.uniform([-4, -4, -0.3], [4, 4, 0.3], (12, 3)).astype(np.float32)
    sizes = np.array([CAR, BARRIER, (1.7, 0.6, 1.3), (3.0, 3.0, 3.0)] * 3, np.float32)
    cases = zip(clicks.astype(float), sizes.astype(float), strict=True)
    expected = [loop(points.astype(float), *case) for case in cases]
    assert 0 < sum(not row.any() for row in expected) < len(expected)  # both kinds are there
    arguments = [torch.from_numpy(a) for a in (points, clicks, sizes)]
    np.testing.assert_allclose(axes_from_points(*arguments).numpy(), expected, atol=1e-4)
    monkeypatch.setattr("pdetr3d.geometry.crops.PAIRS", 500)
    np.testing.assert_allclose(axes_from_points(*arguments).numpy(), expected, atol=1e-4)
