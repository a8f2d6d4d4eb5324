"""KITTI's AP equals values by hand and the development kit's in plain loops; perfect predictions reach 100."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.cli import main
from pdetr3d.config import DataConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.evaluation.kitti_ap import DIFFICULTY, IOU, METRICS, Detected, Labeled, kitti_ap, overlap
from pdetr3d.evaluation.kitti_score import image_heights, kitti_score
from pdetr3d.evaluation.results_format import nuscenes_boxes, write_results
from pdetr3d.geometry.boxes import bev_iou_aligned
from pdetr3d.importers.kitti import VERSION, import_kitti
from pdetr3d.schema import CameraRecord
from tests.reference import kitti_eval


def labels(rows: list[dict]) -> Labeled:
    return Labeled(
        np.array([r["kind"] for r in rows], str),
        np.array([r["height"] for r in rows], float),
        np.array([r["occluded"] for r in rows], int),
        np.array([r["truncated"] for r in rows], float),
        np.array([r["box"] for r in rows], float).reshape(-1, 7),
    )


def detections(rows: list[dict]) -> Detected:
    return Detected(
        np.array([r["kind"] for r in rows], str),
        np.array([r["height"] for r in rows], float),
        np.array([r["score"] for r in rows], float),
        np.array([r["box"] for r in rows], float).reshape(-1, 7),
    )


def car(x: float, score: float = 1.0, height: float = 50.0, occluded: int = 0, kind: str = "Car") -> dict:
    return {
        "kind": kind, "height": height, "occluded": occluded, "truncated": 0.0, "score": score,
        "box": [x, 20.0, 0.0, 4.0, 2.0, 1.5, 0.0],
    }  # fmt: skip


def score(frames: list[tuple[list[dict], list[dict]]]) -> dict:
    return kitti_ap([(labels(a), detections(b)) for a, b in frames])


def test_by_hand() -> None:
    """Three of four cars are found, and a false detection has the second score.

    Precisions at recalls 1/4, 2/4 and 3/4 are 1, 2/3 and 3/4. The largest precision at or beyond a recall is 1 for 10
    of the 40 recall points and 3/4 for the next 20: 100 (10 + 20 * 3/4) / 40 = 62.5.
    """
    frame = ([car(x) for x in (0, 10, 20, 30)], [car(0, 0.9), car(50, 0.8), car(10, 0.7), car(20.2, 0.6)])
    found = score([frame])["Car"]
    assert found["n_gt"] == {"easy": 4, "moderate": 4, "hard": 4}
    assert all(found[metric][difficulty] == pytest.approx(62.5) for metric in METRICS for difficulty in DIFFICULTY)


def test_a_shift_beyond_the_overlap_is_wrong() -> None:
    """A box of 4 m that is shifted by s has IoU (4 - s) / (4 + s), which is above 0.7 up to s = 0.705."""
    assert score([([car(0)], [car(0.70)])])["Car"]["bev"]["easy"] == pytest.approx(100)
    assert score([([car(0)], [car(0.71)])])["Car"]["bev"]["easy"] == 0


def test_heights_count_in_3d_alone() -> None:
    low = car(0)
    low["box"] = [*low["box"][:2], 0.5, *low["box"][3:]]  # half a meter up: IoU 1 / 2
    found = score([([car(0)], [low])])["Car"]
    assert found["bev"]["easy"] == pytest.approx(100) and found["3d"]["easy"] == 0


def test_vans_small_and_hidden_objects_are_neither_right_nor_wrong() -> None:
    truth = [car(0), car(10, kind="Van"), car(20, occluded=2), car(30, height=20)]
    found = score([(truth, [car(0, 0.5), car(10, 0.9), car(20, 0.8), car(30, 0.7), car(50, 0.6, height=20)])])["Car"]
    assert found["n_gt"] == {"easy": 1, "moderate": 1, "hard": 2}
    assert found["bev"] == {name: pytest.approx(100) for name in DIFFICULTY}


def test_no_objects_and_no_detections() -> None:
    found = score([([], [car(0)]), ([car(0, kind="Pedestrian")], [])])
    assert found["Car"]["3d"] == {name: None for name in DIFFICULTY}
    assert found["Pedestrian"]["3d"] == {name: 0.0 for name in DIFFICULTY}
    assert kitti_ap([])["Cyclist"]["n_gt"]["easy"] == 0


def random_frames(seed: int, count: int) -> list[tuple[list[dict], list[dict]]]:
    """Labels of all kinds with detections near them, duplicates, wrong kinds and false detections."""
    rng = np.random.default_rng(seed)
    sizes = {"Car": (4, 1.8, 1.5), "Van": (5, 2, 2), "Pedestrian": (0.8, 0.6, 1.7), "Person_sitting": (0.8, 0.7, 1.2),
             "Cyclist": (1.8, 0.6, 1.7), "Truck": (8, 2.5, 3)}  # fmt: skip
    frames = []
    for _ in range(count):
        truth, found = [], []
        for _ in range(rng.integers(0, 8)):
            kind = str(rng.choice(list(sizes), p=[0.4, 0.1, 0.2, 0.05, 0.2, 0.05]))
            box = [*rng.uniform(-20, 20, 2), rng.uniform(-1, 0), *sizes[kind], rng.uniform(-3, 3)]
            truth.append(
                {"kind": kind, "height": rng.uniform(15, 80), "occluded": int(rng.integers(0, 4)),
                 "truncated": float(rng.choice([0, 0, 0.2, 0.4, 0.6])), "box": box}
            )  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                moved = np.array(box) + rng.normal(0, 1, 7) * [0.12, 0.12, 0.08, 0.1, 0.04, 0.05, 0.05]
                name = kind if kind in IOU and rng.random() < 0.9 else str(rng.choice(list(IOU)))
                found.append(
                    {"kind": name, "height": truth[-1]["height"] + rng.normal(0, 4), "score": round(rng.random(), 2),
                     "box": moved.tolist()}
                )  # fmt: skip
        for _ in range(rng.integers(0, 3)):
            name = str(rng.choice(list(IOU)))
            box = [*rng.uniform(-20, 20, 2), 0, *sizes[name], 0.0]
            found.append({"kind": name, "height": 50.0, "score": rng.random() * 0.7, "box": box})
        frames.append((truth, found))
    return frames


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_kit_retold_in_loops(seed: int) -> None:
    frames = random_frames(seed, 40)
    report = score(frames)
    values = []
    for name in IOU:
        for metric in METRICS:
            for difficulty in DIFFICULTY:
                expected = kitti_eval.average_precision(frames, name, difficulty, metric, kit=False)
                assert report[name][metric][difficulty] == pytest.approx(expected, abs=1e-9), (name, metric, difficulty)
                values.append(expected)
    assert len({round(value, 3) for value in values if value is not None and 0 < value < 99}) > 12


def test_with_many_objects_the_kit_s_own_sampling_gives_the_same() -> None:
    frames = random_frames(5, 300)
    report = score(frames)
    for name, metric in (("Car", "bev"), ("Car", "3d")):
        kit = kitti_eval.average_precision(frames, name, "hard", metric, kit=True)
        assert report[name]["n_gt"]["hard"] > 150
        assert report[name][metric]["hard"] == pytest.approx(kit, abs=1.5)


def test_with_few_objects_the_kit_s_own_sampling_leaves_points_empty() -> None:
    """With ten cars, all found, the kit's sampling fills only 9 of 40 points; pdetr3d's AP is exact instead."""
    frame = ([car(10.0 * x) for x in range(10)], [car(10.0 * x, 1 - 0.01 * x) for x in range(10)])
    assert kitti_eval.average_precision([frame], "Car", "easy", "bev", kit=True) == pytest.approx(100 * 9 / 40)
    assert score([frame])["Car"]["bev"]["easy"] == pytest.approx(100)


def test_overlap_of_pairs() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.c_[rng.uniform(-3, 3, (n, 3)), rng.uniform(1, 5, (n, 3)), rng.uniform(-3, 3, n)] for n in (5, 7))
    found = overlap(a, b)
    for i in range(5):
        assert found["bev"][i] == pytest.approx(bev_iou_aligned(np.repeat(a[i : i + 1], 7, 0), b))
        assert found["3d"][i] == pytest.approx([kitti_eval.iou(a[i], box, "3d") for box in b])
    assert overlap(a[:0], b)["3d"].shape == (0, 7)


def test_heights_in_the_image() -> None:
    """The camera is at the LiDAR and looks along +y; its focal length is 100 px, its image 200 x 100 px.

    A box from depth 9 to 11 m, 2 m high, is 100 * 2 / 9 px high. A box beside the image is not in it, and a box round
    the camera fills it.
    """
    lidar2img = np.array([[100.0, 100, 0, 0], [0, 50, -100, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    camera = CameraRecord("", 200, 100, lidar2img)
    boxes = np.array([[0, 10, 0, 2, 2, 2, 0], [30, 10, 0, 2, 2, 2, 0], [0, -10, 0, 2, 2, 2, 0], [0, 0, 0, 9, 9, 9, 0]])
    assert image_heights(boxes, camera) == pytest.approx([200 / 9, 0, 0, 100])


def check_the_verb(folder: Path, index: Index, expected: dict) -> None:
    """Check that a results file of the same boxes gets the same score."""
    records = [index.record(token) for token in index.tokens("kitti_all")]
    results = {
        r.sample_token: nuscenes_boxes(
            r.sample_token,
            index.annotations(r.sample_token).boxes(),
            (r.lidar2ego, r.ego2global),
            classes=NUSCENES_CLASSES,
        )
        for r in records
    }
    write_results(folder / "results.json", results)
    words = ["kitti-score", folder / "results.json", "--index", index.path, "--split", "kitti_all", "--out"]
    assert main([*map(str, words), str(folder / "score.json")]) == 0
    assert json.loads((folder / "score.json").read_text()) == expected
    del results[records[3].sample_token]
    write_results(folder / "results.json", results)
    assert main([*map(str, words), str(folder / "other.json")]) == 2


def test_ground_truth_of_real_frames_gets_100(kitti_data: Path, tmp_path: Path) -> None:
    import_kitti(kitti_data, tmp_path / "dataset")
    folder = tmp_path / "dataset" / VERSION
    index = Index.open(build_index(tmp_path / "dataset", VERSION, tmp_path / "i.arrow", DataConfig(lidar_ring=False)))
    tokens = index.tokens("kitti_all")
    predictions = {token: index.annotations(token).boxes() for token in tokens}
    report = kitti_score(
        folder, predictions, {token: index.record(token).cameras[0] for token in tokens}, classes=NUSCENES_CLASSES
    )
    for name, mine in report.items():
        for metric in METRICS:
            for difficulty, value in mine[metric].items():
                assert value == (pytest.approx(100) if mine["n_gt"][difficulty] else None), (name, metric, difficulty)
    check_the_verb(tmp_path, index, report)
    assert report["Car"]["n_gt"]["moderate"] > 20 and list(report) == ["Car", "Pedestrian", "Cyclist"]
