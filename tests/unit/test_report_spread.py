"""Spread over seeds and t tests, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from pdetr3d.finished.report.spread import Spread, difference


def test_spread_uses_n_minus_1_and_knows_too_few() -> None:
    assert Spread.of([1.0, 2.0, 4.5]) == Spread(2.5, pytest.approx(math.sqrt((2.25 + 0.25 + 4) / 2)), 3)
    assert Spread.of([0.25]) == Spread(0.25, None, 1)
    assert Spread.of([]) == Spread(None, None, 0)
    assert [str(Spread.of(values)) for values in ([0.1, 0.3], [0.25], [])] == ["0.200 ± 0.141", "0.250", "-"]


def test_the_same_seeds_are_paired() -> None:
    """The differences 0.03, 0.02 and 0.04 give t = 0.03 / (0.01 / sqrt 3), so t^2 = 27.

    With 2 degrees of freedom the two-sided p is 1 - t / sqrt(2 + t^2). Unpaired, p would be above 0.1.
    """
    made = difference({2: 0.45, 0: 0.23, 1: 0.34}, {0: 0.20, 1: 0.32, 2: 0.41})
    assert made.mean == pytest.approx(0.03) and made.p == pytest.approx(1 - math.sqrt(27 / 29))
    assert made.cells() == ("+0.030", "0.035", "paired, 3 seeds")


def test_two_seeds_have_one_degree_of_freedom() -> None:
    """Differences -1 and -3: mean -2, std sqrt 2, t = -2; p = 1 - 2 / pi * atan 2."""
    made = difference({0: 1.0, 1: 2.0}, {0: 2.0, 1: 5.0})
    assert made.mean == -2 and made.p == pytest.approx(1 - 2 / math.pi * math.atan(2))


def test_other_seeds_are_compared_by_welch() -> None:
    """Means 1.5 and 4.5, variances 1/2: t^2 = 9 / (1/2), 2 degrees of freedom by Welch-Satterthwaite."""
    made = difference({0: 1.0, 1: 2.0}, {1: 4.0, 2: 5.0})
    assert made.mean == -3 and made.p == pytest.approx(1 - math.sqrt(18 / 20))
    assert made.cells() == ("-3.000", "0.051", "Welch, 2 and 2 seeds")


def test_welch_does_not_pool_variances() -> None:
    """Variances 0 and 2 of two values each: t^2 = 4 / (2/2), 1 degree of freedom (Student's test: 2)."""
    made = difference({0: 1.0, 1: 1.0}, {2: 2.0, 3: 4.0})
    assert made.p == pytest.approx(1 - 2 / math.pi * math.atan(2))


@pytest.mark.parametrize(
    ("values", "baseline", "expected"),
    [
        ({0: 0.5}, {0: 0.4}, ("+0.100", "-", "needs ≥ 2 seeds")),
        ({0: 0.5, 1: 0.6}, {0: 0.4}, ("+0.150", "-", "needs ≥ 2 seeds")),
        ({0: 0.3, 1: 0.4}, {0: 0.2, 1: 0.3}, ("+0.100", "-", "the same difference for every seed")),
        ({0: 0.3, 1: 0.3}, {2: 0.2, 3: 0.2}, ("+0.100", "-", "seeds do not differ")),
        ({}, {0: 0.2}, ("-", "-", "no figure")),
        ({0: 0.2}, {}, ("-", "-", "no figure")),
        ({0: 10.0, 1: 11.0}, {0: 1.0, 1: 2.001}, ("+8.999", "< 0.001", "paired, 2 seeds")),
    ],
)
def test_what_cannot_be_computed_says_why(
    values: dict[int, float], baseline: dict[int, float], expected: tuple[str, str, str]
) -> None:
    assert difference(values, baseline).cells() == expected
