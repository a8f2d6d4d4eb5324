"""Finds the best mix of boxes and clicks for a label budget, from the label-efficiency curves of finished runs.

Of N keyframes people draw boxes on R and clicks on P others (R + P <= N). Runs measure two edges of this triangle:
"ours" (R + P = N) and "boxes_only" (P = 0), and their common corner "full" (R = N). On each edge SPNDS is fitted by a
saturating power law in R, which is used only within the measured R. Between the edges SPNDS is interpolated linearly in
P. If each further click adds less than the one before, the interpolation is a lower bound: a recommendation between the
edges is then at least as good as predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pdetr3d.finished.labels.efficiency import (
    INTERVAL,
    RESAMPLES,
    SEED,
    Curve,
    Points,
    fit_curves,
    interval,
    points,
    resampled_curves,
)
from pdetr3d.finished.labels.measured_runs import MeasuredRun
from pdetr3d.schema import DataError

BUDGETS = 25  # points of the curve over budgets
STEPS = 4000  # numbers of box-labeled keyframes to try: all up to about a thousand, in steps below 0.2 % beyond
MIX, BOXES = "boxes + clicks", "boxes only"
KINDS = {MIX: True, BOXES: False}  # kind of allocation -> whether it contains clicks


@dataclass(frozen=True)
class Prices:
    """The costs of one 3D ``box`` and one ``click``, and the whole ``budget``, in one currency.

    Raises:
        DataError: for a negative or not finite value.
    """

    box: float
    click: float
    budget: float

    def __post_init__(self) -> None:
        for name, value in (("--box-cost", self.box), ("--click-cost", self.click), ("--budget", self.budget)):
            if not (math.isfinite(value) and value >= 0):
                raise DataError(f"{name} {value}: must be a number of 0 or more (any currency, the same for all three)")


@dataclass(frozen=True)
class Dataset:
    """The number of ``keyframes`` of the train split, and the mean number of ``objects`` on a keyframe."""

    keyframes: int
    objects: float


@dataclass(frozen=True)
class Allocation:
    """A way to spend the budget: number of keyframes with boxes and with clicks, expected cost, predicted SPNDS."""

    boxed: int
    clicked: int
    cost: float
    spnds: float

    @property
    def share(self) -> float:
        """The share of the annotated keyframes that have boxes."""
        return self.boxed / (self.boxed + self.clicked)


def predict(curves: dict[str, Curve], data: Dataset, boxed: ArrayLike, clicked: ArrayLike) -> NDArray[np.float64]:
    """The predicted SPNDS of R boxed and P clicked keyframes (broadcast); NaN outside the measured range.

    Args:
        curves: of ``fit_curves``. boxed: R. clicked: P.
    """
    R, P = np.asarray(boxed, np.float64), np.asarray(clicked, np.float64)
    whole = curves["ours"](R)
    if "boxes_only" not in curves:
        return np.where(R + P == data.keyframes, whole, np.nan)
    alone = curves["boxes_only"](R)
    clicked_share = P / np.maximum(data.keyframes - R, 1)
    between = np.where(R + P == data.keyframes, whole, alone + (whole - alone) * clicked_share)
    return np.where((P == 0) & np.isfinite(alone), alone, between)


class Planner:
    """The allocations that a budget can pay, within the measured range.

    Args:
        curves: their range of R is tried. data: size of the dataset. prices: costs and budget.
    """

    def __init__(self, curves: dict[str, Curve], data: Dataset, prices: Prices) -> None:
        self.data, self.prices = data, prices
        low, high = min(c.low for c in curves.values()), max(c.high for c in curves.values())
        R = np.unique(np.geomspace(low, high, STEPS).round())
        left = prices.budget / data.objects - R * prices.box
        R, left = R[left >= -1e-9], left[left >= -1e-9]
        rest = data.keyframes - R
        with np.errstate(divide="ignore", invalid="ignore"):
            most = np.where(rest * prices.click <= left + 1e-9, rest, np.floor(left / prices.click + 1e-9))
        most = np.maximum(most, 0)
        # SPNDS is linear in P, so that the best P is an end of its range: none, one keyframe, or as many as affordable.
        self.boxed, self.clicked = np.tile(R, 3), np.concatenate([np.zeros_like(R), np.minimum(most, 1), most])
        self.cost = data.objects * (self.boxed * prices.box + self.clicked * prices.click)

    def best(self, curves: dict[str, Curve], *, clicks: bool) -> Allocation | None:
        """The allocation with the highest SPNDS, of equal ones the cheapest; None if no SPNDS is known.

        Args:
            curves: predict SPNDS. clicks: True tries allocations with clicks, False those without.
        """
        known = predict(curves, self.data, self.boxed, self.clicked)
        usable = np.nonzero(np.isfinite(known) & ((self.clicked > 0) == clicks))[0]
        if len(usable) == 0:
            return None
        i = usable[np.lexsort((self.cost[usable], -known[usable].round(9)))[0]]
        return Allocation(int(self.boxed[i]), int(self.clicked[i]), float(self.cost[i]), float(known[i]))


def cheapest(curves: dict[str, Curve], data: Dataset, prices: Prices) -> Allocation:
    """The cheapest allocation with a known SPNDS: the fewest measured boxes, without clicks if that was measured."""
    only = curves.get("boxes_only")
    boxed = only.low if only else curves["ours"].low
    clicked = 0.0 if only else data.keyframes - boxed
    cost = data.objects * (boxed * prices.box + clicked * prices.click)
    return Allocation(int(boxed), int(clicked), cost, float(predict(curves, data, boxed, clicked)))


def plan_budget(runs: Sequence[MeasuredRun], prices: Prices) -> dict[str, Any]:
    """Compute the whole answer as a JSON document, in which ``recommended`` names one of ``allocations``.

    Raises:
        DataError: for too few label ratios, or a budget below the cheapest measured labels.
    """
    curves = fit_curves(runs)
    data = Dataset(runs[0].keyframes, sum(r.boxes + r.clicks for r in runs) / sum(r.keyframes for r in runs))
    if data.objects == 0:
        raise DataError(
            f"{runs[0].path}: its label manifest holds no click, so nothing says how many objects there are"
        )
    planner = Planner(curves, data, prices)
    found = {name: planner.best(curves, clicks=clicks) for name, clicks in KINDS.items()}
    best = {name: allocation for name, allocation in found.items() if allocation is not None}
    if not best:
        least = cheapest(curves, data, prices)
        raise DataError(
            f"--budget {prices.budget:g} is less than the cheapest labels that these runs measured cost: "
            f"{least.boxed} keyframes with boxes and {least.clicked} with clicks, {least.cost:g} in all"
        )
    drawn = resampled_curves(runs, curves)
    samples = {n: [float(predict(c, data, a.boxed, a.clicked)) for c in drawn] for n, a in best.items()}
    recommended = max(best, key=lambda name: (round(best[name].spnds, 9), -best[name].cost))
    again = [max(_both(planner, c), key=lambda a: (round(a.spnds, 9), -a.cost)) for c in drawn]
    return {
        "prices": vars(prices),
        "dataset": {"index": runs[0].index, **vars(data)},
        "runs": [_run(run, prices) for run in runs],
        "curves": {arm: _curve(curve, points(runs)[arm], drawn, arm) for arm, curve in curves.items()},
        "allocations": {n: _allocation(a, samples[n], data) for n, a in best.items()},
        "recommended": recommended,
        "recommended_over_resamples": {
            "boxed": interval([a.boxed for a in again]),
            "share": interval([a.share for a in again]),
            "annotated": interval([a.boxed + a.clicked for a in again]),
            "with_clicks": float(np.mean([a.clicked > 0 for a in again])),
        },
        "difference": _difference(samples),
        "by_budget": _by_budget(curves, drawn, data, prices),
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "interval": INTERVAL},
        "notes": _notes(runs, curves, data, best[recommended], prices),
    }


def _by_budget(
    curves: dict[str, Curve], drawn: list[dict[str, Curve]], data: Dataset, prices: Prices
) -> list[dict[str, Any]]:
    """The best allocation of each kind, at budgets from the cheapest to the most expensive measured labels."""
    high = max(c.high for c in curves.values())
    dearest = data.objects * (high * prices.box + (data.keyframes - high) * prices.click)
    rows = []
    for budget in np.linspace(cheapest(curves, data, prices).cost, dearest, BUDGETS):
        row: dict[str, Any] = {"budget": float(budget)}
        planner = Planner(curves, data, Prices(prices.box, prices.click, row["budget"]))
        for name, clicks in KINDS.items():
            if (a := planner.best(curves, clicks=clicks)) is not None:
                row[name] = _allocation(a, [float(predict(c, data, a.boxed, a.clicked)) for c in drawn], data)
        rows.append(row)
    return rows


def _both(planner: Planner, curves: dict[str, Curve]) -> list[Allocation]:
    return [a for clicks in KINDS.values() if (a := planner.best(curves, clicks=clicks)) is not None]


def _difference(samples: dict[str, list[float]]) -> dict[str, Any] | None:
    """The gain in SPNDS of boxes + clicks over boxes only; None if one of the two is not known."""
    if len(samples) < 2:
        return None
    gain = np.array(samples[MIX]) - np.array(samples[BOXES])
    return {"interval": interval(gain), "share_of_resamples_with_clicks_better": float((gain > 0).mean())}


def _run(run: MeasuredRun, prices: Prices) -> dict[str, Any]:
    cost = run.boxes * prices.box + run.clicks * prices.click
    counted = {"boxed": run.boxed, "boxes": run.boxes, "clicks": run.clicks, "cost": cost, "spnds": run.spnds}
    return {"run": str(run.path), "seed": run.seed, "ratio": run.ratio, **counted}


def _curve(curve: Curve, at: Points, drawn: list[dict[str, Curve]], arm: str) -> dict[str, Any]:
    grid = np.unique(np.geomspace(curve.low, curve.high, 40).round())
    band = np.quantile([c[arm](grid) for c in drawn], INTERVAL, axis=0)
    fitted = {"boxed": grid.tolist(), "spnds": curve(grid).tolist(), "low": band[0].tolist(), "high": band[1].tolist()}
    misfit = float(np.sqrt(np.mean((curve(at[0]) - at[1]) ** 2)))
    return {**vars(curve), "rms_misfit": misfit, "points": [list(map(float, p)) for p in zip(*at, strict=True)]} | {
        "fitted": fitted
    }


def _allocation(a: Allocation, samples: list[float], data: Dataset) -> dict[str, Any]:
    counts = {"boxes": round(a.boxed * data.objects), "clicks": round(a.clicked * data.objects)}
    return {**vars(a), "share": a.share, "annotated": a.boxed + a.clicked, **counts, "interval": interval(samples)}


def _notes(
    runs: Sequence[MeasuredRun], curves: dict[str, Curve], data: Dataset, chosen: Allocation, prices: Prices
) -> list[str]:
    N = data.keyframes
    notes = [_measured_note(arm, curve, runs, N) for arm, curve in curves.items()]
    if chosen.clicked and chosen.boxed + chosen.clicked < N:
        notes.append(
            f"No run left keyframes unannotated beside clicks. SPNDS of this mix ({N - chosen.boxed - chosen.clicked} "
            "keyframes without any label) is read off the straight line from boxes only to boxes and clicks on all "
            "keyframes: a lower bound where each further click brings less than the one before."
        )
    if chosen.clicked and chosen.boxed in (ends := (curves["ours"].low, curves["ours"].high)):
        side = "fewer" if chosen.boxed == ends[0] else "more"
        notes.append(
            f"The plan lies at the end of what was measured with clicks, {chosen.boxed} box-labeled keyframes: {side} "
            "may be better; only runs at such a label ratio can tell."
        )
    left = prices.budget - chosen.cost
    spare = data.objects * max(prices.box, prices.click)
    if left > spare:
        notes.append(
            f"{left:g} of the budget is left over: nothing that runs measured would turn it into a higher SPNDS."
        )
    if "boxes_only" not in curves:
        notes.append(
            'Without arm "boxes_only" at three ratios or more, only plans that annotate every keyframe are known, and '
            'none of boxes only; add run.arms=["boxes_only","ours"].'
        )
    if len({run.seed for run in runs}) < 2:
        notes.append("One seed: the interval holds how runs scatter about the curve, not what seeds differ by.")
    if len(codes := {run.config.get("code") for run in runs}) > 1:
        notes.append(f"The runs are of {len(codes)} versions of the code, which may score differently.")
    return notes


def _measured_note(arm: str, curve: Curve, runs: Sequence[MeasuredRun], keyframes: int) -> str:
    at = sorted({run.boxed for run in runs if arm in run.spnds})
    whole = f" and, by arm full, {keyframes}" if any("full" in run.spnds for run in runs) else ""
    return (
        f"{arm}: measured at {', '.join(map(str, at))}{whole} box-labeled keyframes of {keyframes}; interpolated "
        f"between them, and nothing is said below {curve.low:.0f} or above {curve.high:.0f}."
    )
