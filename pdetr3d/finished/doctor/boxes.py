"""Checks of the teacher's boxes: against a box without training, against LiDAR alone, by class and distance, by score.

A check gets the run and optionally (``--against``) the run of a LiDAR-only teacher. It raises DataError, or KeyError
(see ``Run``), when the run's files lack the facts that it needs. "Quickstart" in the comments below means the runs of
the quickstart at commit 75dbf0f and before, and the teachers of its initialization study, on the simulated world.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from pdetr3d.evaluation.pseudo_label_quality import BINS_M
from pdetr3d.finished.doctor.result import Result, change, setting
from pdetr3d.finished.doctor.run import Run
from pdetr3d.schema import DataError

IOU_MARGIN = 0.01  # least gain in mean BEV IoU: three times the difference between seeds (README, fusion: up to 0.003)
YAW_MARGIN_RAD = 0.05  # least gain in yaw error: seeds' standard deviations are 0.03 to 0.08
FAR_M = 30  # beyond this distance images must improve the boxes
# A larger center error than the clicks' by this much means lost queries. Usable teachers of the quickstart have no
# larger error than the clicks; those with lost queries have one that is larger by 4 m or more.
QUERY_OFF_M = 0.5
MIN_CLICKS = 30  # smaller groups are not judged: single IoUs scatter by about 0.2, the mean of 30 by 0.04
POOR_SHARE = 2 / 3  # of the IoU of all clicks; the quickstart's worst class reaches 0.80, its worst distance band 0.98
BELOW_FLOOR = 0.02  # allowed IoU below the group's class-mean box; the quickstart's worst class is 0.002 below
REJECTED = 0.1  # allowed share of rejected labels in a group; the quickstart's teachers lose none within range
ECE = 0.1  # highest calibration error; usable teachers of the quickstart have 0.003 to 0.075
RANK = 0.2  # lowest Spearman correlation of score and IoU; usable teachers of the quickstart have 0.39 to 0.47


def floor(run: Run, other: Run | None) -> Result:
    """Check that the teacher's boxes are better than the class-mean box at the click, which needs no training."""
    mine, mean = run.teacher, run.class_mean
    seen = (
        f"BEV IoU {mine['bev_iou']:.3f}, class-mean box {mean['bev_iou']:.3f} ({mine['n']} clicks; {run.source_file})"
    )
    if mine["bev_iou"] >= mean["bev_iou"] + IOU_MARGIN:
        return Result("ok", seen)
    if mine["center_error_m"] > mean["center_error_m"] + QUERY_OFF_M:
        advice = (
            f"queries do not stay at their clicks: {setting(run, 'teacher.query_init', 'explicit')}, "
            f"{setting(run, 'teacher.matching', 'direct')}",
            "where both are so already, look at clicks and boxes of a sample with `pdetr3d inspect`",
        )
    else:
        advice = (
            f"queries are at their clicks but learn no boxes: {change(run, 'raise', 'teacher.optim.epochs')}, "
            f"{change(run, 'raise', 'label.ratio')}",
            f"show them the points: {setting(run, 'teacher.point_crop', 'true')}, "
            f"{setting(run, 'teacher.heading_start', 'points')}",
        )
    off = f"centers are off by {mine['center_error_m']:.2f} m, the clicks by {mean['center_error_m']:.2f} m"
    return Result("problem", "The teacher is no better than the class-mean box at the click.", (seen, off), advice)


def fusion(run: Run, other: Run | None) -> Result:
    """Check that images improve the boxes of far objects, which have few LiDAR points."""
    if run.config["teacher.fusion"] == "none" or run.config["teacher.model"] == "crop":
        raise DataError("this teacher looks at LiDAR alone: there is no fusion to judge")
    if other is not None:
        pair, what = (run.teacher, other.teacher), f"LiDAR alone ({other.path})"
    elif run.by_cameras is not None:
        pair, what = run.by_cameras, "the same teacher without its cameras"
    else:
        raise DataError(
            "one run does not show what its images add: name one with teacher.fusion=none on the same clicks by "
            "--against, or take its cameras away by `python -m ray_jobs.search robustness`"
        )
    (iou, yaw), (iou_without, yaw_without) = (_far(quality) for quality in pair)
    without = f"{what}: {iou_without:.3f}, {yaw_without:.2f} rad"
    seen = f"beyond {FAR_M} m: BEV IoU {iou:.3f}, yaw error {yaw:.2f} rad; {without}"
    if iou >= iou_without + IOU_MARGIN or yaw <= yaw_without - YAW_MARGIN_RAD:
        return Result("ok", seen)
    advice = (
        f"calibration: `pdetr3d inspect 0 --index {run.path}/data/index.arrow` draws boxes into images; they must "
        "lie on the objects",
        f"far objects are few pixels: {change(run, 'raise', 'data.image_size_px')}",
        f"few boxes train no image branch: {change(run, 'raise', 'label.ratio')}, or name pretrained "
        "`teacher.image_weights`",
    )
    return Result("problem", f"Fusion adds nothing beyond {FAR_M} m.", (seen,), advice)


def groups(run: Run, other: Run | None) -> Result:
    """Check that no class and no distance band has much worse boxes than the others, or many rejected labels."""
    blind: list[str] = []
    lines: list[tuple[str, str]] = []
    measured = False
    for judge in (_poor, _rejected):
        try:
            lines += judge(run)
            measured |= judge is _poor
        except DataError as error:  # people's clicks have no true boxes; some runs write no labels
            blind.append(str(error))
    if len(blind) == 2:
        raise DataError("; ".join(blind))
    if not lines and not measured:  # labels that are not rejected may still be poor
        raise DataError(f"few labels were rejected in every class and distance band, but {blind[0]}")
    if not lines:
        return Result("ok", "; but ".join(["no class and no distance band stands out", *blind]))
    names = list(dict.fromkeys(group for group, _ in lines))
    learned = ", ".join(f"{run.box_labels.get(name, 0)} of {name}" for name in names if name in run.index.classes.names)
    advice = (
        f"the teacher learned from {learned}" if learned else "a band: far objects need images and sweeps",
        f"{change(run, 'raise', 'label.ratio')}, {change(run, 'raise', 'data.num_sweeps')}, "
        f"{setting(run, 'teacher.fusion', 'd_roi')}",
        f"boxes that miss their click by a little: {setting(run, 'label.snap', 'true')}",
    )
    return Result("problem", f"Pseudo labels are poor: {', '.join(names)}.", tuple(line for _, line in lines), advice)


def score(run: Run, other: Run | None) -> Result:
    """Check that the score, which predicts the BEV IoU, is calibrated and ranks the boxes."""
    found = run.teacher["calibration"]
    ece, rank = found["ece"], found["rank_correlation"]
    ranked = "undefined: all scores, or IoUs, are equal" if rank is None else f"{rank:.2f}"
    seen = f"expected calibration error {ece:.3f}, rank correlation with the reached IoU {ranked} ({run.source_file})"
    if ece <= ECE and rank is not None and rank >= RANK:
        return Result("ok", seen)
    bins = [b for b in found["bins"] if b["n"]]
    too_sure = sum(b["n"] * (b["score"] - b["bev_iou"]) for b in bins) > 0
    cure = change(run, "raise", "teacher.dropout" if too_sure else "teacher.quality_weight")
    advice = (
        f"scores are too {'high: few boxes, known by heart' if too_sure else 'low'}: {cure}, "
        f"{change(run, 'raise', 'label.ratio')}",
        f"until then weigh no labels by score: {setting(run, 'student.score_power', '0.0')}, "
        f"{setting(run, 'student.gt_sampling_pseudo_score', '0.0')}",
    )
    table = "score -> reached IoU: " + ", ".join(f"{b['score']:.2f} -> {b['bev_iou']:.2f} ({b['n']})" for b in bins)
    return Result("problem", "The score does not say how good a box is.", (seen, table), advice)


def _poor(run: Run) -> Iterator[tuple[str, str]]:
    """(group, evidence) of each class and distance band with a poor IoU."""
    whole = run.teacher["bev_iou"]
    if whole < run.class_mean["bev_iou"] + IOU_MARGIN:
        raise DataError("the teacher as a whole is no better than the class-mean box: no group stands out")
    if not any(mine["n"] >= MIN_CLICKS for by in ("per_class", "by_distance") for mine in run.teacher[by].values()):
        raise DataError(f"every class and distance band has fewer than {MIN_CLICKS} clicks whose true boxes are known")
    for by, unit in (("per_class", ""), ("by_distance", " m")):
        for name, mine in run.teacher[by].items():
            if mine["n"] < MIN_CLICKS:
                continue
            mean = run.class_mean[by][name]["bev_iou"]
            if mine["bev_iou"] < max(POOR_SHARE * whole, mean - BELOW_FLOOR):
                reached = f"{name}{unit}: BEV IoU {mine['bev_iou']:.3f} over {mine['n']} clicks"
                yield f"{name}{unit}", f"{reached}; its class-mean box {mean:.3f}, all clicks {whole:.3f}"


def _rejected(run: Run) -> Iterator[tuple[str, str]]:
    """(group, evidence) of each class and distance band with many rejected labels; where there is none, of all clicks.

    Many small groups may each have too few labels to judge, while all of them together have enough.
    """
    table = run.labels
    if len(table) < MIN_CLICKS:
        raise DataError(f"the run has fewer than {MIN_CLICKS} labels")
    masks = {name: table["class"] == name for name in run.index.classes.names} | {
        f"{lo}-{hi} m": (table["distance_m"] >= lo) & (table["distance_m"] < hi) for lo, hi in BINS_M
    }
    many = {group: table[mask] for group, mask in masks.items() if _many_lost(table[mask])}
    for group, rows in many.items() or {"all clicks": table}.items():
        lost = rows[~rows["accepted"].astype(bool)]
        if _many_lost(rows):
            reasons = ", ".join(f"{n} {reason}" for reason, n in lost["reason"].value_counts().items())
            yield group, f"{group}: {len(lost)} of {len(rows)} labels rejected ({reasons})"


def _many_lost(rows: pd.DataFrame) -> bool:
    """Whether a group has enough labels to judge, and more rejected ones than allowed."""
    return len(rows) >= MIN_CLICKS and int((~rows["accepted"].astype(bool)).sum()) > REJECTED * len(rows)


def _far(quality: dict[str, Any]) -> tuple[float, float]:
    """Mean BEV IoU and yaw error [rad] beyond FAR_M, averaged over the bins with their clicks as weights."""
    bins = [quality["by_distance"][f"{lo}-{hi}"] for lo, hi in BINS_M if lo >= FAR_M]
    bins = [b for b in bins if b["yaw_error_rad"] is not None]
    n = [b["n"] for b in bins]
    if sum(n) < MIN_CLICKS:
        raise DataError(f"{sum(n)} measured clicks lie beyond {FAR_M} m; {MIN_CLICKS} are needed to judge")
    iou, yaw = (float(np.average([b[key] for b in bins], weights=n)) for key in ("bev_iou", "yaw_error_rad"))
    return iou, yaw
