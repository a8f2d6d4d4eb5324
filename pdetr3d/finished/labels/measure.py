"""Compares pseudo labels with the true boxes of their clicks, where these are known. Only reports use this."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pdetr3d.class_list import ClassList
from pdetr3d.data.labels.pseudo_table import to_boxes
from pdetr3d.data.loading.records import inspection_records
from pdetr3d.evaluation.figures import QUALITIES
from pdetr3d.evaluation.pseudo_label_quality import (
    BINS_M,
    bev_iou,
    heading_errors,
    iou_3d,
    score_calibration,
    size_error,
)
from pdetr3d.finished.labels.run_labels import RunLabels
from pdetr3d.schema import BOX_COLUMNS, Boxes3D, PointLabels, SampleRecord

NUMBERS = [*BOX_COLUMNS, "score", "direction"]


class MeasuredLabels:
    """All pseudo labels of a run with their distances and, where the true box is known, their errors.

    Attributes:
        table: the rows, index 0, 1, 2 ..., and the columns ``distance_m`` (of the click), ``known`` (bool), QUALITIES
            (see ``heading_errors`` for headings), NaN where the true box is unknown.
        boxes: N boxes of the table.
        truth: N true boxes; where the true box is unknown, it equals the pseudo label.
        records: sample token -> the sample with all its true boxes and its clicks.
    """

    def __init__(self, labels: RunLabels) -> None:
        self.table, self.classes = labels.table.reset_index(drop=True), labels.index.classes
        tokens = list(dict.fromkeys(self.table["sample_token"]))
        records = inspection_records(labels.index, tokens, labels.manifest)
        self.records = {record.sample_token: record for record in records}
        clicks = _concatenate_clicks(records)
        order = pd.Series(np.arange(len(clicks)), clicks.click_id).loc[self.table["click_id"]].to_numpy(np.int64)
        finite = np.isfinite(self.table[NUMBERS].to_numpy(float)).all(1) & (self.table[["l", "w", "h"]] > 0).all(axis=1)
        usable = self.table.copy()
        usable.loc[~finite, NUMBERS] = 1.0  # a placeholder for rejected rows without a valid box
        self.boxes = to_boxes(usable, self.classes)
        at = clicks.box_index[order]
        known = (at >= 0) & finite.to_numpy()
        every = Boxes3D.concatenate([*(record.boxes for record in records), self.boxes])
        own = len(every) - len(self.boxes) + np.arange(len(self.boxes))
        self.truth = every[np.where(known, at, own)]
        self.table["distance_m"] = np.linalg.norm(clicks.xyz_m[order, :2], axis=1)
        self.table["known"] = known
        for name, values in _errors(self.boxes, self.truth, self.classes).items():
            self.table[name] = np.where(known, values, np.nan)

    def worst(self, count: int) -> list[int]:
        """The row numbers of the ``count`` worst accepted boxes: the worst of each class first, then the second, ...

        The worst box has the lowest BEV IoU, and of equal ones the largest center error. If no true box is known, it
        has the lowest score.
        """
        rows = self.table[self.table["accepted"].astype(bool)]
        if rows["known"].any():
            rows = rows[rows["known"]].sort_values(
                ["bev_iou", "center_error_m"], ascending=[True, False], kind="stable"
            )
        else:
            rows = rows.sort_values("score", kind="stable")
        turn = rows.groupby("class").cumcount().to_numpy()
        return [int(row) for row in rows.index[np.argsort(turn, kind="stable")[:count]]]

    def report(self) -> dict[str, Any]:
        """The report, JSON-safe; unknown numbers are None.

        ``all``, ``by_class``, ``by_distance``, ``by_score``: counts, and the mean quality of the accepted rows;
        ``by_direction``: the same of fifths by rank of the direction's probability, of classes that have a direction;
        ``by_reason``: counts, and the mean quality of all rows; ``calibration``: of the accepted rows' scores.
        """
        table, accepted = self.table, self.table["accepted"].astype(bool)
        bins = (*BINS_M, (BINS_M[-1][1], np.inf))
        tenth = np.clip((table["score"] * 10).fillna(0).astype(int), 0, 9)
        reasons = table["reason"].replace("", "accepted as it is")
        rated = table[accepted & table["known"]]
        undirected = self.classes.labels("axis", "none")
        calibration = score_calibration(rated["score"].to_numpy(), rated["bev_iou"].to_numpy())
        directed = table[accepted & ~table["class"].isin([self.classes.names[i] for i in undirected])]
        rank = 5 * directed["direction"].rank(method="first", pct=True)
        return {
            "all": _row(table),
            "by_class": {name: _row(table[table["class"] == name]) for name in self.classes.names},
            "by_distance": {
                f"{lo:g}-{hi:g}": _row(table[(lo <= table["distance_m"]) & (table["distance_m"] < hi)])
                for lo, hi in bins
            },
            "by_score": {f"{i / 10:g}-{(i + 1) / 10:g}": _row(table[tenth == i]) for i in range(10)},
            "by_direction": {f"{20 * i}-{20 * i + 20}": _row(directed[(i < rank) & (rank <= i + 1)]) for i in range(5)},
            "by_reason": {name: _row(table[reasons == name], of_all=True) for name in reasons.value_counts().index},
            "calibration": {name: calibration[name] for name in ("ece", "rank_correlation")},
        }


def _errors(boxes: Boxes3D, truth: Boxes3D, classes: ClassList) -> dict[str, NDArray[np.float64]]:
    return {
        "bev_iou": bev_iou(boxes, truth),
        "iou_3d": iou_3d(boxes, truth),
        "center_error_m": np.linalg.norm(boxes.center_m[:, :2].astype(np.float64) - truth.center_m[:, :2], axis=1),
        "size_error": size_error(boxes, truth),
        **heading_errors(boxes, truth, classes),
    }


def _row(group: pd.DataFrame, of_all: bool = False) -> dict[str, float | None]:
    """Counts of a group of rows, and means over its accepted ones (or all)."""
    accepted = group["accepted"].astype(bool)
    measured = group if of_all else group[accepted]
    means = {name: measured[name].mean() for name in ("score", *QUALITIES)}
    return {
        "clicks": len(group),
        "accepted": int(accepted.sum()),
        "known": int(measured["known"].sum()),
        **{name: float(value) if np.isfinite(value) else None for name, value in means.items()},
    }


def _concatenate_clicks(records: list[SampleRecord]) -> PointLabels:
    """The clicks of all records; ``box_index`` points into the concatenated boxes of all records."""
    parts, offset = [PointLabels.empty()], 0
    for record in records:
        clicks = record.clicks
        at = np.where(clicks.box_index >= 0, clicks.box_index + offset, -1)
        parts.append(PointLabels(clicks.click_id, clicks.xyz_m, clicks.label, at))
        offset += len(record.boxes)
    columns = ("click_id", "xyz_m", "label", "box_index")
    return PointLabels(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))
