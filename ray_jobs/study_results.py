"""From the runs of a study to its summary: mean and standard deviation over seeds, steps to a threshold. No Ray.

A run is a dict: ``steps``, ``curve`` [[step, BEV IoU], ...] from step 0 on, ``final`` (``pseudo_label_quality`` of the
last checkpoint), ``step_s``, ``peak_memory_bytes``, ``troubles`` {name: {value: quality}}, and of the reference's runs
the floors ``class_mean`` and ``class_mean_pca``. Runs of a variant are keyed by the seed (a string, as in JSON).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pdetr3d.pseudo_labels import FLOORS

SHARE = 0.9  # of the reference's final quality, for the steps to get there
QUALITY = ("bev_iou", "iou_3d", "center_error_m", "size_error", "yaw_error_rad")
SHOWN = ("bev_iou", "center_error_m", "size_error", "yaw_error_rad")  # what is summarized by distance and under trouble
Runs = dict[str, dict[str, Any]]


def spread(values: Iterable[float | None]) -> dict[str, Any]:
    """``{"mean", "std", "n"}`` of what is not None; std with n - 1, None for fewer than two values."""
    known = [float(value) for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "n": len(known),
    }


def steps_to(curve: Sequence[Sequence[float]], threshold: float) -> float | None:
    """Where a curve [[step, value], ...] with rising steps first reaches ``threshold``, interpolated between points.

    The first step itself when the curve begins at or above it (``there_from_the_start``); None when it is never
    reached.
    """
    before: Sequence[float] | None = None
    for step, value in curve:
        if value >= threshold:
            if before is None:
                return float(step)
            share = (threshold - before[1]) / (value - before[1])
            return float(before[0] + share * (step - before[0]))
        before = (step, value)
    return None


def there_from_the_start(curve: Sequence[Sequence[float]], threshold: float) -> bool:
    """Whether a curve begins at or above ``threshold`` after some training: reached then, or at an unknown step before.

    False for one that begins at step 0.
    """
    return bool(curve) and curve[0][0] > 0 and curve[0][1] >= threshold


def summarize(variants: dict[str, Runs], reference: str) -> dict[str, dict[str, Any]]:
    """Per variant: ``spread`` over seeds of every figure; the threshold is SHARE of the same seed's reference run."""
    return {name: _summary(runs, variants.get(reference, {})) for name, runs in variants.items()}


def _summary(runs: Runs, reference: Runs) -> dict[str, Any]:
    finals = [run["final"] for run in runs.values()]
    curves = [
        (run["curve"], SHARE * reference[seed]["curve"][-1][1]) for seed, run in runs.items() if seed in reference
    ]
    troubles = next(iter(runs.values()))["troubles"] if runs else {}
    return {
        **_quality(finals),
        "ece": spread(final["calibration"]["ece"] for final in finals),
        "rank_correlation": spread(final["calibration"]["rank_correlation"] for final in finals),
        "floors": {floor: _quality([run[floor] for run in runs.values()]) for floor in FLOORS if _have(runs, floor)},
        # at_most: of some seed only a step is known by which it was there.
        "steps_to_share": {
            **spread(steps_to(*curve) for curve in curves),
            "at_most": any(there_from_the_start(*curve) for curve in curves),
        },
        "step_s": spread(run["step_s"] for run in runs.values()),
        "peak_memory_bytes": spread(run["peak_memory_bytes"] for run in runs.values()),
        "troubles": {
            name: {
                value: {key: spread(run["troubles"][name][value][key] for run in runs.values()) for key in SHOWN}
                for value in values
            }
            for name, values in troubles.items()
        },
    }


def _have(runs: Runs, key: str) -> bool:
    return all(key in run for run in runs.values())


def _quality(reports: list[dict[str, Any]]) -> dict[str, Any]:
    bins = reports[0]["by_distance"] if reports else {}
    return {
        **{key: spread(report[key] for report in reports) for key in QUALITY},
        "by_distance": {d: {key: spread(r["by_distance"][d][key] for r in reports) for key in SHOWN} for d in bins},
    }


def mean_curve(runs: Runs) -> list[tuple[float, float, float]]:
    """(step, mean, std) over the seeds at each step that all have; std 0 for one seed."""
    curves = [dict(map(tuple, run["curve"])) for run in runs.values()]
    shared = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    points = [(step, spread(curve[step] for curve in curves)) for step in shared]
    return [(float(step), values["mean"], values["std"] or 0.0) for step, values in points]
