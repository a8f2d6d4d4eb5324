"""Matches and averages detections as the devkit does, but some samples at a time, so that memory does not grow.

A detection is matched within its sample alone, so that samples can be matched one after another. The numbers that the
devkit's ``accumulate`` then needs of each detection go to files (``ColumnFiles``) of its class; sorting and averaging
read them back. Tests compare the result with the devkit's.

Legend: N detections of a class, M of them matched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.utils import attr_acc, center_distance, scale_iou, velocity_l2, yaw_diff
from nuscenes.eval.detection.algo import calc_ap, calc_tp
from nuscenes.eval.detection.constants import TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionConfig, DetectionMetricData, DetectionMetrics

from pdetr3d.class_list import ClassList
from pdetr3d.evaluation.class_scoring import ClassMetrics
from pdetr3d.evaluation.column_files import ColumnFiles, backwards, descending, slices

PART = 1 << 16  # number of detections in memory at a time
WALKING = "pedestrian.moving"
ERRORS = ("trans_err", "vel_err", "scale_err", "orient_err", "attr_err")


class Matching:
    """Collects samples and computes the devkit's metrics of them.

    Args:
        config: the devkit's; its class ranges are not used here. classes: the classes to score.

    Attributes:
        n_gt: number of objects by class. walking: number of the objects that are moving people.
    """

    def __init__(self, config: DetectionConfig, classes: ClassList) -> None:
        self.config, self.n_gt, self.walking = config, Counter[str](), 0
        self.classes, self._axis = classes, {classes.names[label] for label in classes.labels("axis")}
        self._files = {name: ColumnFiles() for name in classes.names}
        self._read: dict[str, dict[str, NDArray[np.float64]]] = {}

    def add(self, gt: EvalBoxes, pred: EvalBoxes) -> None:
        """Add objects and detections of some samples, filtered by range; no sample may be added twice."""
        for token in gt.sample_tokens:
            self.n_gt.update(box.detection_name for box in gt[token])
            self.walking += sum(box.attribute_name == WALKING for box in gt[token])
        for token in pred.sample_tokens:
            for name in {box.detection_name for box in pred[token]}:
                objects = [box for box in gt[token] if box.detection_name == name]
                found = [box for box in pred[token] if box.detection_name == name]
                self._files[name].add(self._columns(name, objects, found))

    def _columns(
        self, name: str, objects: Sequence[DetectionBox], found: Sequence[DetectionBox]
    ) -> dict[str, NDArray[np.float64]]:
        """Columns (n,) of the n detections of one class in one sample.

        ``score``; ``hit@D``: 1 where matched at distance D, else 0; the devkit's ERRORS, ``yaw`` and ``axis`` errors
        [rad] and ``walks`` (whether the object is a moving person) of detections that are matched at ``dist_th_tp``,
        NaN for the others.
        """
        columns = {"score": np.array([box.detection_score for box in found])}
        extra = (*ERRORS, "yaw", "axis", "walks")
        columns |= {key: np.full(len(found), np.nan) for key in extra}
        for threshold in self.config.dist_ths:
            pairs = match(objects, found, threshold)
            columns[f"hit@{threshold}"] = np.zeros(len(found))
            columns[f"hit@{threshold}"][[j for _, j in pairs]] = 1
            if threshold != self.config.dist_th_tp:
                continue
            for i, j in pairs:
                one, other = objects[i], found[j]
                yaw, axis = yaw_diff(one, other, period=2 * np.pi), yaw_diff(one, other, period=np.pi)
                values = (
                    center_distance(one, other),
                    velocity_l2(one, other),
                    1 - scale_iou(one, other),
                    axis if name in self._axis else yaw,
                    1 - attr_acc(one, other),
                    yaw,
                    axis,
                    float(one.attribute_name == WALKING),
                )
                for key, value in zip(extra, values, strict=True):
                    columns[key][j] = value
        return columns

    def columns(self, name: str) -> dict[str, NDArray[np.float64]]:
        """The columns (N,) of a class; an empty dict if nothing was detected. Nothing can be added afterwards.

        ``order`` holds the rows by descending score; of equal scores the later detection comes first.
        """
        if name not in self._read:
            found = self._files[name].mapped()
            self._read[name] = found | ({"order": descending(found["score"], PART)} if found else {})
        return self._read[name]

    def matched(self, name: str) -> dict[str, NDArray[np.float64]]:
        """``yaw`` and ``axis`` errors [rad] and ``walks``, each (M,), of the detections matched at ``dist_th_tp``."""
        columns, keys = self.columns(name), ("yaw", "axis", "walks")
        if not columns:
            return {key: np.zeros(0) for key in keys}
        return _matched(columns, range(len(columns["score"])), f"hit@{self.config.dist_th_tp}", keys)

    def metrics(self) -> DetectionMetrics:
        """The metrics, as ``DetectionEval.evaluate`` computes them."""
        config, made = self.config, (ClassMetrics if self.classes.own else DetectionMetrics)(self.config)
        undefined = {each.name: each.undefined for each in self.classes.classes}
        for name in config.class_names:
            for threshold in config.dist_ths:
                data = self.metric_data(name, threshold)
                made.add_label_ap(name, threshold, calc_ap(data, config.min_recall, config.min_precision))
                if threshold == config.dist_th_tp:
                    for metric in TP_METRICS:
                        value = np.nan if metric in undefined[name] else calc_tp(data, config.min_recall, metric)
                        made.add_label_tp(name, metric, value)
        return made

    def metric_data(self, name: str, threshold: float) -> DetectionMetricData:
        """The curves of a class at a matching distance [m], as the devkit's ``accumulate`` computes them.

        Errors are computed at ``dist_th_tp`` only; at other distances they are 1, and nobody reads them.
        """
        columns, objects = self.columns(name), self.n_gt[name]
        if not columns or not objects or not columns[f"hit@{threshold}"].any():
            return DetectionMetricData.no_predictions()
        curve = _curve(columns["score"], columns[f"hit@{threshold}"], columns["order"], objects)
        recall = np.linspace(0, 1, DetectionMetricData.nelem)
        precision = np.interp(recall, curve["recall"], curve["precision"], right=0)
        confidence = np.interp(recall, curve["recall"], curve["score"], right=0)
        errors = dict.fromkeys(ERRORS, np.ones(DetectionMetricData.nelem))
        if threshold == self.config.dist_th_tp:
            matched = _matched(columns, columns["order"], f"hit@{threshold}", ("score", *ERRORS))
            rising = backwards(matched["score"], PART)
            for key in ERRORS:
                mean = backwards(_cummean(matched[key]), PART)
                errors[key] = np.interp(confidence[::-1], rising, mean)[::-1]
        return DetectionMetricData(recall=recall, precision=precision, confidence=confidence, **errors)


def match(objects: Sequence[DetectionBox], found: Sequence[DetectionBox], threshold_m: float) -> list[tuple[int, int]]:
    """Match one class in one sample: in descending score, each detection takes the nearest object that is still free,
    if its center is nearer than ``threshold_m`` in the ground plane.

    Returns:
        (index of the object, index of the detection) of each pair.
    """
    if not objects or not found:
        return []
    places = [np.array([box.translation[:2] for box in boxes]) for boxes in (objects, found)]
    distance = np.linalg.norm(places[1][:, None] - places[0][None], axis=2)  # (detections, objects)
    pairs = []
    for _, j in sorted(((box.detection_score, j) for j, box in enumerate(found)), reverse=True):
        i = int(np.argmin(distance[j]))
        if distance[j, i] < threshold_m:
            pairs.append((i, j))
            distance[:, i] = np.inf
    return pairs


def _curve(
    score: NDArray[np.float64], hit: NDArray[np.float64], order: NDArray[np.float64], objects: int
) -> dict[str, NDArray[np.float64]]:
    """Recall, precision and score (N,) along the detections in ``order``, in mapped files."""
    files, true = ColumnFiles(), 0.0
    for part in slices(len(order), PART):
        chosen = order[part].astype(np.int64)
        cumulated = true + np.cumsum(hit[chosen])
        count = np.arange(part.start + 1, part.stop + 1, dtype=np.float64)
        files.add({"recall": cumulated / objects, "precision": cumulated / count, "score": score[chosen]})
        true = float(cumulated[-1])
    return files.mapped()


def _matched(
    columns: dict[str, NDArray[np.float64]], rows: NDArray[np.float64] | range, hit: str, keys: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """The columns ``keys`` (M,) of those of ``rows`` (N,) whose column ``hit`` is 1, in mapped files."""
    files = ColumnFiles()
    for part in slices(len(rows), PART):
        chosen = np.array(rows[part], np.int64)
        chosen = chosen[columns[hit][chosen] > 0]
        files.add({key: columns[key][chosen] for key in keys})
    return files.mapped()


def _cummean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The devkit's ``cummean``, in a mapped file: running means (N,) of values, without those that are NaN."""
    files, total, known = ColumnFiles(), 0.0, 0
    for part in slices(len(values), PART):
        chosen = values[part]
        number = ~np.isnan(chosen)
        sums = np.cumsum(np.r_[total, np.where(number, chosen, 0.0)])[1:]  # sums in the same order as in one piece
        counts = known + np.cumsum(number)
        files.add({"mean": np.divide(sums, counts, out=np.zeros_like(sums), where=counts != 0)})
        total, known = float(sums[-1]), int(counts[-1])
    return files.mapped()["mean"] if known else np.ones(len(values))
