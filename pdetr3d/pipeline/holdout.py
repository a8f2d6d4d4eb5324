"""``label.holdout``: draws the box-labeled scenes on which a first teacher, trained without them, is measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import LabelConfig
from pdetr3d.data.draws import keyed_rng
from pdetr3d.data.loading.record_list import Records
from pdetr3d.schema import DataError


def held_out(records: Records, label: LabelConfig) -> NDArray[np.bool_]:
    """Choose the samples to hold out: those of a share ``label.holdout`` of the box-labeled scenes, at least one.

    Returns:
        (N,) bool, drawn by ``label.seed``; all False with ``label.holdout=0``.

    Raises:
        DataError: when no other box-labeled scene would be left.
    """
    if not label.holdout:
        return np.zeros(len(records), bool)
    scenes = records.table.rows.table["scene_token"].take(records.row).to_pylist()
    boxed = sorted({scene for scene, mine in zip(scenes, records.boxed, strict=True) if mine})
    count = max(1, round(label.holdout * len(boxed)))
    if count >= len(boxed):
        raise DataError(
            f"label.holdout {label.holdout:g} holds out {count} of {len(boxed)} box-labeled scenes, but a teacher "
            "needs one to learn from: label boxes of more scenes, or lower label.holdout (0: nothing is held out)"
        )
    order = keyed_rng(label.seed, 0, "holdout", "split").permutation(len(boxed))
    chosen = {boxed[i] for i in order[:count]}
    return np.array([scene in chosen for scene in scenes], bool)
