"""Statistics over seeds: mean, standard deviation, and t tests of differences."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pdetr3d.words import NONE, number

NEEDS_TWO = "needs ≥ 2 seeds"


@dataclass(frozen=True)
class Spread:
    """``mean`` and standard deviation ``std`` (n - 1) of ``n`` values; None if there are too few values."""

    mean: float | None
    std: float | None
    n: int

    @staticmethod
    def of(values: Collection[float]) -> Spread:
        """Compute it from any number of values."""
        known = np.array(list(values), np.float64)
        return Spread(
            float(known.mean()) if len(known) else None,
            float(known.std(ddof=1)) if len(known) > 1 else None,
            len(known),
        )

    def __str__(self) -> str:
        return number(self.mean) + ("" if self.std is None else f" ± {self.std:.3f}")


@dataclass(frozen=True)
class Difference:
    """The difference of two means.

    Attributes:
        mean: the difference, or None. p: of a two-sided t test, or None. how: the kind of test, or why there is no p.
    """

    mean: float | None
    p: float | None
    how: str

    def cells(self) -> tuple[str, str, str]:
        """Difference, p and test as text for a table."""
        p = "< 0.001" if self.p is not None and self.p < 0.001 else number(self.p)
        return NONE if self.mean is None else f"{self.mean:+.3f}", p, self.how


def difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """The mean of a row minus the mean of its baseline, with a t test; both are given by seed.

    With the same seeds the test is paired, since a seed gives the same labels, clicks and order in both; else it is
    Welch's test.
    """
    if not (values and baseline):
        return Difference(None, None, "no figure")
    mean = float(np.mean(list(values.values())) - np.mean(list(baseline.values())))
    if min(len(values), len(baseline)) < 2:
        return Difference(mean, None, NEEDS_TWO)
    if values.keys() == baseline.keys():
        pairs = [(values[seed], baseline[seed]) for seed in values]
        if _same([mine - theirs for mine, theirs in pairs]):
            return Difference(mean, None, "the same difference for every seed")
        p = stats.ttest_rel(*zip(*pairs, strict=True)).pvalue
        return Difference(mean, float(p), f"paired, {len(pairs)} seeds")
    mine, theirs = list(values.values()), list(baseline.values())
    if _same(mine) and _same(theirs):
        return Difference(mean, None, "seeds do not differ")
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # one side may have equal values
        p = stats.ttest_ind(mine, theirs, equal_var=False).pvalue
    return Difference(mean, float(p), f"Welch, {len(mine)} and {len(theirs)} seeds")


def _same(values: list[float]) -> bool:
    """Whether values are equal except for rounding."""
    return float(np.ptp(values)) <= 1e-12 * max(1.0, float(np.abs(values).max()))
