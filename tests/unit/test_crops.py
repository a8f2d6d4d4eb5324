"""Headings from the points round a click, by hand."""

import numpy as np
import pytest

from pdetr3d.geometry.crops import headings_from_points, in_cylinder, principal_axis_rad

CAR, BARRIER = (4.6, 2.0, 1.7), (0.5, 2.5, 1.0)
FORWARD = np.pi / 2


def line(angle: float, at: tuple[float, float, float] = (0, 0, 0), half: float = 1.5, n: int = 11) -> np.ndarray:
    """Points along a line through ``at``."""
    along = np.linspace(-half, half, n)[:, None]
    return np.array(at) + along * np.array([[np.cos(angle), np.sin(angle), 0]])


def test_cylinder_borders_count() -> None:
    points = [[3, 0, 0], [3.01, 0, 0], [0, 0, 1], [0, 0, 1.01], [0, 0, -0.5], [0, 0, -0.51], [2.2, 2.2, 0]]
    inside = in_cylinder(np.array(points) + [1, 2, 3], np.array([1, 2, 3]), 3.0, (-0.5, 1.0))
    assert inside.tolist() == [True, False, True, False, True, False, False]


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 2, 2.0, 3.0])
def test_principal_axis_of_a_line_is_the_line(angle: float) -> None:
    assert principal_axis_rad(line(angle, (7, -3, 1))) == pytest.approx(angle % np.pi, abs=1e-6)


def test_no_axis_without_points_or_without_a_longest_direction() -> None:
    assert principal_axis_rad(line(0.3, n=4)) is None
    square = np.array([[1, 1], [-1, 1], [1, -1], [-1, -1], [0, 0]], float)
    assert principal_axis_rad(square) is None


def test_direction_is_the_one_nearer_to_forward() -> None:
    place, size = np.array([[10.0, 5, 0]]), np.array([CAR])
    for angle in (0.4, 1.2, 2.8):  # of the upper half: headings as they are; the opposite line is the same line
        for line_angle in (angle, angle + np.pi):
            assert headings_from_points(line(line_angle, (10, 5, 0)), place, size, FORWARD) == pytest.approx([angle])
    backward = headings_from_points(line(0.4, (10, 5, 0)), place, size, -FORWARD)
    assert backward == pytest.approx([0.4 - np.pi])


def test_a_box_wider_than_long_heads_across_the_axis() -> None:
    at = np.array([[0.0, 8, 0]])
    along_x = line(0.0, (0, 8, 0), half=1.2)  # a barrier across the road faces forward
    assert headings_from_points(along_x, at, np.array([BARRIER]), FORWARD) == pytest.approx([FORWARD])
    assert headings_from_points(along_x, at, np.array([CAR]), FORWARD)[0] % np.pi == pytest.approx(0, abs=1e-6)


def test_ground_and_strangers_do_not_count_and_few_points_fall_back() -> None:
    at, size = np.array([[0.0, 10, 0]]), np.array([CAR])
    ground = line(0.0, (0, 10, -0.8), n=200)  # 5 cm above the underside at -0.85: below it + 20 cm
    stranger = line(0.0, (0, 14, 0), n=200)  # 4 m away, the cylinder reaches 2.51 m
    car = line(1.0, (0, 10, 0))
    every = np.concatenate([ground, stranger, car])
    assert headings_from_points(every, at, size, FORWARD) == pytest.approx([1.0])
    assert headings_from_points(np.concatenate([ground, stranger, car[:4]]), at, size, FORWARD) == [FORWARD]
    assert headings_from_points(np.zeros((0, 5)), at, size, FORWARD) == [FORWARD]
    assert headings_from_points(every, np.zeros((0, 3)), np.zeros((0, 3)), FORWARD).shape == (0,)
