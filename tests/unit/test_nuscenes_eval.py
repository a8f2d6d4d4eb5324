"""The official score on hand-made datasets and the real keyframe: conversion, formulas, empty inputs, bad input."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion

from pdetr3d.class_list import NUSCENES_CLASSES, ClassList, read_classes
from pdetr3d.config import SimConfig
from pdetr3d.evaluation.attributes import attribute_of
from pdetr3d.evaluation.nuscenes_eval import load_tables, score, split_samples, spnds
from pdetr3d.evaluation.results_format import nuscenes_boxes, read_poses
from pdetr3d.schema import CLASSES, Boxes3D, DataError
from pdetr3d.simulator.simulate import simulate
from tests.reference.tiny_nuscenes import annotation, write
from tests.score_cases import ground_truth_predictions

VERSION, SPLIT = "v1.0-sim", "sim_val"
EGO = ((100.0, 200.0, 0.0), 0.7)


def at(distance_m: float, angle_rad: float) -> tuple[float, float, float]:
    return (EGO[0][0] + distance_m * math.cos(angle_rad), EGO[0][1] + distance_m * math.sin(angle_rad), 1.0)


def world(tmp_path: Path, objects: list[dict], extra: dict | None = None) -> NuScenes:
    """A dataset with one scene of one sample in split sim_val, and another scene in sim_train."""
    scenes = {"val-a": [{"ego": EGO, "objects": objects}], "train-a": [{"ego": EGO, "objects": []}], **(extra or {})}
    write(tmp_path / "data", VERSION, scenes, {"sim_train": ["train-a"], SPLIT: ["val-a", "val-not-here"], "none": []})
    return load_tables(tmp_path / "data", VERSION, classes=NUSCENES_CLASSES)


def run(tmp_path: Path, nusc: NuScenes, predictions: dict[str, Boxes3D]) -> dict:
    poses = read_poses(nusc, split_samples(nusc, SPLIT))
    return score(
        tmp_path / "data", VERSION, SPLIT, predictions, poses, tmp_path / "out", nusc, classes=NUSCENES_CLASSES
    )


def test_ground_truth_scores_one_for_every_class(tmp_path):
    objects = [annotation(c, at(5 + 2 * i, 0.6 * i), (1, 2, 1.5), yaw_rad=i) for i, c in enumerate(CLASSES)]
    nusc = world(tmp_path, objects)
    predictions, _ = ground_truth_predictions(nusc, SPLIT, classes=NUSCENES_CLASSES)
    assert list(predictions) == ["val-a-0"]
    report = run(tmp_path, nusc, predictions)
    assert report["mAP"] == pytest.approx(1) and report["mAP_present"] == pytest.approx(1)
    assert [report["per_class"][c]["AP"] for c in CLASSES] == pytest.approx([1] * 10)
    assert [report["per_class"][c]["AP@0.5"] for c in CLASSES] == pytest.approx([1] * 10)
    assert report["n_gt"] == dict.fromkeys(CLASSES, 1)
    assert report["SPNDS"] == pytest.approx(1, abs=1e-5)
    assert max(report["mATE"], report["mASE"], report["mAOE"]) < 1e-5
    json.dumps(report, allow_nan=False)
    json.loads((tmp_path / "out/metrics_summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"results_nusc.json", "metrics_summary.json"}


def test_errors_derived_by_hand(tmp_path):
    """One car is predicted 0.6 m off, twice as long and turned by 0.3 rad: it matches at 1, 2 and 4 m, not at 0.5 m."""
    nusc = world(tmp_path, [annotation("car", at(20, 0.2), (2, 4, 1.5), yaw_rad=1.0)])
    predictions, poses = ground_truth_predictions(nusc, SPLIT, classes=NUSCENES_CLASSES)
    truth = predictions["val-a-0"]
    off = Boxes3D.build(truth.center_m + [0.6, 0, 0], truth.size_m * [2, 1, 1], truth.yaw_rad + 0.3, truth.label)
    report = run(tmp_path, nusc, {"val-a-0": off})
    car = report["per_class"]["car"]
    assert [car[f"AP@{t}"] for t in (0.5, 1.0, 2.0, 4.0)] == pytest.approx([0, 1, 1, 1])
    assert car["AP"] == pytest.approx(0.75) and report["mAP"] == pytest.approx(0.075)
    assert report["mAP_present"] == pytest.approx(0.75)
    assert car["ATE"] == pytest.approx(0.6, abs=1e-4) and car["ASE"] == pytest.approx(0.5, abs=1e-5)
    assert car["AOE"] == pytest.approx(0.3, abs=1e-4)
    # AOE is a mean over nine classes (no cone), the others over ten; absent classes count as 1.
    assert report["mATE"] == pytest.approx(0.96, abs=1e-4) and report["mASE"] == pytest.approx(0.95, abs=1e-4)
    assert report["mAOE"] == pytest.approx(8.3 / 9, abs=1e-4)
    assert report["SPNDS"] == pytest.approx((5 * 0.075 + 0.04 + 0.05 + 0.7 / 9) / 8, abs=1e-4)
    assert report["per_class"]["traffic_cone"]["AOE"] is None


def test_spnds_formula():
    """The example of method.md 6.1; errors over 1 count as 1."""
    assert spnds(0.5, {"trans_err": 0.3, "scale_err": 0.25, "orient_err": 0.4}) == pytest.approx(0.56875)
    assert spnds(0.0, {"trans_err": 3.0, "scale_err": 1.0, "orient_err": 1.5}) == 0


def test_box_conversion_equals_the_devkit_box(tmp_path):
    """Every entry equals the devkit's Box moved from the LiDAR to the global frame; the pose is tilted."""
    nusc = world(tmp_path, [])
    rng = np.random.default_rng(0)
    sensor = (Quaternion(axis=[0.1, 0.2, 1.0], angle=-1.5), np.array([0.9, 0.0, 1.8]))
    ego = (Quaternion(axis=[-0.1, 0.05, 1.0], angle=2.0), np.array([411.0, 1180.0, 0.5]))
    poses = tuple(q.transformation_matrix + np.pad(t[:, None], ((0, 1), (3, 0))) for q, t in (sensor, ego))
    boxes = Boxes3D.build(
        rng.uniform(-50, 50, (20, 3)),
        rng.uniform(1, 9, (20, 3)),
        rng.uniform(-3, 3, 20),
        rng.integers(0, 10, 20),
        velocity_m_s=rng.normal(0, 3, (20, 2)),
        score=np.linspace(1, 0.1, 20),
    )
    for i, entry in enumerate(nuscenes_boxes("token", boxes, poses, classes=NUSCENES_CLASSES)):
        length, width, height = boxes.size_m[i]
        box = Box(
            boxes.center_m[i],
            [width, length, height],
            Quaternion(axis=[0, 0, 1], angle=float(boxes.yaw_rad[i])),
            velocity=(*boxes.velocity_m_s[i], 0.0),
        )
        for rotation, translation in (sensor, ego):
            box.rotate(rotation)
            box.translate(translation)
        np.testing.assert_allclose(entry["translation"], box.center, atol=1e-6)
        np.testing.assert_allclose(entry["size"], box.wlh, atol=1e-9)
        np.testing.assert_allclose(
            Quaternion(entry["rotation"]).rotation_matrix, box.orientation.rotation_matrix, atol=1e-6
        )
        np.testing.assert_allclose(entry["velocity"], box.velocity[:2], atol=1e-6)
        assert entry["detection_name"] == CLASSES[boxes.label[i]] and entry["sample_token"] == "token"
        assert entry["detection_score"] == pytest.approx(float(boxes.score[i]))
    assert nusc.sample  # the tilted pose is not the dataset's


def test_the_best_500_boxes_are_kept_and_unknown_velocity_is_zero():
    rng = np.random.default_rng(0)
    boxes = Boxes3D.build(
        rng.uniform(-9, 9, (700, 3)), np.ones((700, 3)), np.zeros(700), np.zeros(700), score=rng.random(700)
    )
    entries = nuscenes_boxes("token", boxes, (np.eye(4), np.eye(4)), classes=NUSCENES_CLASSES)
    assert [e["detection_score"] for e in entries] == sorted(map(float, boxes.score), reverse=True)[:500]
    assert entries[0]["velocity"] == [0, 0] and entries[0]["attribute_name"] == "vehicle.parked"
    assert nuscenes_boxes("token", Boxes3D.empty(), (np.eye(4), np.eye(4)), classes=NUSCENES_CLASSES) == []


def test_velocity_and_attribute_errors(tmp_path):
    """A car at 4 m/s over three samples: its own velocity and the attribute rule give errors of zero."""
    samples = [
        {
            "ego": EGO,
            "objects": [annotation("car", (105 + 2 * i, 200, 1), (2, 4, 1.5), track="c", attribute="vehicle.moving")],
        }
        for i in range(3)
    ]
    write(tmp_path / "data", VERSION, {"val-a": samples}, {SPLIT: ["val-a"]})
    nusc = load_tables(tmp_path / "data", VERSION, classes=NUSCENES_CLASSES)
    predictions, _ = ground_truth_predictions(nusc, SPLIT, classes=NUSCENES_CLASSES)
    assert np.linalg.norm(predictions["val-a-1"].velocity_m_s) == pytest.approx(4)
    car = run(tmp_path, nusc, predictions)["per_class"]["car"]
    assert car["AVE"] == pytest.approx(0, abs=1e-5) and car["AAE"] == 0 and car["n_gt"] == 3


KIND = {kind.name: kind for kind in NUSCENES_CLASSES.classes}


def test_attribute_rule():
    assert attribute_of(KIND["car"], 0.3) == "vehicle.moving" and attribute_of(KIND["car"], 0.1) == "vehicle.parked"
    assert (
        attribute_of(KIND["bus"], math.nan) == "vehicle.stopped"
        and attribute_of(KIND["bicycle"], 2) == "cycle.with_rider"
    )
    assert attribute_of(KIND["pedestrian"], 0.0) == "pedestrian.standing" and attribute_of(KIND["barrier"], 9) == ""


def test_zero_predictions_score_zero(tmp_path):
    nusc = world(tmp_path, [annotation("car", at(20, 0), (2, 4, 1.5)), annotation("bus", at(49, 0), (3, 11, 3))])
    report = run(tmp_path, nusc, {"val-a-0": Boxes3D.empty()})
    assert report["mAP"] == report["mAP_present"] == report["NDS"] == report["SPNDS"] == 0
    assert report["mATE"] == report["mAOE"] == report["mAVE"] == 1
    assert report["n_gt"]["car"] == 1 and report["n_gt"]["bus"] == 1
    assert report["by_distance"]["40-52"]["n_gt"]["bus"] == 1
    assert json.loads((tmp_path / "out/results_nusc.json").read_text())["results"] == {"val-a-0": []}


def test_no_objects_at_all(tmp_path):
    nusc = world(tmp_path, [])
    car = Boxes3D.build(np.zeros((1, 3)), np.ones((1, 3)), np.zeros(1), np.zeros(1))
    for boxes in (Boxes3D.empty(), car):
        report = run(tmp_path, nusc, {"val-a-0": boxes})
        assert report["mAP"] == report["SPNDS"] == report["NDS"] == 0 and report["mAP_present"] is None
        assert report["per_class"]["car"] == report["per_class"]["car"] | {"AP": 0, "ATE": 1, "n_gt": 0}
        assert report["by_distance"]["0-10"] == report["by_distance"]["0-10"] | {"mAP": None, "classes": []}
        assert report["per_class"]["traffic_cone"]["AOE"] is None and report["per_class"]["barrier"]["AVE"] is None


@pytest.fixture
def crowd(tmp_path: Path) -> tuple[NuScenes, Boxes3D]:
    """A crowded world, and noisy predictions of it."""
    rng = np.random.default_rng(0)
    objects = [
        annotation(str(c), at(rng.uniform(3, 60), rng.uniform(0, 6)), rng.uniform(1, 4, 3), num_lidar_pts=int(k))
        for c, k in zip(rng.choice(list(CLASSES), 150), rng.integers(0, 4, 150), strict=True)
    ]
    nusc = world(tmp_path, [*objects, annotation("bicycle_rack", at(12, 3), (9, 9, 4))])
    return nusc, noisy(ground_truth_predictions(nusc, SPLIT, classes=NUSCENES_CLASSES)[0]["val-a-0"], rng)


def noisy(truth: Boxes3D, rng: np.random.Generator) -> Boxes3D:
    """Noisy copies of the true boxes, some of them twice."""
    truth = Boxes3D.concatenate([truth, truth[::3]])
    noise = {name: rng.normal(0, s, (len(truth), 3)) for name, s in (("center", 0.8), ("yaw", 0.4), ("speed", 0.3))}
    return Boxes3D.build(
        truth.center_m + noise["center"],
        truth.size_m * 1.2,
        truth.yaw_rad + noise["yaw"][:, 0],
        truth.label,
        velocity_m_s=np.nan_to_num(truth.velocity_m_s) + noise["speed"][:, :2],
        score=rng.random(len(truth)),
    )


def test_equals_the_devkit_run_as_its_command_line_does(tmp_path: Path, crowd: tuple[NuScenes, Boxes3D]) -> None:
    """Every number equals that of DetectionEval.main on the results file that pdetr3d writes."""
    nusc, predicted = crowd
    report = run(tmp_path, nusc, {"val-a-0": predicted})
    config, results = config_factory("detection_cvpr_2019"), str(tmp_path / "out/results_nusc.json")
    official = DetectionEval(nusc, config, results, SPLIT, str(tmp_path / "devkit"), verbose=False)
    summary = official.main(render_curves=False)
    assert 0.1 < summary["mean_ap"] < 0.9
    assert report["mAP"] == summary["mean_ap"] and report["NDS"] == summary["nd_score"]
    for ours, theirs in (("ATE", "trans_err"), ("ASE", "scale_err"), ("AOE", "orient_err"), ("AAE", "attr_err")):
        assert report[f"m{ours}"] == summary["tp_errors"][theirs]
        assert report["per_class"]["car"][ours] == summary["label_tp_errors"]["car"][theirs]
    assert {c: report["per_class"][c]["AP"] for c in CLASSES} == summary["mean_dist_aps"]
    assert sum(report["n_gt"].values()) == len(official.gt_boxes.all)
    written = json.loads((tmp_path / "out/metrics_summary.json").read_text())
    assert written["mean_ap"] == summary["mean_ap"] and written["cfg"] == json.loads(json.dumps(config.serialize()))


@pytest.mark.parametrize("simulated", [False, True], ids=["a crowd, a bike rack", "velocities and attributes"])
def test_own_classes_are_scored_as_the_devkit_scores_its_own(
    simulated: bool, tmp_path: Path, crowd: tuple[NuScenes, Boxes3D], sim_world: Path
) -> None:
    """The ten classes in another order count as an own class list, which the devkit's types do not support."""
    if simulated:
        nusc, rng = load_tables(sim_world, VERSION, classes=NUSCENES_CLASSES), np.random.default_rng(3)
        predicted = {
            t: noisy(boxes, rng)
            for t, boxes in ground_truth_predictions(nusc, SPLIT, classes=NUSCENES_CLASSES)[0].items()
        }
    else:
        nusc, predicted = crowd[0], {"val-a-0": crowd[1]}
    root, poses = Path(nusc.dataroot), read_poses(nusc, split_samples(nusc, SPLIT))
    expected = score(root, VERSION, SPLIT, predicted, poses, tmp_path / "ten", nusc, classes=NUSCENES_CLASSES)
    official = DetectionEval(
        nusc, config_factory("detection_cvpr_2019"), str(tmp_path / "ten/results_nusc.json"), SPLIT,
        str(tmp_path / "devkit"), verbose=False,
    )  # fmt: skip
    summary = official.main(render_curves=False)
    order = np.random.default_rng(1).permutation(10)
    own = ClassList(tuple(NUSCENES_CLASSES.classes[i] for i in order))
    assert own.own and own.names != CLASSES
    turned = {t: replace(boxes, label=np.argsort(order)[boxes.label]) for t, boxes in predicted.items()}
    report = score(root, VERSION, SPLIT, turned, poses, tmp_path / "own", nusc, classes=own)
    results = [json.loads((tmp_path / name / "results_nusc.json").read_text()) for name in ("ten", "own")]
    assert results[0] == results[1]
    near = {"rel": 0, "abs": 1e-9, "nan_ok": True}
    assert 0.1 < report["mAP"] < 0.9 and (not simulated or (report["mAVE"] < 0.9 and 0 < report["mAAE"] < 0.9))
    assert (report["mAP"], report["NDS"]) == pytest.approx((summary["mean_ap"], summary["nd_score"]), **near)
    names = {"ATE": "trans_err", "ASE": "scale_err", "AOE": "orient_err", "AVE": "vel_err", "AAE": "attr_err"}
    for ours, theirs in names.items():
        assert report[f"m{ours}"] == pytest.approx(summary["tp_errors"][theirs], **near)
        for name in CLASSES:
            mine = report["per_class"][name][ours]
            error = math.nan if mine is None else mine
            assert error == pytest.approx(summary["label_tp_errors"][name][theirs], **near)
    for name in CLASSES:
        assert report["per_class"][name]["AP"] == pytest.approx(summary["mean_dist_aps"][name], **near)
        assert report["per_class"][name] == pytest.approx(expected["per_class"][name], **near)
    assert report["by_group"] == {name: pytest.approx(row, **near) for name, row in expected["by_group"].items()}
    assert set(report["by_distance"]) == set(expected["by_distance"])
    assert report["SPNDS"] == pytest.approx(expected["SPNDS"], **near)
    assert sum(report["n_gt"].values()) == len(official.gt_boxes.all)


def test_what_makes_no_sense_for_any_class_is_no_part_of_nds(tmp_path: Path) -> None:
    """For two own classes without velocities and attributes, mAP 1 and errors of 0 give NDS 1, not (5 + 3) / 10."""
    text = "{pkw: {size_m: [4, 2, 1.5], categories: [vehicle.car], range_m: 25, velocity: false}, "
    own = read_classes(text + "person: {size_m: [1, 1, 2], categories: [human.pedestrian.adult], velocity: false}}")
    nusc = world(tmp_path, [annotation("car", at(20, 0.2), (2, 4, 1.5)), annotation("car", at(26, 1), (2, 4, 1.5)),
                            annotation("pedestrian", at(49, 0.3), (1, 1, 2)),
                            annotation("bus", at(9, 2), (3, 9, 3))])  # fmt: skip
    truth, poses = ground_truth_predictions(nusc, SPLIT, own)
    assert truth["val-a-0"].label.tolist() == [0, 0, 1]
    report = score(tmp_path / "data", VERSION, SPLIT, truth, poses, tmp_path / "own", nusc, classes=own)
    assert report["n_gt"] == {"pkw": 1, "person": 1}  # one car lies beyond the class's own range
    assert [report[name] for name in ("mAP", "NDS", "SPNDS")] == pytest.approx([1, 1, 1], abs=1e-5)
    assert report["mAVE"] is None and report["mAAE"] is None and report["mAOE"] == pytest.approx(0, abs=1e-5)
    assert list(report["by_group"]) == ["pkw", "person"]
    json.dumps(report, allow_nan=False)
    results = json.loads((tmp_path / "own/results_nusc.json").read_text())["results"]["val-a-0"]
    assert {row["detection_name"] for row in results} == {"pkw", "person"}


def test_devkit_filters_count_in_n_gt(tmp_path):
    """Objects without points, beyond the class range or in a bike rack do not count; one radar point suffices."""
    objects = [
        annotation("car", at(49.9, 0), (2, 4, 1.5)),
        annotation("car", at(50.1, 0), (2, 4, 1.5)),
        annotation("car", at(10, 1), (2, 4, 1.5), num_lidar_pts=0),
        annotation("truck", at(10, 2), (2, 4, 1.5), num_lidar_pts=0, num_radar_pts=1),
        annotation("pedestrian", at(41, 0), (1, 1, 2)),
        annotation("bicycle_rack", at(12, 3), (4, 4, 2)),
        annotation("bicycle", at(12, 3), (1, 2, 1)),
        annotation("bicycle", at(12, 4), (1, 2, 1)),
    ]
    nusc = world(tmp_path, objects)
    report = run(tmp_path, nusc, ground_truth_predictions(nusc, SPLIT, classes=NUSCENES_CLASSES)[0])
    assert {c: n for c, n in report["n_gt"].items() if n} == {"car": 1, "truck": 1, "bicycle": 1}
    assert report["mAP_present"] == pytest.approx(1) and report["mAP"] == pytest.approx(0.3)
    assert report["by_distance"]["40-52"]["n_gt"]["pedestrian"] == 1  # the bin replaces the class range
    assert report["by_distance"]["40-52"]["n_gt"]["car"] == 2


def test_distance_bins(tmp_path):
    """Five of ten cones at 35 m, beyond their class range, are found; nine cars are too few for a bin."""
    cones = [annotation("traffic_cone", at(35, 0.3 * i), (0.5, 0.5, 1)) for i in range(10)]
    cars = [annotation("car", at(32, 0.3 * i), (2, 4, 1.5)) for i in range(9)]
    barriers = [annotation("barrier", at(15, 0.5 * i), (2, 0.5, 1)) for i in range(10)]
    nusc = world(tmp_path, cones + cars + barriers)
    truth = ground_truth_predictions(nusc, SPLIT, classes=NUSCENES_CLASSES)[0]["val-a-0"]
    found = np.concatenate(
        [np.flatnonzero(truth.label == CLASSES.index("traffic_cone"))[:5], np.flatnonzero(truth.label == 5)]
    )
    bins = run(tmp_path, nusc, {"val-a-0": truth[found]})["by_distance"]
    assert list(bins) == ["0-10", "10-20", "20-30", "30-40", "40-52"]
    assert bins["30-40"]["classes"] == ["traffic_cone"] and bins["30-40"]["n_gt"]["car"] == 9
    # Recall 0.5: precision 1 for recalls 0.11 .. 0.50 of the 90 recalls 0.11 .. 1.00.
    assert bins["30-40"]["mAP"] == pytest.approx(40 / 90)
    assert bins["30-40"]["AOE"] is None and bins["30-40"]["ATE"] == pytest.approx(0, abs=1e-4)
    assert bins["10-20"]["classes"] == ["barrier"] and bins["10-20"]["mAP"] == pytest.approx(1)
    assert bins["0-10"] == bins["20-30"] | {"n_gt": bins["0-10"]["n_gt"]} and bins["0-10"]["mAP"] is None


def test_bad_input(tmp_path):
    nusc = world(tmp_path, [annotation("car", at(20, 0), (2, 4, 1.5))])
    poses = read_poses(nusc, ["val-a-0"])
    box = {"val-a-0": Boxes3D.empty()}
    cases = [
        (SPLIT, {}, poses, "predictions lack 1 of the 1 samples.*val-a-0"),
        (SPLIT, box, {}, "sensor poses lack 1 of the 1"),
        (SPLIT, box | {"stranger": Boxes3D.empty()}, poses, "stranger"),
        ("sim_vall", box, poses, "sim_vall"),
        ("none", box, poses, "no sample"),
        ("val", box, poses, "no sample"),
    ]
    for split, predictions, given, message in cases:
        with pytest.raises(DataError, match=message):
            score(
                tmp_path / "data", VERSION, split, predictions, given, tmp_path / "out", nusc, classes=NUSCENES_CLASSES
            )
    with pytest.raises(DataError, match="data.dataroot"):
        load_tables(tmp_path / "nowhere", VERSION, classes=NUSCENES_CLASSES)


@pytest.mark.parametrize(
    ("version", "split"),
    [
        ("v1.0-trainval", "val"),
        ("v1.0-mini", "mini_val"),
        ("v1.0-trainval", "mini_val"),  # the full-size presets choose checkpoints on it
        ("v1.0-trainval", "train_track"),
    ],
)
def test_predefined_split_of_a_dataset_with_one_of_its_scenes(tmp_path, version, split):
    scene = {"val": "scene-0003", "mini_val": "scene-0103", "train_track": "scene-0004"}[split]
    objects = [annotation("car", at(20, 0), (2, 4, 1.5))]
    write(tmp_path / "data", version, {scene: [{"ego": EGO, "objects": objects}]})
    nusc = load_tables(tmp_path / "data", version, classes=NUSCENES_CLASSES)
    predictions, poses = ground_truth_predictions(nusc, split, classes=NUSCENES_CLASSES)
    report = score(tmp_path / "data", version, split, predictions, poses, tmp_path / "out", classes=NUSCENES_CLASSES)
    assert report["mAP_present"] == pytest.approx(1)


def test_a_split_that_does_not_belong_to_the_version_is_refused(tmp_path):
    objects = [annotation("car", at(20, 0), (2, 4, 1.5))]
    write(tmp_path / "data", "v1.0-mini", {"scene-0003": [{"ego": EGO, "objects": objects}]})
    nusc = load_tables(tmp_path / "data", "v1.0-mini", classes=NUSCENES_CLASSES)
    predictions, poses = ground_truth_predictions(nusc, "val", classes=NUSCENES_CLASSES)
    with pytest.raises(DataError, match="scores this split only"):
        score(tmp_path / "data", "v1.0-mini", "val", predictions, poses, tmp_path / "out", classes=NUSCENES_CLASSES)


def test_tables_are_read_once(tmp_path):
    nusc = world(tmp_path, [])
    assert load_tables(tmp_path / "data", VERSION, classes=NUSCENES_CLASSES) is nusc


def test_simulated_world_ground_truth_scores_one(tmp_path):
    small = SimConfig(scenes=1, select_scenes=1, val_scenes=1, keyframes=1, image_size_px=(32, 18), processes=1)
    simulate(tmp_path / "world", small.model_copy(update={"lidar_azimuth_steps": 360, "sweeps_per_keyframe": 0}))
    predictions, poses = ground_truth_predictions(
        load_tables(tmp_path / "world", "v1.0-sim", classes=NUSCENES_CLASSES), "sim_val", classes=NUSCENES_CLASSES
    )
    report = score(
        tmp_path / "world", "v1.0-sim", "sim_val", predictions, poses, tmp_path / "out", classes=NUSCENES_CLASSES
    )
    present = [c for c, n in report["n_gt"].items() if n]
    assert len(present) >= 4
    assert [report["per_class"][c]["AP"] for c in present] == pytest.approx([1] * len(present))


def test_real_keyframe_ground_truth_scores_one(tmp_path):
    root = os.environ.get("PDETR3D_REAL_DATA")
    if not root:
        pytest.skip("PDETR3D_REAL_DATA is not set: the real keyframe is not tested")
    nusc = load_tables(root, "v1.0-mini", classes=NUSCENES_CLASSES)
    predictions, poses = ground_truth_predictions(nusc, "mini_train", classes=NUSCENES_CLASSES)
    report = score(Path(root), "v1.0-mini", "mini_train", predictions, poses, tmp_path, nusc, classes=NUSCENES_CLASSES)
    present = [c for c, n in report["n_gt"].items() if n]
    assert present == ["car", "truck", "barrier", "pedestrian", "traffic_cone"]
    assert [report["per_class"][c]["AP"] for c in present] == pytest.approx([1] * 5)
    assert report["mAP"] == pytest.approx(0.5)
    assert all(report["per_class"][c]["ATE"] < 1e-4 for c in present)
    assert (
        max(report["per_class"][c]["AOE"] for c in present if c != "traffic_cone") < 2e-3
    )  # the ego is tilted a little
