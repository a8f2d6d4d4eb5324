"""Student studies: variants are valid configs, labels are shared where they may be; figures over seeds by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdetr3d import presets
from pdetr3d.config import override
from pdetr3d.schema import CLASSES, SOURCE_HUMAN, DataError
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training.run_dir import RunDir
from ray_jobs import student_studies, student_study
from ray_jobs.arm_records import arm_records
from ray_jobs.report import print_quality
from ray_jobs.stage_keys import labels_key
from ray_jobs.stages import ARMS, Stages
from ray_jobs.student_report import draw_students, print_students, summarize_students
from ray_jobs.student_studies import STUDENT_STUDIES, Variant, folder_name, variant_config
from tests.training_cases import world_config

EVERY = [(study, name) for study, variants in STUDENT_STUDIES.items() for name in variants]


@pytest.mark.parametrize(("study", "name"), EVERY)
@pytest.mark.parametrize("preset", ["quickstart", "nuscenes-pillar"])
def test_every_variant_is_a_valid_config(study: str, name: str, preset: str) -> None:
    variant = STUDENT_STUDIES[study][name]
    config = variant_config(preset, ["optim.lr=1e-3"], variant, 7)
    assert (config.run.seed, config.label.seed, config.optim.lr) == (7, 7, 1e-3) and variant.arm in ARMS


def test_variants_without_a_change_share_the_base() -> None:
    folders = {name: folder_name("quickstart", variant) for name, variant in STUDENT_STUDIES["guidance"].items()}
    assert folders["gaussian"] == "base" and folders["none"] == "student.guidance=none"
    assert len(set(folders.values())) == len(folders) == 6
    headline = [folder_name("quickstart", v) for v in STUDENT_STUDIES["headline"].values()]
    assert headline.count("base") == 5 and len(set(headline)) == 2
    assert folder_name("quickstart", Variant("ours", ("student.guidance=gaussian", "optim.lr=1"))) == "optim.lr=1"


def test_labels_depend_on_everything_but_the_student() -> None:
    base = presets.load("quickstart")
    assert base.teacher.lidar_init == "none"
    for word in ("student.guidance=none", "optim.lr=1", "scaling.data_cpus=0.5", "run.name=x", "run.arms=[ours]"):
        assert labels_key(override(base, [word])) == labels_key(base), word
    for word in ("teacher.fusion=none", "label.snap=true", "run.seed=3", "model.norm=group", "data.num_sweeps=1"):
        assert labels_key(override(base, [word])) != labels_key(base), word
    taught = override(base, ["teacher.lidar_init=boxes_only"])  # its LiDAR weights are a student's
    assert labels_key(override(taught, ["optim.lr=1"])) != labels_key(taught)


def stages(dataroot: Path, folder: Path, *overrides: str, like: Stages | None = None) -> Stages:
    return Stages(
        RunDir(folder, world_config(dataroot, *overrides)),
        Tracker("", "", None),
        like=None if like is None else like.run,
    )


def finish_labels(run: Stages) -> None:
    """As if teacher and labels were done."""
    for stage, file in (("teacher", "step_0000003.pt"), ("pseudo_labels", "pseudo_labels.parquet")):
        (run.run.path / stage).mkdir()
        (run.run.path / stage / file).write_text(stage)
        run.run.finish(stage, {"checkpoints": [file], "of": run.run.digest})


def test_boxes_everywhere_need_no_teacher(sim_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stages, "teacher", lambda self: pytest.fail("a teacher of no use is trained"))
    first, second = (stages(sim_world, tmp_path / name, "label.ratio=1.0") for name in "ab")
    first.labels()
    second.adopt_labels(first)
    assert second.run.result("pseudo_labels") == first.run.result("pseudo_labels")
    quality = first.pseudo_labels()  # finished: what it said
    assert quality["accepted"] == quality["teacher"]["n"] == 0 and quality["teacher"]["bev_iou"] is None
    print_quality(quality)
    learned = list(arm_records(first, "ours"))
    assert len(learned) == len(first.records) > 0
    for record, known in zip(learned, first.known_records, strict=True):
        assert record.role == "box" and np.array_equal(record.boxes.rows, known.boxes.rows)
        assert (record.boxes.source == SOURCE_HUMAN).all()


def test_labels_are_adopted_from_a_run_of_another_student(sim_world: Path, tmp_path: Path) -> None:
    first, second = stages(sim_world, tmp_path / "a"), stages(sim_world, tmp_path / "b", "student.guidance=none")
    with pytest.raises(ValueError, match="teacher is not finished"):
        second.adopt_labels(first)
    finish_labels(first)
    second.adopt_labels(first)
    for stage in ("teacher", "pseudo_labels"):
        assert second.run.result(stage) == first.run.result(stage)
    assert second.pseudo_file.read_text() == "pseudo_labels"
    assert second.checkpoints("teacher")[0].read_text() == "teacher"
    second.adopt_labels(first)  # again: nothing to do


@pytest.mark.parametrize("word", ["teacher.fusion=none", "label.seed=1"])
def test_labels_of_another_teacher_are_refused(word: str, sim_world: Path, tmp_path: Path) -> None:
    first, second = stages(sim_world, tmp_path / "a"), stages(sim_world, tmp_path / "b", word)
    finish_labels(first)
    with pytest.raises(ValueError, match=word.split("=")[0]):
        second.adopt_labels(first)
    assert second.run.result("teacher") is None


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


def test_one_training_makes_the_labels_of_all_that_may_share_them(
    sim_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def labels(run: Stages) -> None:
        trained.append(run.run.path.name)
        finish_labels(run)

    monkeypatch.setattr(Stages, "labels", labels)
    words = {"a": "student.guidance=full", "b": "student.guidance=none", "c": "teacher.fusion=none"}
    runs = [stages(sim_world, tmp_path / name, word) for name, word in words.items()]
    student_study.make_labels([*runs, runs[0]], at_once=1)
    assert sorted(trained) == ["a", "c"]
    digests = [run.run.result("teacher")["of"] for run in runs]  # type: ignore[index]
    assert digests[0] == digests[1] != digests[2]


def scores(value: float, labels: float | None) -> dict[str, Any]:
    return {
        **{score: value for score in ("mAP", "NDS", "SPNDS", "mATE", "mASE", "mAOE")},
        "per_class": {name: {"AP": value / 2} for name in CLASSES},
        "pseudo_labels": None if labels is None else {"n": 5, "bev_iou": labels},
    }


def test_summary_by_hand_printed_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = {
        "ours": {"0": scores(0.2, 0.6), "1": scores(0.4, 0.7)},
        "boxes only": {"0": scores(0.1, None), "1": scores(0.1, None)},
    }
    summary = summarize_students(runs)
    assert summary["ours"]["mAP"] == {"mean": pytest.approx(0.3), "std": pytest.approx(0.02**0.5), "n": 2}
    assert summary["ours"]["AP"]["bus"]["mean"] == pytest.approx(0.15)
    assert summary["ours"]["label_bev_iou"]["mean"] == pytest.approx(0.65)
    assert summary["boxes only"]["label_bev_iou"] == {"mean": None, "std": None, "n": 0}
    document = {
        "study": "headline",
        "seeds": [0, 1],
        "summary": summary,
        "variants": {name: {"runs": mine} for name, mine in runs.items()},
    }
    document = json.loads(json.dumps(document))
    print_students(document)
    shown = capsys.readouterr().out
    assert "0.300 +- 0.141" in shown and "0.100 +- 0.000" in shown and "0.650 +- 0.071" in shown
    picture = draw_students(document, tmp_path)
    assert picture.name == "headline_scores.png" and picture.read_bytes()[:4] == b"\x89PNG"


def test_an_unknown_study_is_the_users_error() -> None:
    with pytest.raises(DataError, match="allowed guidance, headline"):
        student_study.run(["guidence", "--preset", "quickstart"])
    with pytest.raises(
        DataError, match="--variant 'partly' is not of study guidance: allowed 'none', 'full', 'partial'"
    ):
        student_study.run(["guidance", "--preset", "quickstart", "--variant", "partly"])


def test_chosen_variants_come_in_the_studys_order() -> None:
    assert list(student_studies.student_study("headline", ["ours", "mean teacher"])) == ["mean teacher", "ours"]
    assert student_studies.student_study("headline") == STUDENT_STUDIES["headline"]
