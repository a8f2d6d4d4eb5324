"""The score by kind of object: headings taken apart by hand, matching equal to the devkit's."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.utils import center_distance
from nuscenes.eval.detection import algo
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.eval.detection.evaluate import DetectionEval
from pyquaternion import Quaternion

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.evaluation import matching
from pdetr3d.evaluation.groups import PARTS, by_group
from pdetr3d.evaluation.matching import Matching, match
from pdetr3d.schema import CLASSES


def box(name: str, x: float, yaw: float, *, score: float = -1.0, attribute: str = "", token: str = "s") -> DetectionBox:
    """An object, or with a score a detection, at (x, 0, 0)."""
    rotation = tuple(Quaternion(axis=(0, 0, 1), radians=yaw).elements)
    return DetectionBox(
        sample_token=token, translation=(x, 0, 0), size=(2, 4, 1.5), rotation=rotation, velocity=(0, 0),
        ego_translation=(x, 0, 0), num_pts=5, detection_name=name, detection_score=score, attribute_name=attribute,
    )  # fmt: skip


def boxes(*rows: DetectionBox) -> EvalBoxes:
    made = EvalBoxes()
    for token in dict.fromkeys(row.sample_token for row in rows):
        made.add_boxes(token, [row for row in rows if row.sample_token == token])
    return made


def report(gt: EvalBoxes, pred: EvalBoxes) -> dict[str, dict[str, Any]]:
    scored = Matching(config_factory("detection_cvpr_2019"), classes=NUSCENES_CLASSES)
    scored.add(gt, pred)
    return by_group(scored.metrics(), scored)


def test_groups_hold_each_class_once() -> None:
    assert sorted(name for names in NUSCENES_CLASSES.groups.values() for name in names) == sorted(CLASSES)


def test_headings_by_hand() -> None:
    """A car is turned by pi - 0.1 and a bus by 0.3. A barrier turned by pi is correct, and a cone has no heading."""
    gt = boxes(
        box("car", 0, 0.5), box("bus", 10, 1), box("truck", 20, 0), box("barrier", 30, 1), box("traffic_cone", 40, 0),
        box("pedestrian", 50, 0, attribute="pedestrian.moving"),
        box("pedestrian", 60, 0, attribute="pedestrian.standing"),
        box("pedestrian", 70, 0, attribute="pedestrian.sitting_lying_down"),
    )  # fmt: skip
    pred = boxes(
        box("car", 1, 0.4 + np.pi, score=0.9), box("bus", 10, 1.3, score=0.8), box("truck", 22.5, 0, score=0.7),
        box("barrier", 30, 1.2 + np.pi, score=0.9), box("traffic_cone", 40, 2, score=0.9),
        box("pedestrian", 50, 0.2, score=0.9), box("pedestrian", 60, 3, score=0.8),
    )  # fmt: skip
    found = report(gt, pred)
    assert list(found) == ["vehicles", "barriers", "cycles", "people", *PARTS, "cones"]
    vehicles = found["vehicles"]
    assert [vehicles[key] for key in ("n_gt", "matched")] == [3, 2]  # the truck is 2.5 m off
    assert vehicles["yaw_error_rad"] == pytest.approx((np.pi - 0.1 + 0.3) / 2)
    assert vehicles["axis_error_rad"] == pytest.approx((0.1 + 0.3) / 2) and vehicles["reversed"] == 0.5
    # Car: AP 1 at thresholds over its 1 m, so 0.5; bus 1; truck 1 at 4 m alone. AOE of a class without match: 1.
    assert vehicles["mAP"] == pytest.approx((0.5 + 1 + 0.25) / 3)
    assert vehicles["AOE"] == pytest.approx((np.pi - 0.1 + 0.3 + 1) / 3)
    assert [found["barriers"][key] for key in ("yaw_error_rad", "axis_error_rad")] == pytest.approx([0.2, 0.2])
    assert found["barriers"]["reversed"] is None
    assert [found["cones"][key] for key in ("matched", "yaw_error_rad", "axis_error_rad", "reversed")] == [
        1,
        *[None] * 3,
    ]
    moving, standing = (found[part] for part in PARTS)
    assert moving == pytest.approx(
        {"n_gt": 1, "matched": 1, "yaw_error_rad": 0.2, "axis_error_rad": 0.2, "reversed": 0}
    )
    assert standing["n_gt"] == 2 and standing["matched"] == 1 and standing["reversed"] == 1
    assert standing["axis_error_rad"] == pytest.approx(np.pi - 3) and found["people"]["matched"] == 2
    assert found["cycles"] == {**dict.fromkeys(vehicles, None), "n_gt": 0, "matched": 0}


def test_matching_is_the_devkits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crowded lines of cars in three samples, some with equal scores, are matched as by the devkit's ``accumulate``."""
    rng = np.random.default_rng(0)
    rows, found = [], []
    for token in ("a", "b", "c"):
        rows += [box("car", x, 0, token=token) for x in rng.uniform(0, 20, 12)]
        scores = (rng.integers(1, 5, 20) / 5).tolist()
        found += [box("car", x, 1, token=token, score=s) for x, s in zip(rng.uniform(0, 20, 20), scores, strict=True)]
    gt, pred, theirs = boxes(*rows), boxes(*found), []

    def listen(one: DetectionBox, other: DetectionBox, period: float) -> float:
        theirs.append((id(one), id(other)))
        return 0.0

    monkeypatch.setattr(algo, "yaw_diff", listen)
    algo.accumulate(gt, pred, "car", center_distance, 2.0)
    ours = [(id(gt[t][i]), id(pred[t][j])) for t in pred.sample_tokens for i, j in match(gt[t], pred[t], 2.0)]
    assert len(ours) > 20 and sorted(ours) == sorted(theirs)


def test_nothing_found_and_nothing_there() -> None:
    some, nothing = boxes(box("car", 0, 0)), EvalBoxes()
    nothing.add_boxes("s", [])
    found = report(some, nothing)
    assert (
        found["vehicles"]["n_gt"] == 1 and found["vehicles"]["matched"] == 0 and found["vehicles"]["reversed"] is None
    )
    assert found["vehicles"]["mAP"] == 0 and report(nothing, nothing)["vehicles"]["mAP"] is None


@pytest.mark.parametrize("part", [5, 1 << 18])
def test_metrics_are_the_devkits(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure, accumulated sample by sample, equals that of ``DetectionEval.evaluate`` on all samples at once.

    The samples are crowded with all classes, with equal scores and with unknown velocities and attributes.
    """
    monkeypatch.setattr(matching, "PART", part)
    config, rng = config_factory("detection_cvpr_2019"), np.random.default_rng(1)

    def crowd(token: str, count: int, scored: bool) -> list[DetectionBox]:
        return [
            DetectionBox(
                sample_token=token,
                translation=(*rng.uniform(0, 6, 2), 0.0),
                size=tuple(rng.uniform(0.5, 3, 3)),
                rotation=tuple(Quaternion(axis=(0, 0, 1), radians=rng.uniform(-3, 3)).elements),
                velocity=tuple(rng.uniform(-2, 2, 2)) if scored or rng.random() < 0.7 else (np.nan, np.nan),
                detection_name=str(rng.choice(CLASSES[:9])),  # the last class has detections alone
                detection_score=float(rng.integers(1, 9)) / 9 if scored else -1.0,
                attribute_name=str(rng.choice(["", "vehicle.moving", "vehicle.parked"])),
            )
            for _ in range(count)
        ]

    gt, pred, mine = EvalBoxes(), EvalBoxes(), Matching(config, classes=NUSCENES_CLASSES)
    for number in range(30):
        token = f"s{number}"
        parts = EvalBoxes(), EvalBoxes()
        for whole, part_of, made in (
            (gt, parts[0], crowd(token, number, False)),
            (pred, parts[1], crowd(token, 40 - number, True) + [box(CLASSES[9], 0, 0, score=0.5, token=token)]),
        ):
            whole.add_boxes(token, made)
            part_of.add_boxes(token, made)
        mine.add(*parts)
    loaded: Any = SimpleNamespace(cfg=config, gt_boxes=gt, pred_boxes=pred, verbose=False)
    theirs = DetectionEval.evaluate(loaded)[0].serialize()
    ours = mine.metrics()
    ours.add_runtime(theirs["eval_time"])
    found = flat(ours.serialize())
    assert found == pytest.approx(flat(theirs), rel=1e-12, nan_ok=True) and 0.01 < theirs["mean_ap"] < 0.9
    assert len({value for key, value in found.items() if "label_tp_errors" in key}) > 20


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested dicts by path."""
    if not isinstance(value, dict):
        return {path: value}
    return {key: one for name, inner in value.items() for key, one in flat(inner, f"{path}.{name}").items()}


def test_memory_does_not_grow_with_the_number_of_detections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "PART", 1000)
    peaks = []
    for parts in (20, 200):
        mine, rng = Matching(config_factory("detection_cvpr_2019"), classes=NUSCENES_CLASSES), np.random.default_rng(0)
        for _ in range(parts):
            columns = {key: rng.random(1000) for key in ("score", *matching.ERRORS, "yaw", "axis", "walks")}
            hits = {f"hit@{distance}": (rng.random(1000) < 0.6) * 1.0 for distance in mine.config.dist_ths}
            mine._files["car"].add(columns | hits)
        mine.n_gt["car"] = parts * 700
        tracemalloc.start()
        by_group(mine.metrics(), mine)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 400_000  # the 120,000 pairs have 960 kB a column
