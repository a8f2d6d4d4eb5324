"""Fits label-efficiency curves, SPNDS over the number of box-labeled keyframes, to finished runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

from pdetr3d.finished.labels.measured_runs import MeasuredRun
from pdetr3d.schema import DataError

MIN_RATIOS = 3  # distinct label ratios that a curve needs
# A prior on the exponent supports fits to few points: ln(exponent) is normal around ln(EXPONENT) with a deviation of 1,
# and the points' SPNDS has a deviation of NOISE. These are assumptions: the exponent lies between 0.2 and 1.4 unless
# the points say otherwise.
EXPONENT, NOISE = 0.5, 0.01
EXPONENT_LIMITS = (0.05, 3.0)
RESAMPLES, SEED, INTERVAL = 200, 0, (0.05, 0.95)
CURVES = ("ours", "boxes_only")  # arms
Points = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Curve:
    """SPNDS(R) = ceiling - gap * (R / low) ** -exponent for R in [low, high] box-labeled keyframes, NaN outside."""

    low: float
    high: float
    ceiling: float
    gap: float
    exponent: float

    @staticmethod
    def fit(boxed: ArrayLike, spnds: ArrayLike, span: tuple[float, float] | None = None) -> Curve:
        """Fit the curve by least squares with a prior on the exponent.

        Args:
            boxed, spnds: points, (n,) each, at least one.
            span: (low, high); None: the range of the points.
        """
        x, y = np.asarray(boxed, np.float64), np.asarray(spnds, np.float64)
        low, high = span or (float(x.min()), float(x.max()))

        def off(p: NDArray[np.float64]) -> NDArray[np.float64]:
            predicted = p[0] - p[1] * (x / low) ** -np.exp(p[2])
            return np.append((predicted - y) / NOISE, p[2] - math.log(EXPONENT))

        limits = [math.log(limit) for limit in EXPONENT_LIMITS]
        start = [min(y.max() + 0.02, 0.99), max(y.max() - y.min(), 0.01), math.log(EXPONENT)]
        best = least_squares(off, start, bounds=([0, 0, limits[0]], [1, 1, limits[1]])).x
        return Curve(low, high, float(best[0]), float(best[1]), float(np.exp(best[2])))

    def __call__(self, boxed: ArrayLike) -> NDArray[np.float64]:
        """SPNDS at numbers of box-labeled keyframes (any shape); NaN outside [low, high]."""
        x = np.asarray(boxed, np.float64)
        inside = (x >= self.low) & (x <= self.high)
        return np.where(inside, self.ceiling - self.gap * (np.maximum(x, 1e-9) / self.low) ** -self.exponent, np.nan)


def points(runs: Sequence[MeasuredRun]) -> dict[str, Points]:
    """The points (box-labeled keyframes, SPNDS) of each curve. The arm "full", averaged per seed, ends both curves."""
    whole: dict[int, list[float]] = {}
    for run in runs:
        if "full" in run.spnds:
            whole.setdefault(run.seed, []).append(run.spnds["full"])
    ends = [(runs[0].keyframes, float(np.mean(values))) for _, values in sorted(whole.items())]
    result = {}
    for arm in CURVES:
        own = [(run.boxed, run.spnds[arm]) for run in runs if arm in run.spnds]
        if own:
            x, y = np.array([*own, *ends], np.float64).T
            result[arm] = x, y
    return result


def measured(runs: Sequence[MeasuredRun]) -> dict[str, int]:
    """Curve -> number of distinct label ratios at which runs measured it."""
    return {arm: len({run.boxed for run in runs if arm in run.spnds}) for arm in CURVES}


def fit_curves(runs: Sequence[MeasuredRun]) -> dict[str, Curve]:
    """Fit the curves that were measured at MIN_RATIOS or more label ratios.

    Raises:
        DataError: when "ours" was measured at fewer.
    """
    if measured(runs)["ours"] < MIN_RATIOS:
        ratios = sorted({f"{run.ratio:.4g}" for run in runs if "ours" in run.spnds})
        raise DataError(
            f'a curve needs arm "ours" at {MIN_RATIOS} different label ratios or more; these runs have '
            f"{', '.join(ratios) or 'none'}: train more, e.g. label.ratio=0.02, 0.05, 0.1, 0.2"
        )
    found = points(runs)
    return {arm: Curve.fit(*found[arm]) for arm in CURVES if measured(runs)[arm] >= MIN_RATIOS}


def resampled_curves(runs: Sequence[MeasuredRun], curves: dict[str, Curve]) -> list[dict[str, Curve]]:
    """Bootstrap over runs: RESAMPLES times the same curves, fitted to runs that are drawn with replacement (seeded).

    A draw that leaves a curve fewer than two label ratios is repeated.
    """
    rng = np.random.default_rng(SEED)
    result: list[dict[str, Curve]] = []
    while len(result) < RESAMPLES:
        drawn = [runs[i] for i in rng.integers(len(runs), size=len(runs))]
        if all(measured(drawn)[arm] >= 2 for arm in curves):
            found = points(drawn)
            result.append({arm: Curve.fit(*found[arm], (c.low, c.high)) for arm, c in curves.items()})
    return result


def interval(values: ArrayLike) -> list[float]:
    """The quantiles INTERVAL of values."""
    return [float(value) for value in np.quantile(np.asarray(values, np.float64), INTERVAL)]
