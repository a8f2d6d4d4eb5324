"""Measures the quality of pseudo labels, whose row i belongs to row i of the true boxes, so that no matching is needed.

Only reports use this: training never sees the true boxes of point-labeled samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdetr3d.class_list import ClassList
from pdetr3d.evaluation.column_files import slices
from pdetr3d.evaluation.figures import QUALITIES
from pdetr3d.evaluation.ranks import rank_correlation
from pdetr3d.geometry.boxes import bev_iou_aligned
from pdetr3d.schema import Boxes3D

BINS_M = ((0, 10), (10, 20), (20, 30), (30, 40), (40, 52))  # method.md 6.1
Bins = tuple[tuple[float, float], ...]
PART = 1 << 18  # number of a column's rows in memory at a time


def bev_iou(a: Boxes3D, b: Boxes3D) -> NDArray[np.float64]:
    """The exact IoU (N,) in [0, 1] of rotated boxes seen from above, row by row; both in one frame.

    Raises:
        ValueError: when the lengths differ.
    """
    if len(a) != len(b):
        raise ValueError(f"rows must be parallel: {len(a)} and {len(b)} boxes")
    return bev_iou_aligned(a.rows, b.rows)


def iou_3d(a: Boxes3D, b: Boxes3D) -> NDArray[np.float64]:
    """The exact 3D IoU (N,) in [0, 1] of upright rotated boxes, row by row; both in one frame.

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
    """1 - IoU (N,) of the boxes after aligning centers and headings (the devkit's ``1 - scale_iou``: ASE)."""
    overlap = np.minimum(pred.size_m, truth.size_m).astype(np.float64).prod(axis=1)
    return 1 - overlap / (_volume(pred) + _volume(truth) - overlap)


def yaw_error_rad(pred: Boxes3D, truth: Boxes3D, classes: ClassList) -> NDArray[np.float64]:
    """The smallest angle (N,) [rad] between the headings (the devkit's ``yaw_diff``: AOE).

    The true class decides the period: pi for barriers, which look the same from both sides, else 2 pi. Cones have no
    heading: NaN.
    """
    period = np.where(np.isin(truth.label, classes.labels("axis")), np.pi, 2 * np.pi)
    difference = truth.yaw_rad.astype(np.float64) - pred.yaw_rad
    error = np.abs((difference + period / 2) % period - period / 2)
    return np.where(np.isin(truth.label, classes.labels("none")), np.nan, error)


def heading_errors(pred: Boxes3D, truth: Boxes3D, classes: ClassList) -> dict[str, NDArray[np.float64]]:
    """The heading error and its two parts, each (N,) float64.

    Returns:
        ``yaw_error_rad``: of the function of this name; ``axis_error_rad``: the angle between the boxes' axes, at most
        pi / 2; ``reversed``: 1 where the heading is off by more than pi / 2, else 0, and NaN for barriers and cones,
        which have no direction.
    """
    yaw = yaw_error_rad(pred, truth, classes)
    axis = np.minimum(yaw, np.pi - yaw)
    is_reversed = np.where(np.isnan(yaw) | np.isin(truth.label, classes.labels("axis")), np.nan, yaw > np.pi / 2)
    return {"yaw_error_rad": yaw, "axis_error_rad": axis, "reversed": is_reversed}


def oracle_ious(pred: Boxes3D, truth: Boxes3D) -> dict[str, NDArray[np.float64]]:
    """The BEV IoU that each box would have if parts of it were true, which shows the cost of each error.

    Returns:
        "true_yaw", "true_center", "true_size", "true_center_and_size", "true_size_and_yaw" -> (N,) float64.
    """
    parts = {"yaw": "yaw_rad", "center": "center_m", "size": "size_m"}
    found = {}
    for name in (("yaw",), ("center",), ("size",), ("center", "size"), ("size", "yaw")):
        better = replace(pred, **{parts[part]: getattr(truth, parts[part]) for part in name})
        found["true_" + "_and_".join(name)] = bev_iou(better, truth)
    return found


def pseudo_label_quality(
    pred: Boxes3D,
    truth: Boxes3D,
    distance_m: NDArray[np.floating],
    bins_m: Bins = BINS_M,
    *,
    classes: ClassList,
) -> dict[str, Any]:
    """The mean quality of pseudo labels over all rows, per true class, per group of classes, and by distance.

    Args:
        pred: N pseudo labels.
        truth: N true boxes, in the same order and frame.
        distance_m: (N,) distance [m] that puts rows into ``bins_m`` (lo <= distance < hi).
        bins_m: (lo, hi) [m] of each bin.
        classes: names of ``Boxes3D.label``.

    Returns:
        JSON-safe dict with the number of rows "n" and the means of QUALITIES ("center_error_m" is in BEV). "per_class"
        -> class, "by_group" -> group (``ClassList.groups``) and "by_distance" -> bin ("0-10", ...) hold the same
        figures of those rows, for all classes, groups and bins. "oracles": the means of ``oracle_ious``. "calibration":
        ``score_calibration`` of ``pred.score``. "directions": ``turned_by_direction`` of ``pred.direction``. Means are
        None if there is nothing to average.

    Raises:
        ValueError: when the lengths differ.
    """
    return report_of(measures(pred, truth, distance_m, classes), bins_m, classes=classes)


def measures(
    pred: Boxes3D, truth: Boxes3D, distance_m: NDArray[np.floating], classes: ClassList
) -> dict[str, NDArray[np.float64]]:
    """The columns (N,) float64 that ``report_of`` needs; they may be made piece by piece and concatenated.

    Args:
        pred, truth, distance_m, classes: as ``pseudo_label_quality``.

    Returns:
        QUALITIES, the names of ``oracle_ious``, "label" (true class), "distance_m", "score" and "direction".

    Raises:
        ValueError: when the lengths differ.
    """
    distance = np.asarray(distance_m, dtype=np.float64).reshape(-1)
    if not len(pred) == len(truth) == len(distance):
        raise ValueError(
            f"rows must be parallel: {len(pred)} pseudo labels, {len(truth)} boxes, {len(distance)} distances"
        )
    return {
        "bev_iou": bev_iou(pred, truth),
        "iou_3d": iou_3d(pred, truth),
        "center_error_m": np.linalg.norm(pred.center_m[:, :2].astype(np.float64) - truth.center_m[:, :2], axis=1),
        "size_error": size_error(pred, truth),
        **heading_errors(pred, truth, classes),
        **oracle_ious(pred, truth),
        "label": truth.label.astype(np.float64),
        "distance_m": distance,
        "score": pred.score.astype(np.float64),
        "direction": pred.direction.astype(np.float64),
    }


def report_of(
    columns: Mapping[str, NDArray[np.float64]], bins_m: Bins = BINS_M, *, classes: ClassList
) -> dict[str, Any]:
    """``pseudo_label_quality`` from the columns of ``measures``; columns in mapped files are read in parts."""
    label, distance = columns["label"], columns["distance_m"]
    means = {name: columns[name] for name in QUALITIES}
    of_class = {name: label == i for i, name in enumerate(classes.names)}
    report = _means(means, np.ones(len(label), bool))
    report["per_class"] = {name: _means(means, rows) for name, rows in of_class.items()}
    of_group = {name: [of_class[each] for each in members] for name, members in classes.groups.items()}
    report["by_group"] = {name: _means(means, np.logical_or.reduce(rows)) for name, rows in of_group.items()}
    report["by_distance"] = {f"{lo:g}-{hi:g}": _means(means, (lo <= distance) & (distance < hi)) for lo, hi in bins_m}
    oracles = {name: columns[name] for name in columns if name.startswith("true_")}
    report["oracles"] = {k: v for k, v in _means(oracles, np.ones(len(label), bool)).items() if k != "n"}
    report["calibration"] = score_calibration(columns["score"], columns["bev_iou"])
    report["directions"] = turned_by_direction(columns["direction"], columns["reversed"])
    return report


def score_calibration(score: NDArray[np.floating], reached: NDArray[np.floating], bins: int = 10) -> dict[str, Any]:
    """Compare predicted with actual quality: reliability bins of equal width, and the rank correlation.

    Args:
        score: (N,) predicted quality in [0, 1].
        reached: (N,) actual quality, the BEV IoU in [0, 1].
        bins: number of bins of the score; a score of 1 is in the last.

    Returns:
        JSON-safe ``{"ece", "rank_correlation", "bins": [{"low", "high", "n", "score", "bev_iou"}, ...]}``. ``ece``:
        expected calibration error, the mean over rows of |mean score - mean IoU| of the row's bin (Guo et al., 2017).
        ``rank_correlation``: Spearman's; None where undefined: no rows, or all scores (or all IoUs) equal.
    """
    columns, place = {"score": score, "bev_iou": reached}, np.empty(len(score), np.int8)
    for part in slices(len(score), PART):
        place[part] = np.clip((np.asarray(score[part], np.float64) * bins).astype(np.int64), 0, bins - 1)
    rows = [{"low": i / bins, "high": (i + 1) / bins, **_means(columns, place == i)} for i in range(bins)]
    gaps = [row["n"] * abs(row["score"] - row["bev_iou"]) for row in rows if row["n"]]
    return {
        "ece": float(sum(gaps) / len(score)) if len(score) else None,
        "rank_correlation": rank_correlation(score, reached),
        "bins": rows,
    }


def turned_by_direction(
    direction: NDArray[np.floating], turned: NDArray[np.floating], parts: int = 5
) -> list[dict[str, float]]:
    """The share of turned headings by rank of the direction's probability, which ``student.direction_share`` cuts.

    Args:
        direction: (N,) probability of the direction. turned: (N,) 1 where it is wrong, 0 where not, NaN without one.
        parts: number of parts of about equal size.

    Returns:
        From the least to the most probable part: {"n", "direction", "turned"}, the last two means; no empty parts.
    """
    known = np.flatnonzero(~np.isnan(turned))
    order = known[np.argsort(direction[known], kind="stable")]
    return [
        {"n": len(rows), "direction": float(np.mean(direction[rows])), "turned": float(np.mean(turned[rows]))}
        for rows in np.array_split(order, parts)
        if len(rows)
    ]


def _means(columns: Mapping[str, NDArray[np.floating]], rows: NDArray[np.bool_]) -> dict[str, Any]:
    """``n``, the number of rows where ``rows`` is true, and each column's mean over them, NaN left out."""
    total, known = dict.fromkeys(columns, 0.0), dict.fromkeys(columns, 0)
    for part in slices(len(rows), PART):
        for name, column in columns.items():
            values = np.asarray(column[part], np.float64)[rows[part]]
            values = values[~np.isnan(values)]
            total[name] += float(values.sum())
            known[name] += len(values)
    means = {name: total[name] / known[name] if known[name] else None for name in columns}
    return {"n": int(rows.sum()), **means}


def _volume(boxes: Boxes3D) -> NDArray[np.float64]:
    return boxes.size_m.astype(np.float64).prod(axis=1)
