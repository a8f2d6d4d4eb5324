"""Reads a nuScenes results file of any detector, and checks its entries so that the devkit's code accepts them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES

from pdetr3d.class_list import ClassList
from pdetr3d.evaluation.results_format import MAX_BOXES_PER_SAMPLE, Poses, read_samples
from pdetr3d.geometry.rigid import apply, chain, inverse
from pdetr3d.schema import DataError
from pdetr3d.tables.plausible import lying_on_side
from pdetr3d.tables.sizes import unusual_sizes
from pdetr3d.tables.times import same_places

NUMBERS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2}
FAR_M = 200.0  # no LiDAR sees an object so far away: boxes beyond are in another frame
AGAIN = 0.1  # this share of boxes may stand where another box of the same class stands
UNKNOWN = ("velocity",)  # may hold null or NaN: the devkit then leaves the entry out of the mean velocity error


def read_entries(path: Path, tokens: list[str], classes: ClassList) -> dict[str, list[dict[str, Any]]]:
    """Read the entries of the given samples.

    Args:
        tokens: sample tokens that the file must contain; other samples are left out.
        classes: that ``detection_name`` may name.

    Returns:
        Sample token -> its ``sample_result`` entries (global frame), in the order of ``tokens``.

    Raises:
        DataError: when the file is no results file, lacks a sample, or an entry does not have the format; the message
            names the sample, the entry's position, its field and value, and what is allowed.
    """
    results = read_samples(path, tokens)
    attributes = {*ATTRIBUTE_NAMES, *(name for each in classes.classes for name in each.attributes), ""}
    return {token: _entries(f"{path}, sample {token}", token, results[token], classes, attributes) for token in tokens}


def odd_entries(
    path: Path, entries: Mapping[str, list[dict[str, Any]]], poses: Mapping[str, Poses], classes: ClassList
) -> list[str]:
    """Check that the entries of ``read_entries`` can be boxes of these samples.

    Args:
        path: of the file, for messages. poses: sample token -> (lidar2ego, ego2global).

    Returns:
        Warnings: there is no box, boxes stand there twice, or the usual box of a class has other sides than typical.

    Raises:
        DataError: when boxes lie on their sides, or those of most samples are not in the global frame.
    """
    rows = [row for each in entries.values() for row in each]
    if not rows:
        return [f"{path}: no box in any of the {len(entries)} samples: every AP is 0"]
    first, words = lying_on_side([row["rotation"] for row in rows], "boxes")
    if words:
        raise DataError(f"{path}, sample {rows[first]['sample_token']}, a box: rotation {words}")
    lines = _elsewhere(path, {token: each for token, each in entries.items() if each}, poses)
    center = np.array([row["translation"] for row in rows], np.float64)
    again = same_places([(row["sample_token"], row["detection_name"]) for row in rows], center)
    if len(again) > AGAIN * len(rows):
        one = rows[again[0][1]]
        lines.append(
            f"{path}: {len(again)} of {len(rows)} boxes stand where another box of their class stands, e.g. a "
            f"{one['detection_name']} at {one['translation']} in sample {one['sample_token']}: were results of two "
            "runs put together? Of two equal boxes the second counts as a false one"
        )
    size = np.array([row["size"] for row in rows], np.float64)[:, [1, 0, 2]]
    label = np.array([classes.label_of[row["detection_name"]] for row in rows])
    return lines + unusual_sizes(size, label, classes, str(path))


def _elsewhere(path: Path, entries: Mapping[str, list[dict[str, Any]]], poses: Mapping[str, Poses]) -> list[str]:
    """A warning about samples whose boxes are far from their LiDAR; raises DataError when these are most samples."""
    far: dict[str, float] = {}
    own_frame = 0  # of ``far``, samples whose boxes would be near the LiDAR if they were in the frame of car or LiDAR
    for token, rows in entries.items():
        center = np.array([row["translation"] for row in rows], np.float64)
        away = np.linalg.norm(apply(inverse(chain(*poses[token])), center), axis=1)
        if np.median(away) > FAR_M:
            far[token] = float(np.median(away))
            own_frame += bool(np.median(np.linalg.norm(center, axis=1)) < FAR_M)
    if not far:
        return []
    token = next(iter(far))
    words = (
        f"{path}: in {len(far)} of {len(entries)} samples with boxes the usual box is over {FAR_M:g} m from the LiDAR, "
        f"e.g. {far[token]:.0f} m in {token}; boxes of a results file are in the global frame, in m"
    )
    words += " (these look like boxes in the frame of the car or the LiDAR)" if own_frame > len(far) / 2 else ""
    if len(far) > len(entries) / 2:
        raise DataError(f"{words}; write them so, and for the samples of this dataset")
    return [words]


def _entries(where: str, token: str, rows: Any, classes: ClassList, attributes: set[str]) -> list[dict[str, Any]]:
    if not isinstance(rows, list):
        raise DataError(f"{where}: {type(rows).__name__}; allowed: a list of boxes")
    if len(rows) > MAX_BOXES_PER_SAMPLE:
        raise DataError(
            f"{where}: {len(rows)} boxes; the devkit takes {MAX_BOXES_PER_SAMPLE} at most: keep those of best score"
        )
    return [_entry(f"{where}, box {place}", token, row, classes, attributes) for place, row in enumerate(rows)]


def _entry(where: str, token: str, row: Any, classes: ClassList, attributes: set[str]) -> dict[str, Any]:
    try:
        entry = {name: _numbers(where, name, row[name], count) for name, count in NUMBERS.items()}
        name, score = row["detection_name"], row["detection_score"]
        attribute, of = row["attribute_name"], row["sample_token"]
    except (KeyError, TypeError) as error:
        fields = ", ".join(("sample_token", *NUMBERS, "detection_name", "detection_score", "attribute_name"))
        raise DataError(f"{where}: no field {error}; a box has {fields}") from error
    if of != token:
        raise DataError(f"{where}: sample_token {of!r} under another sample; move it there")
    classes.refuse_unknown({name}, where)
    if isinstance(score, bool) or not isinstance(score, int | float) or not np.isfinite(score):
        raise DataError(f"{where}: detection_score {score!r}; allowed: a finite number")
    if attribute not in attributes:
        raise DataError(
            f"{where}: attribute_name {attribute!r}; allowed: {', '.join(sorted(attributes - {''}))}, or ''"
        )
    if min(entry["size"]) <= 0:
        raise DataError(f"{where}: size {entry['size']}; allowed: w, l, h > 0 [m]")
    if not any(entry["rotation"]):
        raise DataError(f"{where}: rotation {entry['rotation']}; allowed: a quaternion w, x, y, z")
    names = {"detection_name": name, "detection_score": float(score), "attribute_name": attribute}
    return {"sample_token": token, **entry, **names}


def _numbers(where: str, name: str, value: Any, count: int) -> list[float]:
    """The field's numbers; in the fields of UNKNOWN null becomes NaN."""
    try:
        numbers = [float("nan") if one is None and name in UNKNOWN else float(one) for one in value]
        fine = len(numbers) == count and (name in UNKNOWN or bool(np.isfinite(numbers).all()))
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise DataError(f"{where}: {name} {value!r}; allowed: {count} finite numbers")
    return numbers
