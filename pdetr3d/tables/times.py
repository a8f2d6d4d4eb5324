"""Checks that times, tracks and the car's motion are plausible in tables with correct fields."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdetr3d.schema import LIDAR_TOP
from pdetr3d.tables.fields import Rows, at_row

LEAST_US = 1000  # least time between two keyframes of a scene; below it, times are in ms or s
TOGETHER_US = 1_000_000  # largest time between a sensor's keyframe and its sample
FASTEST_M_S = 100.0  # largest speed of the car between two keyframes
MOVING_M_S = 2.0  # what is faster than this moves along its heading
ENOUGH = 10  # pairs of keyframes with a moving car that are needed for a judgment
ASKEW_DEG = 45.0  # a warning is given when the median angle between motion and heading is larger
UNITS = "timestamps are whole microseconds"


def impossible_times(tables: Mapping[str, Rows]) -> list[str]:
    """Errors: times and tracks that no correct dataset has, one line each."""
    return [*_between_keyframes(tables), *_beside_samples(tables), *_tracks(tables)]


def unlikely_times(tables: Mapping[str, Rows]) -> list[str]:
    """Warnings: motions and annotations that few datasets have, one line each."""
    pose_of = _pose_of(tables)
    return [
        *_ways(tables, pose_of),
        *_standing_sweeps(tables, pose_of),
        *_twice_in_a_sample(tables["sample_annotation"]),
        *_twice_at_a_place(tables),
    ]


def _ways(tables: Mapping[str, Rows], pose_of: Mapping[str, int]) -> list[str]:
    """Warnings about a car that is faster than FASTEST_M_S, or does not move along its heading."""
    poses, samples, jumps, askew = tables["ego_pose"], tables["sample"], list[tuple[int, float, float]](), list[float]()
    for before, after in _neighbors(samples):
        one, other = (pose_of.get(samples[place]["token"]) for place in (before, after))
        if one is None or other is None:
            continue
        way = np.subtract(poses[other]["translation"], poses[one]["translation"])
        way_m, seconds = float(np.linalg.norm(way)), 1e-6 * (samples[after]["timestamp"] - samples[before]["timestamp"])
        if way_m > FASTEST_M_S * seconds:
            jumps.append((other, way_m, seconds))
        elif way_m > MOVING_M_S * seconds:
            w, x, y, z = poses[one]["rotation"]
            turn = np.arctan2(way[1], way[0]) - np.arctan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z)
            askew.append(abs(float(np.degrees((turn + np.pi) % (2 * np.pi) - np.pi))))
    lines = []
    if jumps:
        place, way_m, seconds = jumps[0]
        lines.append(
            f"{at_row('ego_pose', place, poses, 'translation')}: {way_m:.0f} m from the keyframe before it in "
            f"{seconds:g} s ({len(jumps)} such jumps between keyframes of a scene): are poses in m, and of this scene?"
        )
    if len(askew) >= ENOUGH and np.median(askew) > ASKEW_DEG:
        lines.append(
            f"ego_pose.json: between {len(askew)} keyframes the car goes at {np.median(askew):.0f} degrees to where it "
            "is headed: the x axis of its frame points ahead, and rotations are quaternions w, x, y, z to the world"
        )
    return lines


def _pose_of(tables: Mapping[str, Rows]) -> dict[str, int]:
    """Sample token -> row number of the car's pose at its LiDAR keyframe."""
    place_of = {row["token"]: place for place, row in enumerate(tables["ego_pose"])}
    return {row["sample_token"]: place_of[row["ego_pose_token"]] for row in _lidar(tables) if row["is_key_frame"]}


def _lidar(tables: Mapping[str, Rows]) -> Rows:
    """The rows of sample_data.json of the LiDAR."""
    sensors = {row["token"] for row in tables["sensor"] if row["channel"] == LIDAR_TOP}
    mine = {row["token"] for row in tables["calibrated_sensor"] if row["sensor_token"] in sensors}
    return [row for row in tables["sample_data"] if row["calibrated_sensor_token"] in mine]


def _standing_sweeps(tables: Mapping[str, Rows], pose_of: Mapping[str, int]) -> list[str]:
    """A warning about sweeps between keyframes that have the keyframe's pose although the car moves."""
    poses, samples = tables["ego_pose"], tables["sample"]
    pairs = [[samples[place] for place in pair] for pair in _neighbors(samples)]
    pairs = [pair for pair in pairs if all(sample["token"] in pose_of for sample in pair)]
    moving, still = set[str](), bool(pairs)  # samples before or after which the car moves; whether it never does
    for one, other in pairs:
        before, after = (poses[pose_of[sample["token"]]] for sample in (one, other))
        way_m = float(np.linalg.norm(np.subtract(after["translation"], before["translation"])))
        still = still and way_m == 0
        if way_m > MOVING_M_S * 1e-6 * (other["timestamp"] - one["timestamp"]):
            moving |= {one["token"], other["token"]}
    sweeps = [row for row in _lidar(tables) if not row["is_key_frame"]]
    if still and len(pairs) >= ENOUGH and sweeps:
        return [
            f"ego_pose.json: the car is at one place in all {len(pairs)} pairs of keyframes: right if the LiDAR stands "
            "still; if it moves, write its poses: earlier sweeps are laid over keyframes by them, and velocities "
            "follow from them"
        ]
    place_of = {row["token"]: row["translation"] for row in poses}
    told = [row for row in sweeps if row["sample_token"] in moving]
    same = [
        row for row in told if place_of[row["ego_pose_token"]] == poses[pose_of[row["sample_token"]]]["translation"]
    ]
    if len(told) < ENOUGH or len(same) <= len(told) / 2:
        return []
    place = next(place for place, row in enumerate(tables["sample_data"]) if row is same[0])
    return [
        f"{at_row('sample_data', place, tables['sample_data'], 'ego_pose_token')}: this sweep has the car's pose of "
        f"its keyframe, and so have {len(same)} of {len(told)} sweeps at which the car moves: sweeps need the pose at "
        "their own time, or their points are laid over the keyframe at wrong places"
    ]


def _twice_in_a_sample(rows: Rows) -> list[str]:
    first: dict[tuple[str, str], int] = {}
    again = [
        place
        for place, row in enumerate(rows)
        if first.setdefault((row["sample_token"], row["instance_token"]), place) != place
    ]
    if not again:
        return []
    row = rows[again[0]]
    return [
        f"{at_row('sample_annotation', again[0], rows, 'instance_token')}: {row['instance_token']!r} is in sample "
        f"{row['sample_token']} in row {first[row['sample_token'], row['instance_token']]}, too ({len(again)} rows "
        "alike): an instance is one object; are objects written twice?"
    ]


def _twice_at_a_place(tables: Mapping[str, Rows]) -> list[str]:
    rows = tables["sample_annotation"]
    category = {row["token"]: row["category_token"] for row in tables["instance"]}
    names = [(row["sample_token"], category[row["instance_token"]]) for row in rows]
    pairs = [
        (one, other)
        for one, other in same_places(names, np.array([row["translation"] for row in rows]).reshape(-1, 3))
        if rows[one]["instance_token"] != rows[other]["instance_token"]  # equal ones are told above
    ]
    if not pairs:
        return []
    one, other = pairs[0]
    return [
        f"{at_row('sample_annotation', other, rows, 'translation')}: {rows[other]['translation']} is also that of row "
        f"{one}, of the same category and sample ({len(pairs)} rows alike): are objects written twice?"
    ]


def same_places(names: Sequence[Hashable], center_m: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs (first, later) of N objects with equal names whose centers (N, 3) are equal when rounded to centimeters."""
    first: dict[Hashable, int] = {}
    keys = zip(names, map(tuple, np.round(center_m, 2).tolist()), strict=True)
    return [(one, place) for place, key in enumerate(keys) if (one := first.setdefault(key, place)) != place]


def _neighbors(samples: Rows) -> Iterator[tuple[int, int]]:
    """Pairs of row numbers of samples that follow each other in a scene, by time."""
    scenes = defaultdict[str, list[int]](list)
    for place, row in enumerate(samples):
        scenes[row["scene_token"]].append(place)
    for places in scenes.values():
        places.sort(key=lambda place: samples[place]["timestamp"])
        yield from zip(places, places[1:], strict=False)


def _between_keyframes(tables: Mapping[str, Rows]) -> list[str]:
    rows = tables["sample"]
    for before, after in _neighbors(rows):
        gap_us = rows[after]["timestamp"] - rows[before]["timestamp"]
        if gap_us < LEAST_US:
            return [
                f"{at_row('sample', after, rows, 'timestamp')}: {rows[after]['timestamp']} is {gap_us} us after that "
                f"of row {before} of the same scene; allowed are {LEAST_US} us or more: {UNITS}"
            ]
    return []


def _beside_samples(tables: Mapping[str, Rows]) -> list[str]:
    time_of = {row["token"]: row["timestamp"] for row in tables["sample"]}
    rows = tables["sample_data"]
    for place, row in enumerate(rows):
        apart_us = abs(row["timestamp"] - time_of[row["sample_token"]])
        if row["is_key_frame"] and apart_us > TOGETHER_US:
            return [
                f"{at_row('sample_data', place, rows, 'timestamp')}: {row['timestamp']} is {1e-6 * apart_us:g} s from "
                f"that of its sample {row['sample_token']}; a keyframe may lie up to {1e-6 * TOGETHER_US:g} s beside "
                f"it: {UNITS}"
            ]
    return []


def _tracks(tables: Mapping[str, Rows]) -> list[str]:
    """Refuse a ``prev`` that names another object or no earlier sample, since velocities are computed along it."""
    rows, samples = tables["sample_annotation"], {row["token"]: row for row in tables["sample"]}
    known = {row["token"]: row for row in rows}
    for place, row in enumerate(rows):
        before = known.get(row["prev"])
        if before is not None and not _earlier(before, row, samples):
            return [
                f"{at_row('sample_annotation', place, rows, 'prev')}: {row['prev']!r} is "
                + (
                    f"of instance {before['instance_token']!r}, but this row of {row['instance_token']!r}"
                    if before["instance_token"] != row["instance_token"]
                    else f"in sample {before['sample_token']}, which is not earlier"
                )
                + '; prev is the same object in an earlier sample ("" where there is none)'
            ]
    return []


def _earlier(before: dict[str, Any], row: dict[str, Any], samples: Mapping[str, dict[str, Any]]) -> bool:
    one, other = samples[before["sample_token"]], samples[row["sample_token"]]
    return bool(before["instance_token"] == row["instance_token"] and one["timestamp"] < other["timestamp"])
