"""The records that each arm of a run is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pdetr3d.data.label_manifest import training_records
from pdetr3d.schema import DataError, SampleRecord
from ray_jobs.stages.arms import check_arms
from ray_jobs.stages.rivals import RIVALS

if TYPE_CHECKING:
    from ray_jobs.stages.stages import Stages


def arm_records(stages: Stages, arm: str) -> Sequence[SampleRecord]:
    """What a student is trained on (``Stages.student`` says what arms there are).

    Raises:
        DataError: when boxes that it needs are not known, or pseudo labels are missing.
    """
    if arm == "boxes_only":
        return stages.records.select(stages.records.whole)
    if arm == "full":
        check_arms([arm], stages.data, stages.config)
        return stages.known_records
    if arm in RIVALS:
        return RIVALS[arm](stages)
    if not stages.pseudo_file.exists():
        raise DataError(
            f"{stages.pseudo_file} is missing: run python -m ray_jobs.pseudo_label with this --run-dir first"
        )
    everywhere = stages.config.label.pseudo_for == "all"
    records = stages.kept(
        training_records(stages.data.index, stages.data.manifest, stages.pseudo_file, pseudo_everywhere=everywhere)
    )
    return records.select(records.labeled)  # what nobody looked at is no background
