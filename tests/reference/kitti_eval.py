"""Slow oracle: KITTI's development kit (evaluate_object.cpp) in plain loops: statistics at a threshold, and sampling of
thresholds. Boxes are rows x, y, z, l, w, h, yaw; detections are dictionaries kind, height, score, box."""

from __future__ import annotations

import math

from shapely.geometry import Polygon

IOU = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
LIMITS = {"easy": (40, 0, 0.15), "moderate": (25, 1, 0.3), "hard": (25, 2, 0.5)}


def ground(box) -> Polygon:
    x, y, _, length, w, _, yaw = box
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    return Polygon(
        [
            (
                x + math.cos(yaw) * a * length / 2 - math.sin(yaw) * b * w / 2,
                y + math.sin(yaw) * a * length / 2 + math.cos(yaw) * b * w / 2,
            )
            for a, b in signs
        ]
    )


def iou(a, b, metric: str) -> float:
    if math.dist(a[:2], b[:2]) > (math.hypot(a[3], a[4]) + math.hypot(b[3], b[4])) / 2:
        return 0.0
    shared = ground(a).intersection(ground(b)).area
    if metric == "bev":
        return shared / (a[3] * a[4] + b[3] * b[4] - shared)
    height = max(0.0, min(a[2] + a[5] / 2, b[2] + b[5] / 2) - max(a[2] - a[5] / 2, b[2] - b[5] / 2))
    return shared * height / (a[3] * a[4] * a[5] + b[3] * b[4] * b[5] - shared * height)


def states(labels, detections, name: str, difficulty: str):
    height, occlusion, truncation = LIMITS[difficulty]
    neighbor = {"Car": "Van", "Pedestrian": "Person_sitting"}.get(name)
    of_label = []
    for label in labels:
        ignore = label["occluded"] > occlusion or label["truncated"] > truncation or label["height"] < height
        if label["kind"] == name and not ignore:
            of_label.append(0)
        elif label["kind"] in (name, neighbor):
            of_label.append(1)
        else:
            of_label.append(-1)
    of_detection = [1 if d["height"] < height else 0 if d["kind"] == name else -1 for d in detections]
    return of_label, of_detection


def statistics(labels, detections, name: str, difficulty: str, metric: str, threshold: float | None):
    """(scores of true positives, their number, false positives, false negatives); threshold None: the first pass."""
    of_label, of_detection = states(labels, detections, name, difficulty)
    assigned = [False] * len(detections)
    below = [threshold is not None and d["score"] < threshold for d in detections]
    scores, tp, fp, fn = [], 0, 0, 0
    for i, label in enumerate(labels):
        if of_label[i] == -1:
            continue
        found, best_score, best_overlap, small = -1, -1e7, 0.0, False
        for j, detection in enumerate(detections):
            if of_detection[j] == -1 or assigned[j] or below[j]:
                continue
            overlap = iou(label["box"], detection["box"], metric)
            if overlap <= IOU[name]:
                continue
            if threshold is None:
                if detection["score"] > best_score:
                    found, best_score = j, detection["score"]
            elif of_detection[j] == 0 and (overlap > best_overlap or small):
                found, best_overlap, small = j, overlap, False
            elif of_detection[j] == 1 and found == -1:
                found, small = j, True
        if found == -1:
            fn += of_label[i] == 0
        else:
            assigned[found] = True
            if of_label[i] == 0 and of_detection[found] == 0:
                tp += 1
                scores.append(detections[found]["score"])
    for j in range(len(detections)):
        fp += not (assigned[j] or below[j]) and of_detection[j] == 0
    return scores, tp, fp, fn


def average_precision(frames, name: str, difficulty: str, metric: str, kit: bool) -> float | None:
    """The AP with thresholds as the kit samples them (``kit``), or with one for each of the 40 recall points."""
    count = sum(states(*frame, name, difficulty)[0].count(0) for frame in frames)
    if not count:
        return None
    scores = sorted(
        (s for frame in frames for s in statistics(*frame, name, difficulty, metric, None)[0]), reverse=True
    )
    thresholds = []
    if kit:
        recall = 0.0
        for i, score in enumerate(scores):
            left = (i + 1) / count
            right = (i + 2) / count if i < len(scores) - 1 else left
            if right - recall < recall - left and i < len(scores) - 1:
                continue
            thresholds.append(score)
            recall += 1 / 40
    else:
        for k in range(1, 41):
            found = next((i for i in range(1, len(scores) + 1) if i / count >= k / 40 - 1e-12), None)
            if found is not None:
                thresholds.append(scores[found - 1])
    precision = [0.0] * 41
    for place, threshold in enumerate(thresholds):
        parts = [statistics(*frame, name, difficulty, metric, threshold) for frame in frames]
        tp, fp = sum(part[1] for part in parts), sum(part[2] for part in parts)
        precision[place + (0 if kit else 1)] = tp / (tp + fp)
    best = [max(precision[i:]) for i in range(41)]
    return 100 * sum(best[1:]) / 40
