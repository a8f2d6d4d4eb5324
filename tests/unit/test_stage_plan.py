"""Which order a stage of training takes its samples in, by the configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ray_jobs.fit import Stage
from tests.training_cases import open_world


def test_box_share_mixes_what_a_student_has_to_mix(sim_world: Path, tmp_path: Path) -> None:
    mixed = open_world(sim_world, tmp_path / "run", "student.box_share=0.5", "optim.batch_size=4")
    config, prior = mixed.run.config, np.ones((10, 3), np.float32)
    records = sorted(mixed.records, key=lambda record: record.role != "box")
    boxed = len(mixed.boxed)
    assert 0 < boxed < len(records)

    def parts(kind: str, chosen: list, mean_teacher: bool = False) -> tuple[int, int]:
        plan = Stage("x", kind, config, chosen, prior, 3, False, None, mean_teacher=mean_teacher).plan
        return plan.boxed, plan.box_slots

    assert parts("student", records) == (boxed, 2)
    assert parts("student", records[:boxed]) == (boxed, 0)  # boxes_only, full: nothing to mix
    assert parts("student", records, mean_teacher=True) == (boxed, 0)  # its records are half and half already
    assert parts("teacher", records)[1] == 0
