"""How good pseudo labels are: row i of the pseudo labels belongs to row i of the true boxes, so nothing is matched.

Used for reports only: training never sees the true boxes of point-labeled samples.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdetr3d.geometry.boxes import bev_iou_aligned
from pdetr3d.schema import CLASSES, Boxes3D

BINS_M = ((0, 10), (10, 20), (20, 30), (30, 40), (40, 52))  # method.md 6.1
_BARRIER, _CONE = CLASSES.index("barrier"), CLASSES.index("traffic_cone")
# What a mean over all classes hides: people and two-wheelers are small, barriers and cones stand still.
GROUPS = {
    "vehicles": ("car", "truck", "construction_vehicle", "bus", "trailer"),
    "riders_and_people": ("motorcycle", "bicycle", "pedestrian"),
    "barriers_and_cones": ("barrier", "traffic_cone"),
}


def bev_iou(a: Boxes3D, b: Boxes3D) -> NDArray[np.float64]:
    """Exact IoU (N,) in [0, 1] of rotated boxes seen from above, row by row.

    Raises:
        ValueError: when the lengths differ.
    """
    if len(a) != len(b):
        raise ValueError(f"rows must be parallel: {len(a)} and {len(b)} boxes")
    return bev_iou_aligned(a.rows, b.rows)


def iou_3d(a: Boxes3D, b: Boxes3D) -> NDArray[np.float64]:
    """Exact IoU (N,) in [0, 1] of upright rotated boxes, row by row.

    Raises:
        ValueError: when the lengths differ.
    """
    share = bev_iou(a, b)  # overlap / (area a + area b - overlap), solved for the overlap
    area_a, area_b = (boxes.size_m[:, :2].astype(np.float64).prod(axis=1) for boxes in (a, b))
    overlap = share / (1 + share) * (area_a + area_b)
    half_a, half_b = a.size_m[:, 2].astype(np.float64) / 2, b.size_m[:, 2].astype(np.float64) / 2
    z_a, z_b = a.center_m[:, 2].astype(np.float64), b.center_m[:, 2].astype(np.float64)
    height = np.minimum(z_a + half_a, z_b + half_b) - np.maximum(z_a - half_a, z_b - half_b)
    overlap = overlap * np.maximum(height, 0)
    return overlap / (_volume(a) + _volume(b) - overlap)


def size_error(pred: Boxes3D, truth: Boxes3D) -> NDArray[np.float64]:
    """1 - IoU (N,) of the boxes laid onto one another (the devkit's ``1 - scale_iou``: ASE)."""
    overlap = np.minimum(pred.size_m, truth.size_m).astype(np.float64).prod(axis=1)
    return 1 - overlap / (_volume(pred) + _volume(truth) - overlap)


def yaw_error_rad(pred: Boxes3D, truth: Boxes3D) -> NDArray[np.float64]:
    """Smallest angle (N,) [rad] between the headings (the devkit's ``yaw_diff``: AOE). Barriers look the same from both
    sides (period pi); cones have no heading: NaN. The class is the true one."""
    period = np.where(truth.label == _BARRIER, np.pi, 2 * np.pi)
    difference = truth.yaw_rad.astype(np.float64) - pred.yaw_rad
    error = np.abs((difference + period / 2) % period - period / 2)
    return np.where(truth.label == _CONE, np.nan, error)


def heading_errors(pred: Boxes3D, truth: Boxes3D) -> dict[str, NDArray[np.float64]]:
    """``yaw_error_rad`` and its two parts, each (N,): the angle between the boxes' axes [rad], at most pi / 2, and
    whether the heading is reversed (1.0 or 0.0; NaN for barriers and cones, which have no direction)."""
    yaw = yaw_error_rad(pred, truth)
    axis = np.minimum(yaw, np.pi - yaw)
    turned = np.where(np.isnan(yaw) | (truth.label == _BARRIER), np.nan, yaw > np.pi / 2)
    return {"yaw_error_rad": yaw, "axis_error_rad": axis, "reversed": turned}


def oracle_iou(pred: Boxes3D, truth: Boxes3D) -> dict[str, float | None]:
    """Mean BEV IoU that the boxes would have with parts of the truth: what each of their errors costs.

    Returns:
        ``{"true_yaw", "true_center", "true_size", "true_center_and_size", "true_size_and_yaw"}``; None without boxes.
    """
    parts = {"yaw": "yaw_rad", "center": "center_m", "size": "size_m"}
    rows = {}
    for name in (("yaw",), ("center",), ("size",), ("center", "size"), ("size", "yaw")):
        better = replace(pred, **{parts[part]: getattr(truth, parts[part]) for part in name})
        rows["true_" + "_and_".join(name)] = float(bev_iou(better, truth).mean()) if len(pred) else None
    return rows


def pseudo_label_quality(
    pred: Boxes3D, truth: Boxes3D, distance_m: NDArray[np.floating], bins_m: tuple[tuple[float, float], ...] = BINS_M
) -> dict[str, Any]:
    """Mean quality of pseudo labels over all rows, per true class, and by distance.

    Args:
        pred: N pseudo labels.
        truth: N true boxes, in the same order and frame.
        distance_m: (N,) distance [m] by which rows are put into ``bins_m`` (lo <= distance < hi).
        bins_m: (lo, hi) [m] of each bin.

    Returns:
        JSON-safe ``{"n", "bev_iou", "iou_3d", "center_error_m" (BEV), "size_error", "yaw_error_rad", "axis_error_rad",
        "reversed", "per_class": {class: the same}, "by_group": {name of ``GROUPS``: the same}, "by_distance":
        {"0-10": the same, ...}, "oracles": ..., "calibration": ...}``. Means are None where there is nothing to
        average; ``per_class`` has all ten classes and ``by_distance`` all bins; oracles: ``oracle_iou``; the
        calibration is that of ``pred.score`` (``score_calibration``).

    Raises:
        ValueError: when the lengths differ.
    """
    distance = np.asarray(distance_m, dtype=np.float64).reshape(-1)
    if not len(pred) == len(truth) == len(distance):
        raise ValueError(
            f"rows must be parallel: {len(pred)} pseudo labels, {len(truth)} boxes, {len(distance)} distances"
        )
    columns = {
        "bev_iou": bev_iou(pred, truth),
        "iou_3d": iou_3d(pred, truth),
        "center_error_m": np.linalg.norm(pred.center_m[:, :2].astype(np.float64) - truth.center_m[:, :2], axis=1),
        "size_error": size_error(pred, truth),
        **heading_errors(pred, truth),
    }
    report = _means(columns, np.ones(len(pred), bool))
    report["per_class"] = {name: _means(columns, truth.label == i) for i, name in enumerate(CLASSES)}
    of_group = {name: np.isin(truth.label, [CLASSES.index(c) for c in members]) for name, members in GROUPS.items()}
    report["by_group"] = {name: _means(columns, rows) for name, rows in of_group.items()}
    report["by_distance"] = {f"{lo:g}-{hi:g}": _means(columns, (lo <= distance) & (distance < hi)) for lo, hi in bins_m}
    report["oracles"] = oracle_iou(pred, truth)
    report["calibration"] = score_calibration(pred.score, columns["bev_iou"])
    return report


def score_calibration(score: NDArray[np.floating], reached: NDArray[np.floating], bins: int = 10) -> dict[str, Any]:
    """Whether scores say what quality is reached: equal-width reliability bins and the rank correlation.

    Args:
        score: (N,) predicted quality in [0, 1]. reached: (N,) BEV IoU in [0, 1]. bins: of the score; 1 is in the last.

    Returns:
        JSON-safe ``{"ece", "rank_correlation", "bins": [{"low", "high", "n", "score", "bev_iou"}, ...]}``. ``ece``:
        expected calibration error, the mean over rows of |mean score - mean IoU| of the row's bin (Guo et al., 2017).
        ``rank_correlation``: Spearman's. None where undefined: no rows, or all scores (or all IoUs) equal.
    """
    score, reached = (np.asarray(values, np.float64).reshape(-1) for values in (score, reached))
    place = np.clip((score * bins).astype(np.int64), 0, bins - 1)
    columns = {"score": score, "bev_iou": reached}
    rows = [{"low": i / bins, "high": (i + 1) / bins, **_means(columns, place == i)} for i in range(bins)]
    gaps = [row["n"] * abs(row["score"] - row["bev_iou"]) for row in rows if row["n"]]
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (score, reached)]
    varied = len(score) > 1 and all(np.ptp(values) > 0 for values in ranks)
    return {
        "ece": float(sum(gaps) / len(score)) if len(score) else None,
        "rank_correlation": float(np.corrcoef(ranks)[0, 1]) if varied else None,
        "bins": rows,
    }


def _means(columns: dict[str, NDArray[np.float64]], rows: NDArray[np.bool_]) -> dict[str, Any]:
    means: dict[str, Any] = {"n": int(rows.sum())}
    for name, values in columns.items():
        known = values[rows & ~np.isnan(values)]
        means[name] = float(known.mean()) if len(known) else None
    return means


def _volume(boxes: Boxes3D) -> NDArray[np.float64]:
    return boxes.size_m.astype(np.float64).prod(axis=1)
