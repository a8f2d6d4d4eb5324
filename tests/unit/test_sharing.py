"""Tests of sharing between runs on one dataset: teacher and pseudo labels, the index, the check of its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdetr3d.schema import SOURCE_HUMAN
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training.run_dir import RunDir
from ray_jobs.stages.arm_records import arm_records
from ray_jobs.stages.report import print_quality
from ray_jobs.stages.stages import Stages
from tests.training_cases import world_config


def stages(dataroot: Path, folder: Path, *overrides: str, like: Stages | None = None) -> Stages:
    return Stages(
        RunDir(folder, world_config(dataroot, *overrides)),
        Tracker("", "", None),
        like=None if like is None else like.run,
    )


def test_boxes_everywhere_need_no_teacher(sim_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stages, "teacher", lambda self: pytest.fail("a teacher of no use is trained"))
    first, second = (stages(sim_world, tmp_path / name, "label.ratio=1.0") for name in "ab")
    first.labels()
    second.adopt("pseudo_labels", first.run)
    assert second.run.result("pseudo_labels") == first.run.result("pseudo_labels")
    quality = first.pseudo_labels()  # finished, so its result is read
    assert quality["accepted"] == quality["teacher"]["n"] == 0 and quality["teacher"]["bev_iou"] is None
    print_quality(quality)
    learned = list(arm_records(first, "ours"))
    assert len(learned) == len(first.records) > 0
    for record, known in zip(learned, first.known_records, strict=True):
        assert record.role == "box" and np.array_equal(record.boxes.rows, known.boxes.rows)
        assert (record.boxes.source == SOURCE_HUMAN).all()


def test_a_run_like_another_neither_indexes_nor_checks_the_dataset_again(
    sim_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stages(sim_world, tmp_path / "a")
    monkeypatch.setattr("pdetr3d.data.index.nuscenes.build_index", lambda *args, **_: pytest.fail("indexed again"))
    monkeypatch.setattr("pdetr3d.data.loading.check._run", lambda jobs: pytest.fail("checked again"))
    second = stages(sim_world, tmp_path / "b", "label.seed=1", like=first)
    assert second.data.index.digest == first.data.index.digest
    assert second.data.manifest.digest != first.data.manifest.digest
    stages(sim_world, tmp_path / "poorer", "data.sensor.lidar_beams=8", like=first)  # the same files
    with pytest.raises(pytest.fail.Exception, match="indexed again"):  # another dataset section: nothing is taken over
        stages(sim_world, tmp_path / "c", "data.num_sweeps=1", like=first)


def test_a_finished_stage_is_taken_over_with_its_files(sim_world: Path, tmp_path: Path) -> None:
    first, second = stages(sim_world, tmp_path / "a"), stages(sim_world, tmp_path / "b", "student.guidance=none")
    with pytest.raises(ValueError, match="pseudo_labels is not finished"):
        second.adopt("pseudo_labels", first.run)
    first.pseudo_file.parent.mkdir()
    first.pseudo_file.write_text("labels")
    first.run.finish("pseudo_labels", {"of": first.run.digest})
    second.adopt("pseudo_labels", first.run)
    assert second.pseudo_file.read_text() == "labels"
    assert second.run.result("pseudo_labels") == {"of": first.run.digest}
    second.adopt("pseudo_labels", first.run)  # again: nothing to do
