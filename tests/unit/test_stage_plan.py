"""Tests of the order of a training stage's samples by config, and of the place of its progress."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdetr3d.pipeline.training import Training
from pdetr3d.presets import QUICKSTART, load
from ray_jobs.plug.context import stop_asked, write_stop
from ray_jobs.plug.fit import stage_uri
from ray_jobs.plug.resume import read_progress, write_progress
from tests.training_cases import open_world


def test_box_share_mixes_what_a_student_has_to_mix(sim_world: Path, tmp_path: Path) -> None:
    mixed = open_world(sim_world, tmp_path / "run", "student.box_share=0.5", "optim.batch_size=4")
    config, prior = mixed.run.config, np.ones((10, 3), np.float32)
    records = sorted(mixed.records, key=lambda record: record.role != "box")
    boxed = len(mixed.boxed)
    assert 0 < boxed < len(records)

    def parts(kind: str, chosen: list, mean_teacher: bool = False) -> tuple[int, int]:
        plan = Training("x", kind, config, chosen, prior, 3, False, None, mean_teacher=mean_teacher).plan
        return plan.boxed, plan.box_slots

    assert parts("student", records) == (boxed, 2)
    assert parts("student", records[:boxed]) == (boxed, 0)  # boxes_only, full: nothing to mix
    assert parts("student", records, mean_teacher=True) == (boxed, 0)  # its records are half and half already
    assert parts("teacher", records)[1] == 0


@pytest.mark.parametrize("name", ["my run", "versuch-ä", "run[1]", "exp#1", "what?", "100%25"])
@pytest.mark.parametrize("shared", [False, True])
def test_progress_lies_in_the_stages_own_folder(tmp_path: Path, name: str, shared: bool) -> None:
    config = load("quickstart", [f"storage.path={tmp_path / name}"] if shared else [])
    storage, folder = stage_uri(config, "digest", "teacher", tmp_path / name)
    write_progress(folder, 7)
    write_stop(folder)
    place = tmp_path / name / ("digest" if shared else "ray")
    assert storage == str(place) and read_progress(folder) == 7 and stop_asked(folder)
    assert sorted(f.name for f in (place / "teacher").iterdir()) == ["progress.txt", "stop.txt"]
    assert [f.name for f in tmp_path.iterdir()] == [name]


def test_shared_storage_of_other_kinds_is_an_address_already() -> None:
    storage = QUICKSTART.storage.model_copy(update={"path": "s3://bucket/runs/"})
    config = QUICKSTART.model_copy(update={"storage": storage})
    assert stage_uri(config, "d", "teacher", Path("x")) == ("s3://bucket/runs/d", "s3://bucket/runs/d/teacher")
