"""Tests of point-labeled samples without annotations: the message about unknown quality, and the holdout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import Config, LabelConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import (
    build_manifest,
    prior_size_m,
    training_records,
    write_pseudo_labels,
)
from pdetr3d.data.labels.people_manifest import import_clicks
from pdetr3d.evaluation.pseudo_label_quality import pseudo_label_quality
from pdetr3d.finished.doctor.diagnosis import diagnose
from pdetr3d.finished.doctor.result import change
from pdetr3d.finished.doctor.run import Run
from pdetr3d.pipeline.arm_records import arm_records
from pdetr3d.pipeline.arms import check_arms, possible_arms
from pdetr3d.pipeline.execute import execute, teacher_goals
from pdetr3d.pipeline.holdout import held_out
from pdetr3d.pipeline.scoring import evaluate
from pdetr3d.pseudo_labels import class_mean_boxes
from pdetr3d.schema import FALLBACK_SIZE_M, Boxes3D, DataError, SampleRecord
from pdetr3d.training.label_source import unknown_boxes
from ray_jobs.stages.report import print_arms, print_labels
from ray_jobs.stages.tracked import seen_objects
from tests.doctor_cases import PlantedRun
from tests.known_runner import KnownRunner, NotingRunner
from tests.people_cases import of_role, without_annotations, write_clicks
from tests.training_cases import begin_run, world_config


@pytest.fixture(scope="module")
def index(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.open(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("index") / "index.arrow"))


def test_boxes_everywhere_need_boxes_everywhere(
    index: Index, sim_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated = build_manifest(index, "sim_train", LabelConfig(ratio=0.3), tmp_path / "sim")
    config = world_config(sim_world)
    whole = SimpleNamespace(index=index, manifest=simulated)
    assert unknown_boxes(index, simulated, config) == 0 and "full" in possible_arms(whole, config)  # type: ignore[arg-type]
    point = of_role(simulated, "point")
    tables = without_annotations(sim_world, tmp_path / "world", point)
    cut = Index.open(build_index(tables, "v1.0-sim", tmp_path / "index.arrow"))
    clicks = write_clicks(index, simulated, tmp_path / "clicks.csv")
    manifest = import_clicks(cut, "sim_train", LabelConfig(), clicks, tmp_path / "labels")
    people = world_config(tables, "label.source=manifest", f"label.manifest={tmp_path / 'labels'}")
    data = SimpleNamespace(index=cut, manifest=manifest)
    assert unknown_boxes(cut, manifest, people) == 4
    assert possible_arms(data, people) == ["boxes_only", "ours"]  # type: ignore[arg-type]
    assert "arm full is left out: the boxes of 4 of 6 train samples are not known" in capsys.readouterr().out
    with pytest.raises(DataError, match="the boxes of 4 of 6 train samples are not known; leave it out"):
        check_arms(["full"], data, people)  # type: ignore[arg-type]
    known = training_records(cut, manifest, boxes_everywhere=True)
    assert len(known.boxes) == len(training_records(cut, manifest).boxes) > 0


def test_scenes_are_held_out_whole_and_one_is_left(index: Index, tmp_path: Path) -> None:
    manifest = build_manifest(index, "sim_train", LabelConfig(ratio=0.6), tmp_path / "two")  # two of three scenes
    records = training_records(index, manifest)
    out = held_out(records, LabelConfig(holdout=0.2))
    scenes = {record.scene_token for record, mine in zip(records, out, strict=True) if mine}
    assert len(scenes) == 1 and out.sum() == 2 and records.boxed[out].all()
    assert not held_out(records, LabelConfig()).any()
    seeds = {tuple(held_out(records, LabelConfig(holdout=0.2, seed=seed))) for seed in range(8)}
    assert len(seeds) == 2  # either of the two
    with pytest.raises(
        DataError, match=r"label\.holdout 0\.9 holds out 2 of 2 box-labeled scenes, but a teacher needs"
    ):
        held_out(records, LabelConfig(holdout=0.9))


def _nothing() -> dict:
    return pseudo_label_quality(Boxes3D.empty(), Boxes3D.empty(), np.zeros(0), classes=NUSCENES_CLASSES)


def test_a_quality_nobody_knows_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    quality = dict.fromkeys(("teacher", "class_mean", "class_mean_pca"), _nothing())
    labels = {**quality, "clicks": 209, "accepted": 200}
    print_labels(labels, None)
    said = capsys.readouterr().out
    assert "209 clicks, quality unknown: no click's true box is in the tables; label.holdout=0.2" in said
    assert len(said.splitlines()) == 1
    print_labels(labels, {**quality, "samples": 2, "trained_on": 4})  # no advice for a holdout that was measured
    said, held = capsys.readouterr().out.splitlines()
    assert said.endswith("no click's true box is in the tables; what a teacher reaches on the scenes held out follows")
    assert held.startswith("boxes of a teacher of 4 box-labeled samples, on 2 held out: quality unknown: no held-out")
    assert seen_objects(_nothing()) == 0 and seen_objects({"n_gt": {"car": 2, "bus": 1}, "SPNDS": 0.1}) == 3


def test_scores_on_a_split_without_objects_are_no_zeros(capsys: pytest.CaptureFixture[str]) -> None:
    print_arms({"ours": {"SPNDS": 0.0, "mAP": 0.0, "n_gt": {"car": 0, "bus": 0}}}, {"ours_to_full": {"mAP": None}})
    said = capsys.readouterr().out
    assert said == "devkit scores of ours on the val split: unknown, since no object there is in the tables\n"


def test_a_split_without_objects_chooses_no_checkpoint(index: Index, sim_world: Path, tmp_path: Path) -> None:
    """The last checkpoint is used, not the first of those that all score 0. The first one is the better one."""
    cut = without_annotations(sim_world, tmp_path / "world", index.tokens("sim_select"))
    files = ["step_0000001.pt", "step_0000002.pt"]
    for tables, chosen in ((cut, files[1]), (sim_world, files[0])):
        runner = KnownRunner({1: 0.1, 2: 0.9})
        run = runner.run = begin_run(tables, tmp_path / chosen, runner=runner)
        run.dir.finish("student_ours", {"checkpoints": files})
        found = evaluate(run, ["ours"])["ours"]
        assert found["checkpoint"] == chosen and (list(found["selection"]) == files) == (tables == sim_world)


def test_the_doctor_knows_what_it_cannot_judge(sim_world: Path, tmp_path: Path) -> None:
    """For a run whose clicks have no known box the verdict is "unknown" until a holdout measures the teacher."""
    planted = PlantedRun(tmp_path / "run", sim_world)
    planted.write_labels(planted.good_boxes())
    good = planted.run.result("pseudo_labels")
    assert good is not None
    unknown = dict.fromkeys(("teacher", "class_mean", "class_mean_pca"), _nothing())
    planted.run.finish("pseudo_labels", {**unknown, "accepted": 9})
    results = diagnose(Run(planted.path))
    for check in ("teacher", "pseudo labels", "score"):
        assert results[check].verdict == "unknown" and "label.holdout" in results[check].text, check
    planted.run.finish("holdout", {**good, "samples": 2, "trained_on": 2})
    results = diagnose(Run(planted.path))
    assert {results[check].verdict for check in ("teacher", "pseudo labels", "score")} == {"ok"}
    assert Run(planted.path).source == "holdout"
    assert change(Run(planted.path), "raise", "label.ratio") == "raise `label.ratio` (now 0.3)"
    run = Run(planted.path)
    run.config |= {"label.source": "manifest", "label.ratio": 0.25}
    said = "draw boxes in more scenes, and run `pdetr3d label` again (now 25.00% of the samples)"
    assert change(run, "raise", "label.ratio") == said and change(run, "raise", "optim.lr").startswith(
        "raise `optim.lr`"
    )


class Teacher(NotingRunner):
    """Its teachers predict class-mean boxes."""

    def boxes(
        self, kind: str, config: Config, checkpoints: Sequence[Path], records: Sequence[SampleRecord]
    ) -> list[dict[str, Boxes3D]]:
        assert kind == "teacher" and [file.read_text() for file in checkpoints] == ["teacher_holdout"]
        return [{r.sample_token: class_mean_boxes(r.clicks, FALLBACK_SIZE_M) for r in records}]


def test_stages_on_peoples_labels(sim_world: Path, index: Index, tmp_path: Path) -> None:
    """Two scenes have boxes, one sample has a click, and one was never annotated.

    The test checks the training samples of every arm and of the holdout's teacher, with stand-ins for trainings and
    predictions.
    """
    tokens = index.tokens("sim_train")
    tables = without_annotations(sim_world, tmp_path / "world", tokens[4:])
    cut = Index.open(build_index(tables, "v1.0-sim", tmp_path / "index.arrow"))
    (tmp_path / "clicks.csv").write_text(f"sample_token,x,y,z,class,frame\n{tokens[4]},5,6,-1,car,lidar\n")
    import_clicks(cut, "sim_train", LabelConfig(), tmp_path / "clicks.csv", tmp_path / "labels")
    words = ["label.source=manifest", f"label.manifest={tmp_path / 'labels'}", "label.holdout=0.5"]
    words += ["teacher.lidar_init=boxes_only", "teacher.model=point_detr3d", "teacher.point_crop=false"]
    runner = Teacher()
    stages = begin_run(tables, tmp_path / "run", *words, runner=runner)
    assert [record.role for record in stages.records] == ["box"] * 4 + ["point", "unlabeled"]
    assert stages.labeled == 5 and [r.sample_token for r in stages.to_label] == [tokens[4]]
    assert [r.sample_token for r in arm_records(stages, "boxes_only")] == tokens[:4]
    write_pseudo_labels(stages.pseudo_file, [], classes=NUSCENES_CLASSES)
    assert [r.sample_token for r in arm_records(stages, "ours")] == tokens[:5]  # the last one is no background

    execute(teacher_goals(stages.config), stages)
    assert [file.read_text() for file in stages.checkpoints("teacher")] == ["teacher"]
    trainings = {training.name: training for training in runner.trainings}
    trained = {name: training.records.tokens for name, training in trainings.items()}
    for name, training in trainings.items():  # the holdout's class sizes are those of the samples left alone
        alone = prior_size_m(trainings["teacher_holdout"].records, classes=NUSCENES_CLASSES)[0]
        np.testing.assert_array_equal(training.prior_size_m, alone if name.endswith("_holdout") else stages.prior)
    half = trained["teacher_holdout"]
    assert half in (tokens[:2], tokens[2:4]) and trained["student_holdout"] == half
    assert trained["student_boxes_only"] == trained["teacher"] == tokens[:4]
    done = stages.result("holdout")
    assert done is not None and (done["samples"], done["trained_on"]) == (2, 2)
    others = [r for r in stages.records if r.sample_token in tokens[:4] and r.sample_token not in half]
    assert done["teacher"]["n"] == sum(len(r.clicks) for r in others) > 10 and 0 < done["teacher"]["bev_iou"] < 1
