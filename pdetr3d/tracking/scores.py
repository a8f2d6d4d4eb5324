"""Names evaluation scores in MLflow so that the UI draws a metric's classes, or distances, in one chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdetr3d.tracking.client import flatten

_GROUPS = {"per_class": "", "by_distance": "m", "by_group": ""}  # nested part of a report -> suffix of its names


def score_metrics(prefix: str, report: Mapping[str, Any]) -> dict[str, float]:
    """Flatten the report of an evaluation (``nuscenes_eval.score`` or ``pseudo_label_quality``).

    With prefix "val", ``{"mAP": m, "per_class": {"car": {"AP@0.5": a}}, "by_distance": {"30-40": {"mAP": d}}}`` becomes
    ``{"val/mAP": m, "val/AP_0.5/car": a, "val/mAP/30-40m": d}``. The number of objects is given per class and per
    distance, but not for each pair of them. Undefined values are left out.
    """
    plain = {key: value for key, value in report.items() if key not in (*_GROUPS, "n_gt")}
    found = flatten(plain, f"{prefix}/")
    for group, ending in _GROUPS.items():
        for member, values in report.get(group, {}).items():
            numbers = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
            if isinstance(values.get("n_gt"), Mapping):
                numbers["n_gt"] = sum(values["n_gt"].values())
            for metric, value in flatten(numbers).items():
                found[f"{prefix}/{metric}/{member}{ending}"] = value
    return found
