"""Tests of the arms without clicks: other clicks in point-labeled samples change no bit of records or losses."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pdetr3d.config import Config, override
from pdetr3d.evaluation.figures import ARM_NAMES
from pdetr3d.pipeline.arm_records import arm_records
from pdetr3d.pipeline.arms import ARMS
from pdetr3d.pipeline.execute import execute
from pdetr3d.pipeline.run import Run
from pdetr3d.schema import Boxes3D, SampleRecord
from pdetr3d.training.build import build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train
from pdetr3d.training.plan import Plan
from ray_jobs.stages.report import ratios
from tests.known_runner import NotingRunner
from tests.training_cases import begin_run, one_thread

pytestmark = pytest.mark.xdist_group("rivals")  # the fixtures of this file take seconds

OVERRIDES = ("optim.batch_size=2", "optim.log_every=1", "optim.epochs=1", "student.mean_teacher_threshold=0.1")
RIVALS = ("self_training", "mean_teacher")


def poison(records: list[SampleRecord]) -> list[SampleRecord]:
    """Move the clicks of point-labeled records, change their classes, and remove a third of them."""
    result = []
    for record in records:
        clicks = record.clicks
        if record.role == "point":
            keep = np.arange(len(clicks)) % 3 > 0
            clicks = replace(clicks, xyz_m=clicks.xyz_m + 5, label=(clicks.label + 1) % 10)[keep]
        result.append(replace(record, clicks=clicks))
    return result


def found(token: str) -> Boxes3D:
    """Stand-in for the boxes-only student's boxes of a sample: a pedestrian of high score and one of low score."""
    x = len(token) + int(token[:2], 16) / 100
    center, size = np.array([[x, 1, 0], [-x, 1, 0]]), np.ones((2, 3))
    return Boxes3D.build(center, size, np.zeros(2), np.full(2, 8), score=np.array([0.6, 0.2]))


class Finder(NotingRunner):
    """Predicts ``found``."""

    def boxes(
        self, kind: str, config: Config, checkpoints: Sequence[Path], records: Sequence[SampleRecord]
    ) -> list[dict[str, Boxes3D]]:
        assert kind == "student" and [file.name for file in checkpoints] == ["boxes_only.pt"]
        assert {r.role for r in records} == {"point"} and not any(len(r.clicks) for r in records)
        return [{r.sample_token: found(r.sample_token) for r in records}]


@pytest.fixture
def stages(sim_world: Path, tmp_path: Path) -> dict[str, Run]:
    """Two runs, the second with poisoned clicks."""
    runs = {name: begin_run(sim_world, tmp_path / name, *OVERRIDES, runner=Finder()) for name in ("clean", "dirty")}
    runs["dirty"].records = poison(runs["dirty"].records)
    assert pickle.dumps(runs["clean"].records) != pickle.dumps(runs["dirty"].records)
    for run in runs.values():
        run.dir.finish("student_boxes_only", {"checkpoints": ["boxes_only.pt"]})
        execute(["self_training"], run)
    return runs


def bits(records: list[SampleRecord]) -> list[bytes]:
    return [pickle.dumps(dataclasses.asdict(record)) for record in records]


def losses(arm: str, run: Run, folder: Path) -> list[dict[str, float]]:
    """The loss terms of four steps."""
    folder.mkdir()
    records, mean_teacher = arm_records(run, arm), arm == "mean_teacher"
    task = build("student", run.config, run.prior, guidance=False, mean_teacher=mean_teacher)
    context = LocalContext(records, Plan(len(records), 2, 4, 0, mean_teacher), task.loader, folder)
    with one_thread():
        train(task, context, 4, "{}", folder / "scratch")
    timing = ("_s", "_bytes", "stall_share")
    return [{k: v for k, v in metrics.items() if not k.endswith(timing)} for _, metrics in context.history]


@pytest.mark.parametrize("arm", RIVALS)
def test_poisoned_clicks_change_nothing(arm: str, stages: dict[str, Run], tmp_path: Path) -> None:
    clean, dirty = stages["clean"], stages["dirty"]
    records = arm_records(clean, arm)
    assert bits(records) == bits(arm_records(dirty, arm)) and {r.role for r in records} == {"box", "point"}
    assert losses(arm, clean, tmp_path / "one") == losses(arm, dirty, tmp_path / "two")


def test_self_training_labels_are_the_sure_boxes_in_a_file_of_their_own(stages: dict[str, Run]) -> None:
    run = stages["clean"]
    records = arm_records(run, "self_training")
    assert [r.sample_token for r in records] == [r.sample_token for r in run.records]
    for record, original in zip(records, run.records, strict=True):
        if record.role == "box":
            assert len(record.boxes)
            for name, values in vars(original.boxes).items():
                np.testing.assert_array_equal(getattr(record.boxes, name), values)
        else:
            np.testing.assert_array_equal(record.boxes.rows, found(record.sample_token)[:1].rows)
    point = [r for r in records if r.role == "point"]
    assert run.result("self_training") == {"boxes": len(point), "samples": len(point)}
    files = sorted(str(f.relative_to(run.path)) for f in run.path.rglob("*labels*.parquet"))
    assert files == ["self_training/self_labels.parquet"] and run.pseudo_file.parent.name != "self_training"


def test_half_of_the_mean_teachers_records_are_box_labeled(stages: dict[str, Run]) -> None:
    run = stages["clean"]
    records = arm_records(run, "mean_teacher")
    roles = [r.role for r in run.records]
    assert len(records) == 2 * max(roles.count("box"), roles.count("point"))
    assert [r.role for r in records].count("box") == len(records) / 2
    assert not any(len(r.boxes) for r in records if r.role == "point")
    run.config = override(run.config, ["student.cbgs=true"])
    balanced = arm_records(run, "mean_teacher")
    assert {r.sample_token for r in balanced if r.role == "point"} == {
        r.sample_token for r in run.records if r.role == "point"
    }


@pytest.mark.parametrize(("arm", "mean_teacher", "guided"), [
    ("boxes_only", False, False), ("self_training", False, False), ("mean_teacher", True, False), ("full", False, False)
])  # fmt: skip
def test_what_each_arm_trains_with(arm: str, mean_teacher: bool, guided: bool, stages: dict[str, Run]) -> None:
    run = stages["clean"]
    (run.path / "student_boxes_only" / "done.json").unlink()
    execute([f"student_{arm}"], run)
    assert isinstance(run.runner, Finder)
    (stage,) = run.runner.trainings
    assert (stage.name, stage.steps) == (f"student_{arm}", 3)  # 6 samples, two at a time
    assert stage.choices == {"guidance": guided, "mean_teacher": mean_teacher}
    assert stage.plan.repeats == mean_teacher


def test_lanes_know_every_arm() -> None:
    assert set(ARMS) == set(ARM_NAMES) and ARMS[-1] == "ours"
    assert [arm for arm in ARMS if arm in ("full", "boxes_only")] == [
        "full",
        "boxes_only",
    ]  # as before there were rivals


def test_what_the_clicks_are_worth_by_hand() -> None:
    arms = {
        "ours": {"mAP": 0.3, "SPNDS": 0.25},
        "self_training": {"mAP": 0.2, "SPNDS": 0.2},
        "mean_teacher": {"mAP": 0, "SPNDS": 0.5},
    }
    assert ratios(arms) == {
        "ours_to_self_training": {"mAP": pytest.approx(1.5), "SPNDS": pytest.approx(1.25)},
        "ours_to_mean_teacher": {"mAP": None, "SPNDS": 0.5},
    }
