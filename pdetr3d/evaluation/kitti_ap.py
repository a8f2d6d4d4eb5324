"""Computes KITTI's detection score: AP at 40 recall points, of boxes in 3D and seen from above.

Matching, difficulties and the objects that count are those of the benchmark's development kit (evaluate_object.cpp).
The recall points are exact: the precision at recall k / 40 is taken at the highest score threshold at which k / 40 of
the objects are found. The kit takes one threshold per step of recall that the found objects make. With fewer than 41
objects some of its 40 points thus stay empty, so that even perfect predictions do not reach 100. With many objects both
are equal.

Legend: N labels, M detections of a frame, T score thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pdetr3d.geometry.boxes import bev_overlaps, footprints

IOU = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}  # class -> a correct detection overlaps the object by more
NEIGHBOR = {"Car": "Van", "Pedestrian": "Person_sitting"}  # class -> the class whose detection is not counted as wrong
# Difficulty -> least height in the image [px], highest occlusion (KITTI's number 0 .. 3), highest truncation (share).
DIFFICULTY = {"easy": (40.0, 0, 0.15), "moderate": (25.0, 1, 0.3), "hard": (25.0, 2, 0.5)}
METRICS = ("3d", "bev")
RECALL_POINTS = 40
COUNTS, NEITHER, OTHER = 0, 1, -1  # a label or a detection is: scored; matched but not scored; of another class


@dataclass(frozen=True)
class Labeled:
    """The labels of a frame, without DontCare, which the kit uses only for boxes in images.

    Attributes:
        kind: (N,) KITTI's types. height_px: (N,) heights of their rectangles in the image [px].
        occluded: (N,) KITTI's number. truncated: (N,) share outside the image.
        box: (N, 7) x, y, z, l, w, h [m], yaw [rad], in a frame in which KITTI's boxes stand upright.
    """

    kind: NDArray[np.str_]
    height_px: NDArray[np.float64]
    occluded: NDArray[np.int64]
    truncated: NDArray[np.float64]
    box: NDArray[np.float64]


@dataclass(frozen=True)
class Detected:
    """The detections of a frame.

    Attributes:
        kind: (M,) KITTI's types. height_px: (M,) in the image [px]. score: (M,). box: (M, 7), as ``Labeled.box``.
    """

    kind: NDArray[np.str_]
    height_px: NDArray[np.float64]
    score: NDArray[np.float64]
    box: NDArray[np.float64]


def kitti_ap(frames: Sequence[tuple[Labeled, Detected]]) -> dict[str, Any]:
    """Score frames.

    Returns:
        JSON-safe, for each class of IOU: ``3d`` and ``bev`` -> difficulty -> AP in percent (None without objects);
        ``n_gt`` -> difficulty -> number of objects.
    """
    overlaps = [overlap(labeled.box, detected.box) for labeled, detected in frames]
    report: dict[str, Any] = {}
    for name in IOU:
        report[name] = {metric: {} for metric in METRICS} | {"n_gt": {}}
        for difficulty in DIFFICULTY:
            states = [
                (_of_labels(labeled, name, difficulty), _of_detections(detected, name, difficulty))
                for labeled, detected in frames
            ]
            count = sum(int((labels == COUNTS).sum()) for labels, _ in states)
            report[name]["n_gt"][difficulty] = count
            for metric in METRICS:
                matched = [
                    (each[metric] > IOU[name], each[metric], *state, detected.score)
                    for each, state, (_, detected) in zip(overlaps, states, frames, strict=True)
                ]
                report[name][metric][difficulty] = _average_precision(matched, count) if count else None
    return report


# correct (N, M): the IoU suffices; IoU (N, M); state of labels (N,) and of detections (M,): COUNTS, ...; score (M,)
_Matching = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def _average_precision(frames: list[_Matching], count: int) -> float:
    """AP in percent over frames with ``count`` objects."""
    found = np.sort(np.concatenate([np.zeros(0), *(_found_scores(*frame) for frame in frames)]))[::-1]
    needed = np.ceil(np.arange(1, RECALL_POINTS + 1) / RECALL_POINTS * count - 1e-9).astype(np.int64)
    thresholds = found[needed[needed <= len(found)] - 1]
    counts = sum((_at_thresholds(*frame, thresholds) for frame in frames), np.zeros((2, len(thresholds)), np.int64))
    right, wrong = counts
    precision = right / np.maximum(right + wrong, 1)
    return float(100 * np.maximum.accumulate(precision[::-1]).sum() / RECALL_POINTS)


def _found_scores(
    right: NDArray[np.bool_], _: NDArray, labels: NDArray[np.int64], detections: NDArray[np.int64], score: NDArray
) -> NDArray[np.float64]:
    """The scores of the detections that find an object, if each label takes the remaining detection of best score."""
    free, scores = detections != OTHER, []
    for number in np.flatnonzero(labels != OTHER):
        may = right[number] & free
        if may.any():
            best = int(np.argmax(np.where(may, score, -np.inf)))
            free[best] = False
            if labels[number] == COUNTS and detections[best] == COUNTS:
                scores.append(score[best])
    return np.array(scores)


def _at_thresholds(
    right: NDArray[np.bool_],
    overlaps: NDArray[np.float64],
    labels: NDArray[np.int64],
    detections: NDArray[np.int64],
    score: NDArray[np.float64],
    thresholds: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Count correct and wrong detections at each score threshold: (2, T) int64.

    Each label takes the remaining detection of highest IoU; a detection too small to be scored only if no other fits.
    """
    free = (score >= thresholds[:, None]) & (detections != OTHER)
    correct = np.zeros(len(thresholds), np.int64)
    rows = np.arange(len(thresholds))
    for number in np.flatnonzero(labels != OTHER):
        may = free & right[number]
        scored = may & (detections == COUNTS)
        # An IoU is at most 1: scored detections rank first, by IoU; of the others the first in the list is taken.
        rank = np.where(scored, 1 + overlaps[number], np.where(may, 0.5, -1.0))
        if not rank.shape[1]:
            break
        best = rank.argmax(1)
        taken = rank[rows, best] > 0
        free[rows[taken], best[taken]] = False
        correct += taken & (rank[rows, best] >= 1) & (labels[number] == COUNTS)
    wrong = (free & (detections == COUNTS)).sum(1)
    return np.stack([correct, wrong])


def _of_labels(labeled: Labeled, name: str, difficulty: str) -> NDArray[np.int64]:
    """(N,) COUNTS, NEITHER (too hard, or of the neighboring class) or OTHER."""
    height, occluded, truncated = DIFFICULTY[difficulty]
    hard = (labeled.height_px < height) | (labeled.occluded > occluded) | (labeled.truncated > truncated)
    own = labeled.kind == name
    return np.where(own & ~hard, COUNTS, np.where(own | (labeled.kind == NEIGHBOR.get(name, "")), NEITHER, OTHER))


def _of_detections(detected: Detected, name: str, difficulty: str) -> NDArray[np.int64]:
    """(M,) COUNTS, NEITHER (too small in the image) or OTHER."""
    small = detected.height_px < DIFFICULTY[difficulty][0]
    return np.where(small, NEITHER, np.where(detected.kind == name, COUNTS, OTHER))


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Intersection over union of boxes (N, 7) with boxes (M, 7), each (N, M): "bev", seen from above, and "3d"."""
    shared = np.zeros((len(a), len(b)))
    first, second = np.nonzero(bev_overlaps(a, b)) if len(a) and len(b) else (np.zeros(0, int), np.zeros(0, int))
    one, other = (footprints(box[:, :3], box[:, 3:6], box[:, 6]) for box in (a, b))
    shared[first, second] = shapely.area(shapely.intersection(one[first], other[second]))
    area = [box[:, 3] * box[:, 4] for box in (a, b)]
    top = np.minimum(*np.meshgrid(a[:, 2] + a[:, 5] / 2, b[:, 2] + b[:, 5] / 2, indexing="ij"))
    bottom = np.maximum(*np.meshgrid(a[:, 2] - a[:, 5] / 2, b[:, 2] - b[:, 5] / 2, indexing="ij"))
    volume = shared * np.maximum(top - bottom, 0)
    volumes = (area[0] * a[:, 5])[:, None] + (area[1] * b[:, 5])[None]
    return {
        "bev": shared / (area[0][:, None] + area[1][None] - shared),
        "3d": volume / (volumes - volume),
    }
