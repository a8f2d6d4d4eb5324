"""Each check of the doctor finds its fault, planted in a run directory; a healthy run gets no complaint."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdetr3d import presets
from pdetr3d.cli import main
from pdetr3d.data.labels.people_manifest import import_clicks
from pdetr3d.evaluation.pseudo_label_quality import BINS_M, bev_iou
from pdetr3d.finished.doctor import boxes
from pdetr3d.finished.doctor.diagnosis import CHECKS, diagnose, lines
from pdetr3d.finished.doctor.result import Result
from pdetr3d.finished.doctor.run import Run, check_comparable
from pdetr3d.geometry.boxes import rotate_z
from pdetr3d.schema import CLASSES, Boxes3D, DataError
from tests.doctor_cases import CURVES, PlantedRun, scored

pytestmark = pytest.mark.xdist_group("doctor")  # the fixtures of this file take seconds


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One MLflow store for all tests, since its creation takes seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def healthy(sim_world: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> PlantedRun:
    run = PlantedRun(tmp_path_factory.mktemp("healthy") / "run", sim_world)
    run.write_labels(run.good_boxes())
    run.write_curves("student_ours", store)
    return run


@pytest.fixture(scope="module")
def lidar_only(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> PlantedRun:
    run = PlantedRun(tmp_path_factory.mktemp("lidar") / "run", sim_world, "teacher.fusion=none")
    run.write_labels(run.good_boxes(yaw_error_rad=0.4))
    return run


@pytest.fixture
def sick(healthy: PlantedRun, tmp_path: Path) -> PlantedRun:
    """A copy of the healthy run, to plant a fault in."""
    return healthy.copy(tmp_path / "run")


def complaint(run: PlantedRun, check: str, other: PlantedRun | None = None) -> Result:
    """The result of ``check``. It must be the only problem, and its advice must name existing config keys."""
    results = diagnose(Run(run.path), None if other is None else Run(other.path))
    assert [name for name, result in results.items() if result.verdict == "problem"] == [check]
    result = results[check]
    assert result.evidence and result.advice
    quoted = re.findall(r"`([^`]+)`", " ".join(result.advice))
    keys = [text for text in quoted if re.fullmatch(r"[a-z]+(\.\w+)+(=\S+)?", text)]
    assert {key.split("=")[0] for key in keys} <= set(run.run.config.flat())
    presets.load("quickstart", [key for key in keys if "=" in key and key != "data.packed=URI"])
    return result


def test_a_healthy_run_gets_no_complaint(healthy: PlantedRun, lidar_only: PlantedRun) -> None:
    results = diagnose(Run(healthy.path), Run(lidar_only.path))
    assert list(results) == list(CHECKS)
    assert {name: r.verdict for name, r in results.items()} == dict.fromkeys(CHECKS, "ok"), results
    assert diagnose(Run(healthy.path))["fusion"].verdict == "unknown"  # a single run is not enough to judge
    assert "LiDAR alone" in diagnose(Run(lidar_only.path))["fusion"].text


def test_a_run_that_has_done_nothing_yet_cannot_be_judged(healthy: PlantedRun, tmp_path: Path) -> None:
    run = tmp_path / "new"
    shutil.copytree(healthy.path, run, ignore=shutil.ignore_patterns("pseudo_labels", "mlflow_run.json"))
    results = diagnose(Run(run))
    assert {n for n, r in results.items() if r.verdict != "unknown"} == {"clicks", "dataset", "files"}
    assert (
        "pseudo_labels/done.json" in results["teacher"].text and "parquet is missing" in results["pseudo labels"].text
    )
    assert "nothing was logged" in results["losses"].text
    shutil.rmtree(run / "data")
    assert "no label manifest" in diagnose(Run(run))["clicks"].text


def test_a_teacher_whose_queries_are_lost(sick: PlantedRun) -> None:
    boxes = sick.good_boxes()
    moved = dataclasses.replace(boxes, center_m=boxes.center_m + np.float32([20, 0, 0]))
    sick.run.finish(
        "pseudo_labels", {**Run(sick.path).measured, "teacher": sick.quality(scored(moved, moved.score * 0))}
    )
    run = Run(sick.path)
    result = diagnose(run)["teacher"]
    assert result.verdict == "problem" and "off by 20.00 m" in result.evidence[1]
    assert "`teacher.query_init=explicit` (as it is)" in result.advice[0]
    # All groups are equally bad, which gives one complaint; few rejected labels do not prove good labels.
    assert diagnose(run)["pseudo labels"].verdict == "unknown"


def test_a_teacher_that_learned_nothing(sick: PlantedRun) -> None:
    iou = sick.quality(sick.floor)["bev_iou"]
    sick.write_labels(scored(sick.floor, sick.good_boxes().score))
    result = diagnose(Run(sick.path))["teacher"]
    assert result.verdict == "problem"
    assert f"BEV IoU {iou:.3f}, class-mean box {iou:.3f} ({len(sick.truth)} clicks" in result.evidence[0]
    assert "`label.ratio` (now 0.3)" in result.advice[0] and "`teacher.point_crop=true`" in result.advice[1]


def test_the_floor_is_worked_out_where_only_the_teacher_was_measured(sick: PlantedRun) -> None:
    shutil.rmtree(sick.path / "pseudo_labels")
    sick.write_trial(sick.good_boxes(), {})
    assert Run(sick.path).class_mean == sick.quality(sick.floor)
    assert diagnose(Run(sick.path))["teacher"].verdict == "ok"


IN_SOURCE: dict[str, Callable[[Any], Any]] = {
    "trial": lambda quality: {"final": {"teacher": quality}, "data": {}},  # of a search
    "evaluate_teacher": lambda quality: quality,  # of train_teacher
}


@pytest.mark.parametrize("stage", IN_SOURCE)
def test_teachers_of_searches_and_of_train_teacher_are_judged(
    stage: str, healthy: PlantedRun, lidar_only: PlantedRun, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, other = healthy.on_val(tmp_path / "images"), lidar_only.on_val(tmp_path / "lidar")
    assert len(run.truth) != len(healthy.truth)
    for one, yaw_error_rad in ((run, 0.1), (other, 0.4)):
        one.run.finish(stage, IN_SOURCE[stage](one.quality(one.good_boxes(yaw_error_rad))))
    assert Run(run.path).class_mean == run.quality(run.floor)
    results = diagnose(Run(run.path), Run(other.path))
    assert {n: results[n].verdict for n in ("teacher", "fusion", "score")} == dict.fromkeys(
        ("teacher", "fusion", "score"), "ok"
    )
    assert f"({len(run.truth)} clicks; {stage}/done.json)" in results["teacher"].text
    run.run.finish(stage, IN_SOURCE[stage](run.quality(scored(run.floor, run.good_boxes().score))))
    assert diagnose(Run(run.path))["teacher"].verdict == "problem"
    with pytest.raises(DataError, match="measured on other clicks .* of the train split"):
        check_comparable(Run(run.path), Run(lidar_only.path))
    assert main(["doctor", str(run.path), "--against", str(other.path)]) == 0 and "PROBLEM" in capfd.readouterr().out


def test_a_floor_of_other_clicks_is_no_floor(healthy: PlantedRun, tmp_path: Path) -> None:
    run = healthy.on_val(tmp_path / "run")
    quality = run.quality(run.good_boxes())
    run.run.finish("evaluate_teacher", quality | {"n": quality["n"] - 1})  # e.g. a sample was left out
    found = diagnose(Run(run.path))["teacher"]
    assert found.verdict == "unknown" and f"{quality['n'] - 1} clicks, of {quality['n']} whose" in found.text


def test_a_trial_of_students_alone_has_no_teacher_to_judge(healthy: PlantedRun, tmp_path: Path) -> None:
    run = healthy.on_val(tmp_path / "run")
    run.run.finish("trial", {"final": {"student_boxes_only": {}}})
    assert "no teacher was trained" in diagnose(Run(run.path))["teacher"].text


def test_fusion_that_adds_nothing_far_away(sick: PlantedRun, lidar_only: PlantedRun) -> None:
    near = np.linalg.norm(sick.truth.center_m[:, :2], axis=1) < 30
    without, better = sick.good_boxes(0.4), sick.good_boxes(0.1)
    yaw = np.where(near, better.yaw_rad, without.yaw_rad)  # images help within 30 m alone
    sick.write_labels(dataclasses.replace(without, yaw_rad=yaw))
    result = complaint(sick, "fusion", lidar_only)
    numbers = re.findall(r"yaw error (\S+) rad.*?, (\S+) rad", result.evidence[0])
    assert numbers == [("0.40", "0.40")] and str(lidar_only.path) in result.evidence[0]


@pytest.mark.parametrize(("iou", "yaw_rad", "verdict"), [(0.005, -0.04, "problem"), (0.02, 0, "ok"), (0, -0.06, "ok")])
def test_how_much_fusion_must_add(
    sick: PlantedRun, lidar_only: PlantedRun, iou: float, yaw_rad: float, verdict: str
) -> None:
    measured = Run(lidar_only.path).measured
    for name, found in measured["teacher"]["by_distance"].items():
        found["bev_iou"] += iou if name in ("30-40", "40-52") else 0.3
        found["yaw_error_rad"] += yaw_rad
    sick.run.finish("pseudo_labels", measured)
    assert diagnose(Run(sick.path), Run(lidar_only.path))["fusion"].verdict == verdict


@pytest.mark.parametrize(("without_rad", "verdict"), [(0.1, "problem"), (0.4, "ok")])
def test_a_search_with_missing_cameras_needs_no_other_run(sick: PlantedRun, without_rad: float, verdict: str) -> None:
    shutil.rmtree(sick.path / "pseudo_labels")
    found = {"0": sick.quality(sick.good_boxes(0.1)), "6": sick.quality(sick.good_boxes(without_rad))}
    corruption = {"corruption.blur_px": {"0": found["0"]}, "corruption.missing_cameras": found}
    sick.write_trial(sick.good_boxes(), corruption)
    result = diagnose(Run(sick.path))["fusion"]
    assert result.verdict == verdict and "without its cameras" in " ".join((result.text, *result.evidence))


def test_what_cannot_be_compared_is_refused(
    healthy: PlantedRun, lidar_only: PlantedRun, sim_world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"teacher.fusion is d_roi here and d_roi there"):
        check_comparable(Run(healthy.path), Run(healthy.path))
    with pytest.raises(DataError, match=r"teacher.fusion is none here"):
        check_comparable(Run(lidar_only.path), Run(lidar_only.path))
    check_comparable(Run(healthy.path), Run(lidar_only.path))
    other = PlantedRun(tmp_path / "other", sim_world, "teacher.fusion=none", "label.seed=3")
    other.write_labels(other.good_boxes())
    assert main(["doctor", str(healthy.path), "--against", str(other.path)]) == 2
    assert "measured on other clicks" in capfd.readouterr().err


def shifted(run: PlantedRun, name: str, share: float) -> Boxes3D:
    """Good boxes, where those of one class are shifted by a share of their length and width.

    Their IoU with the true boxes is q / (2 - q) with q = (1 - share)^2.
    """
    boxes, mine = run.good_boxes(), run.truth.label == CLASSES.index(name)
    off = rotate_z(run.truth.size_m * np.float32([share, share, 0]), run.truth.yaw_rad)
    arrays = {
        field: np.where(mine[:, None], values, getattr(boxes, field)).astype(np.float32)
        for field, values in (("center_m", run.truth.center_m + off), ("size_m", run.truth.size_m))
    }
    moved = dataclasses.replace(boxes, **arrays, yaw_rad=np.where(mine, run.truth.yaw_rad, boxes.yaw_rad))
    return scored(moved, bev_iou(moved, run.truth))


@pytest.mark.parametrize(("share", "iou"), [(0.3, "0.325"), (0.2, "0.471")])  # under 2/3 of all; under its floor alone
def test_a_class_whose_labels_are_poor(sick: PlantedRun, share: float, iou: str) -> None:
    sick.write_labels(shifted(sick, "pedestrian", share))
    result = complaint(sick, "pseudo labels")
    count = int((sick.truth.label == CLASSES.index("pedestrian")).sum())
    floor, whole = (Run(sick.path).measured[key] for key in ("class_mean", "teacher"))
    assert count >= 30 and (float(iou) > 2 / 3 * whole["bev_iou"]) == (share == 0.2)
    assert result.text == "Pseudo labels are poor: pedestrian."
    mean = floor["per_class"]["pedestrian"]["bev_iou"]
    seen = f"pedestrian: BEV IoU {iou} over {count} clicks; its class-mean box {mean:.3f}, all clicks "
    assert result.evidence == (f"{seen}{whole['bev_iou']:.3f}",)
    boxed = [sick.data.index.annotations(token) for token in boxed_tokens(sick)]
    learned = sum(int((found.boxes().label == CLASSES.index("pedestrian")).sum()) for found in boxed)
    assert result.advice[0] == f"the teacher learned from {learned} of pedestrian"


def test_a_class_a_little_under_its_floor_or_of_few_clicks_is_no_complaint(sick: PlantedRun) -> None:
    counts = np.bincount(sick.truth.label, minlength=len(CLASSES))
    few = int(np.argmin(np.where(counts > 0, counts, len(sick.truth))))
    assert counts[few] < boxes.MIN_CLICKS
    sick.write_labels(shifted(sick, CLASSES[few], 0.3))
    assert diagnose(Run(sick.path))["pseudo labels"].verdict == "ok"
    floor = Run(sick.path).measured["class_mean"]["per_class"]["pedestrian"]["bev_iou"]
    iou = floor - boxes.BELOW_FLOOR / 2
    sick.write_labels(shifted(sick, "pedestrian", 1 - (2 * iou / (1 + iou)) ** 0.5))  # ``shifted`` solved for the share
    assert diagnose(Run(sick.path))["pseudo labels"].verdict == "ok"


def test_groups_of_few_clicks_are_not_called_well(sick: PlantedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    fewest = max(len(sick.truth), len(Run(sick.path).labels)) + 1
    monkeypatch.setattr(boxes, "MIN_CLICKS", fewest)
    result = diagnose(Run(sick.path))["pseudo labels"]
    assert result.verdict == "unknown" and f"fewer than {fewest} clicks whose true boxes" in result.text
    assert f"fewer than {fewest} labels" in result.text  # and not: "few labels were rejected"


def test_a_distance_band_whose_labels_are_rejected(sick: PlantedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "MIN_CLICKS", 20)  # the tests' world is small
    distance = np.linalg.norm(np.concatenate([r.clicks.xyz_m for r in sick.records])[:, :2], axis=1)
    band, good = (distance >= 20) & (distance < 30), sick.good_boxes()
    height = np.where(band, 4 * good.size_m[:, 2], good.size_m[:, 2])  # BEV IoU does not see it
    sick.write_labels(dataclasses.replace(good, size_m=np.column_stack([good.size_m[:, :2], height])))
    result = diagnose(Run(sick.path))["pseudo labels"]
    assert result.verdict == "problem" and "20-30 m" in result.text
    assert not any(f"{lo}-{hi} m" in result.text for lo, hi in BINS_M if lo != 20)
    line = next(line for line in result.evidence if line.startswith("20-30 m"))
    lost, count = map(int, re.findall(r"(\d+) of (\d+) labels rejected", line)[0])
    assert count == band.sum() and lost > 0.9 * count and "implausible size" in line


def test_many_small_groups_whose_labels_are_rejected(sick: PlantedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    good = sick.good_boxes()
    fifth = np.arange(len(good)) % 5 == 0
    height = np.where(fifth, 4 * good.size_m[:, 2], good.size_m[:, 2])  # BEV IoU does not see it
    sick.write_labels(dataclasses.replace(good, size_m=np.column_stack([good.size_m[:, :2], height])))
    clicks = len(Run(sick.path).labels)
    monkeypatch.setattr(boxes, "MIN_CLICKS", clicks)  # no class and no band has all clicks
    result = diagnose(Run(sick.path))["pseudo labels"]
    assert result.verdict == "problem" and result.text.startswith("Pseudo labels are poor: all clicks.")
    lost = int(re.findall(rf"all clicks: (\d+) of {clicks} labels rejected", "\n".join(result.evidence))[0])
    assert 0.1 * clicks < lost <= fifth.sum()


@pytest.mark.parametrize("fault", ["too sure", "upside down", "constant"])
def test_a_score_that_says_nothing(sick: PlantedRun, fault: str) -> None:
    boxes = sick.good_boxes()
    iou = boxes.score
    wrong = {"too sure": 0.5 + iou / 2, "upside down": np.median(iou) * 2 - iou, "constant": iou * 0 + iou.mean()}[
        fault
    ]
    sick.write_labels(scored(boxes, np.clip(wrong, 0, 1)))
    result = complaint(sick, "score")
    assert "too high" in result.advice[0] or fault != "too sure"
    assert ("undefined" in result.evidence[0]) == (fault == "constant")
    assert ("correlation with the reached IoU -" in result.evidence[0]) == (fault == "upside down")


LOSS = CURVES["loss"]


@pytest.mark.parametrize(
    ("curve", "status", "seen"),
    [
        ([*LOSS, 7.2, 4.4], "FINISHED", "student_ours: loss 7.2 at step 350, 4.49 before"),
        ([*LOSS, float("nan"), 4.4], "FINISHED", "student_ours: loss nan at step 350, 4.49 before"),
        ([*LOSS, float("inf")], "FAILED", "student_ours: loss inf at step 350, 4.49 before"),
        (LOSS, "FAILED", "student_ours: FAILED after step 300; the job's output says why"),
    ],
)
def test_an_unstable_student(
    sick: PlantedRun, tmp_path: Path, store: Path, curve: list, status: str, seen: str
) -> None:
    (sick.path / "mlflow_run.json").unlink()
    sick.write_curves("student_ours", store, status, loss=curve)
    result = complaint(sick, "losses")
    assert result.evidence == (seen,) and "`optim.lr` (now 0.008)" in result.advice[0]


def test_an_unstable_teacher_is_told_its_own_keys(sick: PlantedRun, store: Path) -> None:
    sick.write_curves("teacher", store, loss=[4.0, 3.0, 4.6], feature_std=[])
    assert "`teacher.optim.lr` (now 0.002)" in complaint(sick, "losses").advice[0]


def test_a_loss_may_rise_a_little(sick: PlantedRun, store: Path) -> None:
    sick.write_curves("teacher", store, loss=[4.0, 3.0, 4.4], feature_std=[])
    assert diagnose(Run(sick.path))["losses"].verdict == "ok"


def test_a_run_that_only_scored_has_no_loss_to_judge(sick: PlantedRun, store: Path) -> None:
    """A search's folder of pseudo labels scores a teacher that was trained elsewhere, so it has no loss curve."""
    (sick.path / "mlflow_run.json").unlink()
    sick.write_curves("teacher", store, **dict.fromkeys(CURVES, []))
    result = diagnose(Run(sick.path))["losses"]
    assert result.verdict == "unknown" and "no stage logged a loss" in result.text
    sick.write_curves("student_ours", store)
    result = diagnose(Run(sick.path))["losses"]
    assert result.verdict == "ok" and "student_ours" in result.text and "teacher" not in result.text


@pytest.mark.parametrize(("last", "verdict"), [(5.5, "ok"), (7.5, "problem")])
def test_a_mean_teachers_own_labels_come_in_later(sick: PlantedRun, store: Path, last: float, verdict: str) -> None:
    parts = {"unlabeled_heatmap": [0, 0.2, 1.5], "unlabeled_box": [0, 0.3, 1.0]}
    sick.write_curves("student_mean_teacher", store, loss=[4.0, 3.5, last], **parts)  # the rest: 4, 3, last - 2.5
    assert diagnose(Run(sick.path))["losses"].verdict == verdict


def test_collapsed_features(sick: PlantedRun, store: Path) -> None:
    (sick.path / "mlflow_run.json").unlink()
    sick.write_curves("student_boxes_only", store)
    sick.write_curves("student_ours", store, feature_std=[0.6, 0.3, 0.05])
    result = complaint(sick, "features")
    assert result.text == "Features have collapsed: student_ours."
    assert "student_ours: channel std 0.050, at first 0.600" in result.evidence


@pytest.mark.parametrize("fault", ["shifted", "renamed"])
def test_clicks_that_disagree_with_boxes(sick: PlantedRun, tmp_path: Path, fault: str) -> None:
    rows, others = [], 0
    for token in sick.data.manifest.roles:
        boxes = sick.data.index.annotations(token).boxes()
        for center, label in zip(boxes.center_m.tolist(), boxes.label.tolist(), strict=True):
            x, y, z = center
            if fault == "shifted":
                z += 5  # above everything
            name = CLASSES[label]
            if fault == "renamed" and name == "car":
                name = "construction_vehicle"
                others += token in boxed_tokens(sick)
            rows.append({"sample_token": token, "x": x, "y": y, "z": z, "class": name, "frame": "lidar"})
    (tmp_path / "clicks.json").write_text(json.dumps(rows))
    shutil.rmtree(sick.path / "data" / "manifest")
    config = sick.run.config.label
    target = sick.path / "data" / "manifest"
    import_clicks(sick.data.index, "sim_train", config, tmp_path / "clicks.json", target, drawn=True)
    result = diagnose(Run(sick.path))["clicks"]
    assert result.verdict == "problem"
    total = sum(row["sample_token"] in boxed_tokens(sick) for row in rows)
    if fault == "shifted":
        assert result.evidence[0].startswith(f"{total} of {total} clicks") and "5.00) m" in result.evidence[2]
    else:
        assert result.evidence[0].startswith(f"{others} of {total} clicks")
        assert result.evidence[1] == f"{others} lie in a box of another class"


def test_data_that_starve_the_accelerator(sick: PlantedRun, store: Path) -> None:
    (sick.path / "mlflow_run.json").unlink()
    sick.write_curves("student_full", store, data_s=[0.4, 0.01, 0.01], step_s=[0.5, 0.2, 0.2])  # only its start waits
    sick.write_curves("student_ours", store, data_s=[0.1, 0.15, 0.15], step_s=[0.5, 0.5, 0.5])
    result = complaint(sick, "data")
    assert result.text == "Training waits for data: student_ours."
    assert result.evidence == ("student_full: 5.0% of 0.20 s a step", "student_ours: 30.0% of 0.50 s a step")


def test_an_older_report_is_no_crash(sick: PlantedRun) -> None:
    measured = Run(sick.path).measured
    del measured["teacher"]["calibration"]
    sick.run.finish("pseudo_labels", measured)
    result = diagnose(Run(sick.path))["score"]
    assert result.verdict == "unknown" and "'calibration'" in result.text


def test_the_command(sick: PlantedRun, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in sick.path.rglob("*") if file.is_file()}
    assert main(["doctor", str(sick.path)]) == 0
    told = capfd.readouterr().out.splitlines()
    assert told == [line for _, line in lines(diagnose(Run(sick.path)))] and told[-1].startswith("unknown  fusion:")
    sick.write_labels(scored(sick.good_boxes(), sick.good_boxes().score * 0))
    assert main(["doctor", str(sick.path), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["score"]["verdict"] == "problem" and found["score"]["advice"] and found["losses"]["verdict"] == "ok"
    assert main(["doctor", str(sick.path)]) == 0  # findings are no error
    assert capfd.readouterr().out.startswith("PROBLEM  score: The score does not say how good a box is.\n  seen: ")
    assert before.keys() == {file for file in sick.path.rglob("*") if file.is_file()}
    for folder, message in ((tmp_path / "none", "no such folder"), (tmp_path, "it holds the runs run: name one")):
        assert main(["doctor", str(folder)]) == 2
        assert message in capfd.readouterr().err


def boxed_tokens(run: PlantedRun) -> set[str]:
    """The box-labeled samples."""
    return {token for token, role in run.data.manifest.roles.items() if role == "box"}
