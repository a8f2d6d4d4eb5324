"""Tests of the snap rule and of the velocities of people's tracks, by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.data.labels.pseudo_table import surest_directions
from pdetr3d.geometry.rigid import apply, inverse, rigid
from pdetr3d.pseudo_labels import COLUMNS, snap_to_clicks, to_pseudo_labels, with_track_velocity
from pdetr3d.schema import CLASSES, FALLBACK_SIZE_M, Boxes3D, PointLabels, SampleRecord


def record(token: str = "sample", scene: str = "scene", time_s: float = 0.0, lidar2global=None) -> SampleRecord:
    pose = np.eye(4) if lidar2global is None else lidar2global
    nothing = (Boxes3D.empty(), PointLabels.empty())
    return SampleRecord(token, scene, round(1e6 * time_s), "point", "", (), (), np.eye(4), pose, *nothing)


def clicks(xyz: list, label: list) -> PointLabels:
    names = np.array([f"click{i}" for i in range(len(label))], object)
    return PointLabels(names, np.array(xyz, float), np.array(label), np.full(len(label), -1))


def test_snap_is_the_shortest_move_in_the_box_frame() -> None:
    # 4 long, 2 wide, 2 high; the first four head along +y: 1 m to either side in x, 2 m in y.
    s = np.sqrt(0.5)
    points = np.array([[11.3, 0, 0], [11.3, -2.3, 0], [11.05, 0, 0], [11.4, 2.4, 0], [-1.3 * s, 1.3 * s, -1.2]])
    boxes = Boxes3D.build(
        [[10, 0, 0]] * 4 + [[0, 0, 0]], [[4, 2, 2]] * 5, np.array([np.pi / 2] * 4 + [np.pi / 4]), np.zeros(5, int)
    )
    snapped, moved = snap_to_clicks(boxes, points)
    # To the side; to side and back; within the tolerance; 0.57 m are too far; to the left, turned, and down.
    assert moved.tolist() == [True, True, False, False, True]
    expected = [[10.3, 0, 0], [10.3, -0.3, 0], [10, 0, 0], [10, 0, 0], [-0.3 * s, 0.3 * s, -0.2]]
    np.testing.assert_allclose(snapped.center_m, expected, atol=1e-6)
    for name in ("size_m", "yaw_rad", "label", "score"):
        np.testing.assert_array_equal(getattr(snapped, name), getattr(boxes, name))
    assert not snap_to_clicks(snapped, points)[1].any()
    assert len(snap_to_clicks(Boxes3D.empty(), np.zeros((0, 3)))[0]) == 0


def test_snapped_rows_are_accepted_with_their_reason_and_only_on_demand() -> None:
    car = FALLBACK_SIZE_M[0]  # 4.63 x 1.96 x 1.74
    half = float(car[1]) / 2
    points = clicks(
        [[0, half + 0.3, 0], [0, half + 0.8, 0], [0, half + 0.3, 0], [0, 0, 0], [60, half + 0.3, 0]], [0] * 5
    )
    boxes = Boxes3D.build(
        [[0, 0, 0]] * 4 + [[60, 0, 0]], [car, car, car * [4, 1, 1], car, car], np.zeros(5), np.zeros(5, int)
    )
    sample = dataclasses.replace(record(), clicks=points)
    off = to_pseudo_labels(sample, boxes, FALLBACK_SIZE_M, "digest", classes=NUSCENES_CLASSES)
    on = to_pseudo_labels(sample, boxes, FALLBACK_SIZE_M, "digest", snap=True, classes=NUSCENES_CLASSES)
    outside = "click outside box"
    assert off["reason"].tolist() == [outside, outside, "implausible size", "", "outside range"]
    assert on["reason"].tolist() == ["snapped", outside, "implausible size", "", "outside range"]
    assert on["accepted"].tolist() == [True, False, False, True, False]
    assert on["y"].tolist() == pytest.approx([0.3, 0, 0.3, 0, 0.3], abs=1e-6) and (off["y"] == 0).all()


# Global centers of one car: x grows by 1, 2, 3 m from keyframe to keyframe, y falls twice as fast.
PLACES = {"a": (0.0, 0.0, 1.0), "b": (1.0, -2.0, 1.0), "c": (3.0, -6.0, 1.0), "d": (6.0, -12.0, 1.0)}


def test_of_equal_shares_the_surest_directions_are_known() -> None:
    """Of four cars the surer half is known; the barrier has no direction and does not count."""
    label = np.array([0, 0, 0, 0, CLASSES.index("barrier")])
    boxes = Boxes3D.build(
        np.zeros((5, 3)), np.ones((5, 3)), np.zeros(5), label, direction=np.array([0.9, 0.6, 0.7, 0.8, 0.65])
    )
    for share, known in ((1.0, [0, 1, 2, 3]), (0.5, [0, 3]), (0.01, [0])):
        found = surest_directions(boxes, share, NUSCENES_CLASSES).direction
        assert found[:4].tolist() == [1.0 if i in known else 0.5 for i in range(4)]
    assert (surest_directions(boxes[np.array([4])], 0.5, NUSCENES_CLASSES).direction == 1).all()


def drive(times_s: dict[str, float], scene: str = "scene") -> list[SampleRecord]:
    """Samples of an ego vehicle that drives at 20 m/s and turns by 90 degrees between samples."""
    records = []
    for i, (token, time_s) in enumerate(times_s.items()):
        half = i * np.pi / 4
        pose = rigid([np.cos(half), 0, 0, np.sin(half)], [20 * time_s, 7, 0])
        records.append(record(token, scene, time_s, pose))
    return records


def table(records: list[SampleRecord], places: dict[str, tuple[float, float, float]] = PLACES) -> pd.DataFrame:
    """One accepted car per sample at its place in the global frame; its click_id is click-TOKEN."""
    local = [apply(inverse(r.ego2global), np.array(places[r.sample_token])) for r in records]
    rows = {
        "click_id": [f"click-{r.sample_token}" for r in records],
        "sample_token": [r.sample_token for r in records],
        **dict(zip("xyz", np.array(local).T, strict=True)),
        **dict.fromkeys(("l", "w", "h", "score", "direction"), 1.0),
        **{"yaw": 0.0, "vx": pd.NA, "vy": pd.NA, "class": "car", "accepted": True, "reason": "", "teacher_digest": ""},
    }
    return pd.DataFrame(rows)[list(COLUMNS)].astype(COLUMNS)


def velocities(frame: pd.DataFrame) -> list[list[float] | None]:
    return [None if pd.isna(vx) else [float(vx), float(vy)] for vx, vy in zip(frame["vx"], frame["vy"], strict=True)]


def near(vx: float, vy: float) -> object:
    return pytest.approx([vx, vy], abs=1e-4)


TRACK = {f"click-{token}": "7" for token in PLACES}
TIMES = {"a": 0.0, "b": 0.5, "c": 1.0, "d": 1.5}


def test_velocity_is_the_centered_difference_turned_into_each_lidar_frame() -> None:
    records = drive(TIMES)
    frame = table(records)
    result = with_track_velocity(frame, TRACK, records)
    # Global: (2, -4) at the start, (3, -6), (5, -10) centered, (6, -12) at the end; frames head to +x, +y, -x, -y.
    assert velocities(result) == [near(2, -4), near(-6, -3), near(-5, 10), near(12, 6)]
    assert result.dtypes.to_dict() == frame.dtypes.to_dict() and velocities(frame) == [None] * 4
    shuffled = frame.iloc[[2, 0, 3, 1]].reset_index(drop=True)
    again = with_track_velocity(shuffled, TRACK, records).set_index("click_id").loc[frame["click_id"]]
    assert velocities(again) == velocities(result)


def test_only_accepted_boxes_of_one_track_of_one_scene_count() -> None:
    records = drive(TIMES)
    rejected = table(records)
    rejected.loc[1, "accepted"] = False
    # Without b: a and c are neighbors, one second apart; b itself gets none.
    assert velocities(with_track_velocity(rejected, TRACK, records)) == [near(3, -6), None, near(-4, 8), near(12, 6)]
    assert velocities(with_track_velocity(table(records), {}, records)) == [None] * 4
    some = {"click-a": "7", "click-c": "8", "click-d": "7"}  # c is alone
    assert velocities(with_track_velocity(table(records), some, records))[1:3] == [None, None]
    elsewhere = [r if r.sample_token in "ab" else dataclasses.replace(r, scene_token="other") for r in records]
    assert velocities(with_track_velocity(table(records), TRACK, elsewhere))[1] == near(-4, -2)


def test_a_gap_over_one_and_a_half_seconds_per_neighbor_is_too_long() -> None:
    late = drive({"a": 0.0, "b": 2.0, "c": 3.0})
    # a: 2 s to b. b: 3 s from a to c are allowed, (1, -2) m/s. c: 1 s from b, (2, -4).
    assert velocities(with_track_velocity(table(late), TRACK, late)) == [None, near(-2, -1), near(-2, 4)]
    later = drive({"a": 0.0, "b": 2.0, "c": 3.1})
    assert velocities(with_track_velocity(table(later), TRACK, later))[:2] == [None, None]
