"""Checks that tables with correct fields are plausible: keyframes, calibrations of cameras, upright boxes and poses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pdetr3d.schema import CAMERAS
from pdetr3d.tables.fields import Rows, at_row
from pdetr3d.tables.times import impossible_times, unlikely_times

UPRIGHT = 0.7  # a box or pose is upright if its up axis has at least this z (a tilt below 45 degrees)
LYING = 0.05  # this share of boxes or poses may be tilted further, e.g. a truck on its side
FOCAL = (0.05, 50.0)  # allowed focal length / image width: a field of view of 168 to 1.1 degrees
CENTRAL = (0.3, 0.7)  # the principal point of an image that was not cropped lies in this share of width and height
# The directions of nuScenes' cameras in degrees from ahead to the left, and the difference from which a warning is
# given.
AHEAD = dict(zip(CAMERAS, (0.0, -55.0, 55.0, 180.0, 110.0, -110.0), strict=True))
ASKEW = 60.0
BESIDE_M = 50.0  # a sensor farther than this from the car's origin has its place in another unit than m
ORDER = "rotations are quaternions w, x, y, z, the scalar first: were they written as x, y, z, w?"


def implausible(tables: Mapping[str, Rows]) -> list[str]:
    """Errors: values that no correct dataset has, one line each.

    The tables must have no ``table_problems`` and ``scoring_problems``.
    """
    return [
        *_scene_names(tables["scene"]),
        *_keyframes(tables),
        *_standing(tables),
        *_intrinsics(tables),
        *impossible_times(tables),
    ]


def unlikely(tables: Mapping[str, Rows]) -> list[str]:
    """Warnings: values that few datasets have, one line each."""
    lines, rows = unlikely_times(tables), tables["calibrated_sensor"]
    off = [
        (place, row, image)
        for place, row, image in _seen(tables)
        if not all(CENTRAL[0] < share < CENTRAL[1] for share in _center(row, image))
    ]
    if off:
        place, row, image = off[0]
        x, y = _center(row, image)
        where = at_row("calibrated_sensor", place, rows, "camera_intrinsic")
        lines.append(
            f"{where}: the principal point lies at {x:.0%} of the width and {y:.0%} of the height of "
            f"{image['filename']} ({len(off)} calibrations alike): were images cut, or resized without these?"
        )
    turned = [(place, row) for place, row, _ in _seen(tables) if _axis(row["rotation"], 1) > 0]
    if turned:
        place, row = turned[0]
        where = at_row("calibrated_sensor", place, rows, "rotation")
        lines.append(
            f"{where}: {row['rotation']} is of a camera whose images are upside down "
            f"({len(turned)} calibrations alike): {ORDER}"
        )
    distant = [place for place, row in enumerate(rows) if np.abs(row["translation"]).max() > BESIDE_M]
    if distant:
        where = at_row("calibrated_sensor", distant[0], rows, "translation")
        lines.append(
            f"{where}: {rows[distant[0]]['translation']} is over {BESIDE_M:g} m from the car's origin "
            f"({len(distant)} calibrations alike): is it in m?"
        )
    lines += _one_file_for_several(tables["sample_data"])
    channel_of = {row["token"]: row["channel"] for row in tables["sensor"]}
    ahead = [(place, row, channel_of[row["sensor_token"]]) for place, row, _ in _seen(tables)]
    strange = [each for each in ahead if _turn(each[1]["rotation"], AHEAD[each[2]]) > ASKEW]
    if strange:
        place, row, channel = strange[0]
        where = at_row("calibrated_sensor", place, rows, "rotation")
        lines.append(
            f"{where}: {channel} looks {_turn(row['rotation'], AHEAD[channel]):.0f} degrees away from where its name "
            f"says ({len(strange)} calibrations alike): are two cameras' calibrations swapped? Right where own "
            f"cameras were given these names; {ORDER}"
        )
    return lines


def _one_file_for_several(rows: Rows) -> list[str]:
    first: dict[str, int] = {}
    again = [place for place, row in enumerate(rows) if first.setdefault(row["filename"], place) != place]
    if not again:
        return []
    name = rows[again[0]]["filename"]
    return [
        f"{at_row('sample_data', again[0], rows, 'filename')}: {name} is that of row {first[name]}, too ({len(again)} "
        "rows alike): are these the files that were meant?"
    ]


def _turn(wxyz: list[float], degrees: float) -> float:
    """The angle [degrees] between a camera's view, seen from above, and a direction ``degrees`` left of ahead."""
    w, x, y, z = wxyz
    view = np.degrees(np.arctan2(2 * (y * z - w * x), 2 * (x * z + w * y)))
    return float(abs((view - degrees + 180) % 360 - 180))


def _scene_names(rows: Rows) -> list[str]:
    """Refuse equal scene names, because splits are lists of scene names."""
    first: dict[str, int] = {}
    for place, row in enumerate(rows):
        if first.setdefault(row["name"], place) != place:
            return [
                f"{at_row('scene', place, rows, 'name')}: {row['name']!r} is that of row {first[row['name']]}, too; "
                "splits name scenes, so names must differ"
            ]
    return []


def _keyframes(tables: Mapping[str, Rows]) -> list[str]:
    """Refuse two keyframes of one sensor in a sample: the devkit would silently use the last one."""
    channel_of = {row["token"]: row["channel"] for row in tables["sensor"]}
    sensor_of = {row["token"]: channel_of[row["sensor_token"]] for row in tables["calibrated_sensor"]}
    first: dict[tuple[str, str], int] = {}
    for place, row in enumerate(tables["sample_data"]):
        key = row["sample_token"], sensor_of[row["calibrated_sensor_token"]]
        if row["is_key_frame"] and first.setdefault(key, place) != place:
            where = at_row("sample_data", place, tables["sample_data"], "is_key_frame")
            return [
                f"{where}: sample {key[0]} has a keyframe of {key[1]} in row {first[key]}, too; each "
                "sample has one of a sensor (is_key_frame false: a sweep between keyframes)"
            ]
    return []


def _standing(tables: Mapping[str, Rows]) -> list[str]:
    """Refuse boxes and poses that lie on their sides, as they do when the scalar of quaternions is written last."""
    problems = []
    for name, what in (("sample_annotation", "boxes"), ("ego_pose", "poses of the car")):
        rows = tables[name]
        place, words = lying_on_side([row["rotation"] for row in rows], what)
        if words:
            problems.append(f"{at_row(name, place, rows, 'rotation')}: {words}")
    return problems


def lying_on_side(rotations: Sequence[Sequence[float]], what: str) -> tuple[int, str]:
    """The place of the first of many rotations that lie on their sides, and the reason; (0, "") if few or none do.

    Args:
        rotations: quaternions w, x, y, z. what: is rotated, e.g. "boxes".
    """
    wxyz = np.array(rotations, np.float64).reshape(-1, 4)
    length = (wxyz**2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        up = 1 - 2 * (wxyz[:, 1] ** 2 + wxyz[:, 2] ** 2) / length
    lying = np.flatnonzero(up < UPRIGHT)  # other checks refuse zeros and NaN
    if len(lying) <= LYING * len(wxyz):
        return 0, ""
    first = int(lying[0])
    return first, (
        f"{rotations[first]} lies on its side, as {len(lying)} of {len(wxyz)} {what} do (tilted by more than 45 "
        f"degrees); {ORDER}"
    )


def _intrinsics(tables: Mapping[str, Rows]) -> list[str]:
    for place, row, image in _seen(tables):
        matrix, width, height = row["camera_intrinsic"], image["width"], image["height"]
        where = at_row("calibrated_sensor", place, tables["calibrated_sensor"], "camera_intrinsic")
        size = f"{image['filename']} of {width} x {height} pixels"
        if not all(0 < share < 1 for share in _center(row, image)):
            return [
                f"{where}: the principal point ({matrix[0][2]:g}, {matrix[1][2]:g}) lies outside {size}; allowed are "
                f"0 to {width} and 0 to {height}; write the intrinsics for the images as they are (were these resized?)"
            ]
        for focal in (matrix[0][0], matrix[1][1]):
            if not FOCAL[0] < focal / width < FOCAL[1]:
                return [
                    f"{where}: a focal length of {focal:g} pixels is none of {size}; allowed are "
                    f"{FOCAL[0] * width:g} to {FOCAL[1] * width:g}; write [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in "
                    "pixels"
                ]
    return []


def _seen(tables: Mapping[str, Rows]) -> list[tuple[int, dict[str, Any], dict[str, Any]]]:
    """(place, row, image) of each pinhole calibration of a camera; image: the row of one of its keyframes."""
    cameras = {row["token"] for row in tables["sensor"] if row["channel"] in CAMERAS}
    mine = {
        row["token"]: place for place, row in enumerate(tables["calibrated_sensor"]) if row["sensor_token"] in cameras
    }
    image_of = {
        row["calibrated_sensor_token"]: row
        for row in tables["sample_data"]
        if row["is_key_frame"] and row["calibrated_sensor_token"] in mine
    }
    rows = [(place, tables["calibrated_sensor"][place], image_of[t]) for t, place in mine.items() if t in image_of]
    # ``compose_lidar2img`` refuses the others: infinite numbers, or columns written as rows.
    return [each for each in rows if each[1]["camera_intrinsic"][2] == [0, 0, 1] and _finite(each[1])]


def _finite(row: dict[str, Any]) -> bool:
    return bool(np.isfinite(row["camera_intrinsic"]).all() and np.isfinite(row["rotation"]).all())


def _center(row: dict[str, Any], image: dict[str, Any]) -> tuple[float, float]:
    """The principal point as shares of width and height."""
    matrix = row["camera_intrinsic"]
    return matrix[0][2] / image["width"], matrix[1][2] / image["height"]


def _axis(wxyz: list[float], column: int) -> float:
    """The upward component, -1 to 1, of a camera's axis (0: right, 1: down, 2: ahead in the image)."""
    w, x, y, z = np.array(wxyz) / (np.linalg.norm(wxyz) or 1.0)
    return float((2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y))[column])
