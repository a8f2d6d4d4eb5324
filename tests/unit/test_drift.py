"""Drift: the slope of places over ages, by hand and against NumPy's least squares; where it goes in the student."""

import numpy as np
import pytest
import torch

from pdetr3d.models.drift import Drift
from pdetr3d.models.student import Student
from tests.model_cases import change, make_batch, tiny_config

ZERO = torch.zeros(30, dtype=torch.long)


def walker(velocity: tuple[float, float], start: tuple[float, float] = (3.2, 4.0)) -> torch.Tensor:
    """Ten points of each of three sweeps, 0.15 s apart, all within 0.1 m of where it is then."""
    age = torch.tensor([0.0, 0.15, 0.3]).repeat_interleave(10)
    shape = torch.linspace(-0.1, 0.1, 10).repeat(3)
    x, y = (place + shape - speed * age for place, speed in zip(start, velocity, strict=True))
    return torch.stack([x, y, 0 * age, 0 * age, age], 1)


def drift() -> Drift:
    """A grid of 32 x 32 cells of 0.8 m: two parts of 0.4 m a side, squares of 5 x 5 parts (2 m)."""
    module = Drift(tiny_config())
    assert (module.parts, module.rows, module.columns) == (2, 64, 64)
    return module


def test_drift_of_a_walker_is_its_velocity() -> None:
    """The mean of the ages' squares about their mean is 0.015 s^2: of 30 points 0.45, and 0.02 damp it. All its points
    are in the 5 x 5 parts round the walker's."""
    module = drift()
    module.parts = 1  # without the last mean over parts
    shown = module(walker((1.2, -0.8)), ZERO, 1)[0].permute(1, 2, 0)
    row, column = int((4.0 + 12.8) / module.cell_m), int((3.2 + 12.8) / module.cell_m)
    torch.testing.assert_close(shown[row, column], torch.tensor([1.2, -0.8]) * 0.45 / 0.47, atol=1e-3, rtol=0)


def test_drift_equals_least_squares_of_the_points_of_each_square() -> None:
    module, batch = drift(), make_batch(points=400)
    shown = module(batch.points, batch.point_sample, 2)
    assert shown.shape == (2, 2, 32, 32)
    expected = np.zeros((2, 2, 64, 64))
    for sample in range(2):
        points = batch.points[batch.point_sample == sample].double().numpy()
        place = np.floor((points[:, :2] + 12.8) / module.cell_m)
        for row in range(64):
            for column in range(64):
                near = points[(np.abs(place - [column, row]) <= 2).all(1) & (place >= 0).all(1) & (place < 64).all(1)]
                if len(near):
                    age, xy = near[:, 4] - near[:, 4].mean(), near[:, :2] - near[:, :2].mean(0)
                    expected[sample, :, row, column] = np.clip(-(age @ xy) / (age @ age + 0.02), -2, 2)
    means = expected.reshape(2, 2, 32, 2, 32, 2).mean((3, 5))
    assert np.abs(means).max() > 0.01
    np.testing.assert_allclose(shown.numpy(), means, atol=1e-4)


def test_one_sweep_and_places_out_of_range_show_none() -> None:
    module = drift()
    assert module(walker((1.2, -0.8)) * torch.tensor([1, 1, 1, 1, 0.0]), ZERO, 1).abs().max() < 1e-5
    assert module(walker((1.2, -0.8), start=(14.0, 4.0)), ZERO, 2).abs().max() == 0
    assert module(torch.zeros(0, 5), ZERO[:0], 2).shape == (2, 2, 32, 32)


@pytest.mark.parametrize("guided", [False, True])
def test_a_students_head_sees_the_drift_and_its_guidance_does_not(guided: bool) -> None:
    torch.manual_seed(0)
    student = Student(tiny_config("student.drift=true"), guided=guided).train(guided)
    batch = make_batch(points=200)
    output = student(batch)
    assert student.head.shared[0].in_channels == output.strong.shape[1] + 2
    still = change(batch, points=batch.points * torch.tensor([1, 1, 1, 1, 0.0]))
    with torch.no_grad():
        student.head.shared[0].weight[:, :-2] = 0  # the drift is all that the head sees
    student.eval()
    assert student(batch).tasks[0].heatmap.std() > 0
    assert student(still).tasks[0].heatmap[..., 3:-3, 3:-3].std() < 1e-6
