"""What a teacher's boxes are worth where the true boxes of people's clicks are not known: ``label.holdout``.

A first teacher is trained without some of the box-labeled scenes; its boxes at the simulated clicks of these are
compared with their boxes. The run's own teacher is then trained on all of them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import LabelConfig
from pdetr3d.data.draws import keyed_rng
from pdetr3d.data.loading.record_list import Records
from pdetr3d.data.loading.records import prior_size_m
from pdetr3d.schema import DataError
from ray_jobs.plug.inference import predict
from ray_jobs.stages.quality import KnownClicks, floors
from ray_jobs.stages.teacher_stages import train_teacher

if TYPE_CHECKING:
    from ray_jobs.stages.stages import Stages

STAGE = "holdout"  # folder of the report in a run directory
SUFFIX = "_holdout"  # of the names of the first teacher's stages


def held_out(records: Records, label: LabelConfig) -> NDArray[np.bool_]:
    """(N,): which samples are held out: all of ``label.holdout`` of the box-labeled scenes (at least one), drawn by
    ``label.seed``; none with ``label.holdout=0``.

    Raises:
        DataError: when no other box-labeled scene is left.
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


def measure_holdout(stages: Stages) -> dict[str, Any] | None:
    """Train the first teacher and measure it, once per run; None with ``label.holdout=0``.

    Returns:
        ``{"teacher": quality, **floors, "samples": held out, "trained_on": box-labeled samples left}``.
    """
    if not stages.config.label.holdout:
        return None
    done = stages.run.result(STAGE)
    if done is not None:
        return done
    config, out = stages.config, held_out(stages.records, stages.config.label)
    left = stages.records.select(~out)
    prior = prior_size_m(left, classes=config.classes)[0]
    file = train_teacher(stages, left, SUFFIX, prior)
    began = time.monotonic()
    held = stages.records.select(out & stages.records.boxed & stages.records.clicked)
    known = KnownClicks(held, classes=config.classes)
    boxes = predict("teacher", config, prior, [file], held)[0]
    report = {"teacher": known.quality(boxes), **floors(known, config, prior)}
    stages.timing[STAGE] = time.monotonic() - began
    return stages.run.finish(STAGE, {**report, "samples": len(held), "trained_on": int(left.boxed.sum())})
