"""Tests of ``pdetr3d score``: scores equal the devkit's for any results file and its velocities and attributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.cli import main
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.evaluation.nuscenes_eval import load_tables, score
from tests.score_cases import ground_truth_predictions
from tests.unit.test_nuscenes_eval import SPLIT, VERSION, noisy

pytestmark = pytest.mark.xdist_group("score_verb")  # the fixtures of this file take seconds


@pytest.fixture(scope="module")
def ours(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """An index, a results file of noisy boxes that ``score`` wrote, and its report."""
    folder = tmp_path_factory.mktemp("score")
    index = build_index(sim_world, VERSION, folder / "index.arrow")
    nusc, rng = load_tables(sim_world, VERSION, classes=NUSCENES_CLASSES), np.random.default_rng(3)
    truth, poses = ground_truth_predictions(nusc, SPLIT, NUSCENES_CLASSES)
    report = score(
        sim_world,
        VERSION,
        SPLIT,
        {t: noisy(b, rng) for t, b in truth.items()},
        poses,
        folder,
        nusc,
        classes=NUSCENES_CLASSES,
    )
    return index, folder / "results_nusc.json", report


def asked(index: Path, results: Path, *more: str) -> int:
    return main(["score", str(results), "--index", str(index), "--split", SPLIT, *more])


def test_our_own_file_gets_the_same_score(
    ours: tuple[Path, Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, results, report = ours
    assert asked(index, results, "--json", str(tmp_path / "score.json")) == 0
    assert json.loads((tmp_path / "score.json").read_text()) == json.loads(json.dumps(report))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["mAP", f"{report['mAP']:.3f}"] in lines and ["SPNDS", f"{report['SPNDS']:.3f}"] in lines
    car = report["per_class"]["car"]
    assert ["car", *(f"{car[k]:.3f}" for k in ("AP", "ATE", "ASE", "AOE", "AVE", "AAE")), str(car["n_gt"])] in lines
    assert max(len(" ".join(line)) for line in lines if line[:1] != ["json"]) <= 80  # paths may be longer


def test_velocities_and_attributes_are_those_of_the_file(
    ours: tuple[Path, Path, dict[str, Any]], sim_world: Path, tmp_path: Path
) -> None:
    """Every error equals the devkit's on a file with velocities and attributes that pdetr3d would never write."""
    index, results, report = ours
    content = json.loads(results.read_text())
    rng = np.random.default_rng(0)
    for rows in content["results"].values():
        for row in rows:
            row["velocity"] = rng.normal(0, 2, 2).tolist()
            row["attribute_name"] = "vehicle.parked" if row["detection_name"] == "car" else ""
            row["detection_score"] = 1 if row["detection_score"] > 0.95 else row["detection_score"]  # an integer
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(content))
    assert asked(index, file, "--json", str(tmp_path / "score.json")) == 0
    mine = json.loads((tmp_path / "score.json").read_text())
    for rows in content["results"].values():
        for row in rows:
            row["detection_score"] = float(row["detection_score"])  # the devkit refuses integers
    file.write_text(json.dumps(content))
    config, nusc = config_factory("detection_cvpr_2019"), load_tables(sim_world, VERSION, classes=NUSCENES_CLASSES)
    summary = DetectionEval(nusc, config, str(file), SPLIT, str(tmp_path / "devkit"), verbose=False).main(
        render_curves=False
    )
    assert (mine["mAP"], mine["NDS"]) == (summary["mean_ap"], summary["nd_score"])
    for name, theirs in {"mAVE": "vel_err", "mAAE": "attr_err", "mATE": "trans_err"}.items():
        assert mine[name] == summary["tp_errors"][theirs]
    assert mine["mAVE"] > report["mAVE"] + 0.1 and mine["mAAE"] != report["mAAE"]


def damaged(content: dict[str, Any], field: str, value: object) -> None:
    rows = next(rows for rows in content["results"].values() if rows)
    if value is None:
        del rows[0][field]
    else:
        rows[0][field] = value


BAD = [
    ("detection_name", "lorry", "lorry"),
    ("detection_score", "high", "box 0: detection_score 'high'; allowed: a finite number"),
    ("detection_score", float("nan"), "detection_score nan"),
    ("attribute_name", "vehicle.flying", "attribute_name 'vehicle.flying'; allowed: cycle.with_rider, "),
    ("size", [1, 2], "size [1, 2]; allowed: 3 finite numbers"),
    ("size", [1, 0, 2], "size [1.0, 0.0, 2.0]; allowed: w, l, h > 0 [m]"),
    ("rotation", [0, 0, 0, 0], "allowed: a quaternion w, x, y, z"),
    ("translation", [1, float("inf"), 2], "translation [1, inf, 2]; allowed: 3 finite numbers"),
    ("velocity", None, "box 0: no field 'velocity'; a box has sample_token, translation, size, "),
    ("sample_token", "other", "sample_token 'other' under another sample"),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD)
def test_a_box_that_is_none_is_refused(
    field: str,
    value: object,
    message: str,
    ours: tuple[Path, Path, dict],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = json.loads(ours[1].read_text())
    damaged(content, field, value)
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(content))
    assert asked(ours[0], file, "--json", str(tmp_path / "score.json")) == 2
    error = capsys.readouterr().err
    assert message in error and f"{file}, sample " in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_is_none_is_refused(
    ours: tuple[Path, Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(ours[1].read_text())
    token, rows = next((token, rows) for token, rows in content["results"].items() if rows)
    file = tmp_path / "theirs.json"
    for text, message in {
        "{": "it is no nuScenes results file",
        "[]": "no nuScenes results file",
        json.dumps({"results": {}}): "samples of the split are missing, e.g. ",
        json.dumps({"results": content["results"] | {token: {}}}): "dict; allowed: a list of boxes",
        json.dumps({"results": content["results"] | {token: rows[:1] * 501}}): "501 boxes; the devkit takes 500",
    }.items():
        file.write_text(text)
        assert asked(ours[0], file) == 2
        assert message in capsys.readouterr().err
    assert asked(ours[0], tmp_path / "no.json") == 2
    # Samples of other splits are passed over, as kitti-score does.
    file.write_text(json.dumps({"results": content["results"] | {"another": [{"anything": 1}]}}))
    assert asked(ours[0], file) == 0


def told(ours: tuple[Path, Path, dict], results: dict[str, Any], folder: Path, code: int = 0) -> None:
    """Score these results, and compare the exit code."""
    file = folder / "theirs.json"
    file.write_text(json.dumps({"meta": {}, "results": results}))
    assert asked(ours[0], file) == code


def mended(content: dict[str, Any], **change: Any) -> dict[str, Any]:
    """The results with fields replaced: field -> function of the box."""
    return {
        token: [row | {name: of(row) for name, of in change.items()} for row in rows]
        for token, rows in content["results"].items()
    }


def test_boxes_that_cannot_be_of_these_samples_are_refused(
    ours: tuple[Path, Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their scores would be near zero, and the file, not the detector, is wrong."""
    content = json.loads(ours[1].read_text())
    told(ours, mended(content, rotation=lambda box: box["rotation"][1:] + box["rotation"][:1]), tmp_path, 2)
    assert "were they written as x, y, z, w?" in capsys.readouterr().err
    told(ours, mended(content, translation=lambda box: [x % 30 for x in box["translation"]]), tmp_path, 2)
    error = capsys.readouterr().err
    assert "boxes of a results file are in the global frame" in error and "the frame of the car or the LiDAR" in error
    told(ours, mended(content, translation=lambda box: [100 * x for x in box["translation"]]), tmp_path, 2)
    error = capsys.readouterr().err
    assert "boxes of a results file are in the global frame" in error and "the frame of the car" not in error


def test_boxes_that_are_unlikely_are_said(
    ours: tuple[Path, Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(ours[1].read_text())
    told(ours, content["results"], tmp_path)
    assert "warning" not in capsys.readouterr().out
    told(ours, mended(content, size=lambda box: [box["size"][1], box["size"][0], box["size"][2]]), tmp_path)
    assert "boxes of class car is" in capsys.readouterr().out
    told(ours, {token: [*rows, *rows][:500] for token, rows in content["results"].items()}, tmp_path)
    assert "boxes stand where another box of their class stands" in capsys.readouterr().out
    told(ours, dict.fromkeys(content["results"], []), tmp_path)
    assert "no box in any of the" in capsys.readouterr().out
    token = next(token for token, rows in content["results"].items() if rows)
    moved = [row | {"translation": [9000.0, 0.0, 0.0]} for row in content["results"][token]]
    told(ours, content["results"] | {token: moved}, tmp_path)
    assert "warning" in (said := capsys.readouterr().out) and f"m in {token}; boxes of a results file" in said


def test_a_sample_that_stands_twice_is_refused(
    ours: tuple[Path, Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON readers keep the last one alone."""
    text = ours[1].read_text()
    token = next(iter(json.loads(text)["results"]))
    (tmp_path / "theirs.json").write_text(text.replace('"results": {', f'"results": {{"{token}": [], ', 1))
    assert asked(ours[0], tmp_path / "theirs.json") == 2
    assert f"these keys stand there twice: {token}" in capsys.readouterr().err
