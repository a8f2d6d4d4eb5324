"""Reads a nuScenes results file of any detector, and checks its entries so that the devkit's code accepts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES

from pdetr3d.class_list import ClassList
from pdetr3d.evaluation.results_format import MAX_BOXES_PER_SAMPLE, read_samples
from pdetr3d.schema import DataError

NUMBERS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2}
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
