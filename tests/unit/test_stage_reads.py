"""Tests of ``IgnoredBy``: a stage does not read a key that it ignores, or the key has no effect on its numbers."""

from __future__ import annotations

from pathlib import Path

import torch

from pdetr3d.config import Config
from pdetr3d.config_sections import BOXES_ONLY, INDEX, PSEUDO_LABELS, TEACHER
from pdetr3d.config_seen import seen_by
from pdetr3d.pipeline.graph import GRAPH
from pdetr3d.pipeline.run import Run
from pdetr3d.training.run_dir import RunDir, open_index
from tests.config_reads import reads
from tests.training_cases import begin_run, weights, world_config

WORDS = [
    *("optim.batch_size=2", "optim.epochs=0.7", "optim.ema_decay=0.9", "student.gt_sampling=[1,1,1,1,1,1,1,1,1,1]"),
    *("teacher.lidar_init=none", "teacher.optim.batch_size=2", "teacher.optim.epochs=2"),
    *("teacher.crop_optim.epochs=1", "teacher.crop_optim.batch_size=8"),
]
# What a student without clicks and pseudo labels reads, though nothing of it counts: other values of each.
OF_NO_EFFECT = {
    "student.box_share": "0.5",
    "student.gt_sampling_pseudo_score": "0.5",
    "student.guidance_warmup": "0.5",
    "student.mask_sigma_factor": "0.1",
    "student.mask_sigma_floor_m": "0.1",
    "student.pseudo_weight": "0.25",
    "student.score_power": "2",
    "student.unclicked": "ignore",
    "student.unclicked_threshold": "0.01",
    "student.unclicked_radius_m": "0.1",
    "label.pseudo_for": "all",
    "label.click_share": "0.5",
    "label.snap": "true",
}


def ignored(config: Config, kind: str, found: set[str]) -> set[str]:
    """Those of some keys that a kind of stage is marked to ignore, without those that change no number of any."""
    return (found & seen_by(config).keys()) - seen_by(config, kind).keys()


def student(run: Run) -> dict[str, torch.Tensor]:
    """Weights of the student of the boxes alone."""
    return weights(run.path / BOXES_ONLY / GRAPH[BOXES_ONLY].make(run)["checkpoints"][-1])


def test_a_student_of_the_boxes_alone(sim_world: Path, tmp_path: Path) -> None:
    run = begin_run(sim_world, tmp_path / "plain", *WORDS)
    with reads() as found:
        before = student(run)
    assert {"optim.lr", "data.num_sweeps", "student.gt_sampling"} <= found
    assert ignored(run.config, BOXES_ONLY, found) <= OF_NO_EFFECT.keys()
    words = [f"{key}={value}" for key, value in OF_NO_EFFECT.items()]
    after = student(begin_run(sim_world, tmp_path / "other", *WORDS, *words))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_teacher_and_its_labels(sim_world: Path, tmp_path: Path) -> None:
    run = begin_run(sim_world, tmp_path, *WORDS)
    for name, key in (
        ("crops", "teacher.crop_optim.lr"),
        ("teacher", "teacher.optim.lr"),
        (PSEUDO_LABELS, "label.snap"),
    ):
        with reads() as found:
            run.dir.finish(name, GRAPH[name].make(run))
        assert key in found and ignored(run.config, GRAPH[name].kind, found) == set(), name
    assert ignored(run.config, TEACHER, found) == {"label.snap", "label.pseudo_for"}  # a wrong mark would be seen


def test_a_crop_branch_that_labels_clicks(sim_world: Path, tmp_path: Path) -> None:
    run = begin_run(sim_world, tmp_path, *WORDS, "teacher.crop_self_labels=30")
    run.dir.finish("crops", GRAPH["crops"].make(run))
    with reads() as found:
        GRAPH["crops_again"].make(run)
    assert "teacher.crop_self_labels" in found and ignored(run.config, GRAPH["crops_again"].kind, found) == set()


def test_an_index(sim_world: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path, world_config(sim_world))
    with reads() as found:
        open_index(run, None)
    assert {"data.num_sweeps", "data.dataroot"} <= found and ignored(run.config, INDEX, found) == set()
