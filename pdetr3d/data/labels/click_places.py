"""Checks people's clicks: whether they lie at objects of the LiDAR files, at their heights, and one at each object."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.human_clicks import read_clicks
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.data.storage.points import read_lidar
from pdetr3d.geometry.rigid import apply, chain
from pdetr3d.schema import DataError
from pdetr3d.words import some

KEYFRAMES = 50  # that are read, spread over all that have people's clicks
MANY = 30  # clicks that can be judged
FEW = 10  # clicks that can be judged where the evidence is clear
NEAR_M = 1.0  # half of the side of the square around a click
TALL_M = 0.5  # LiDAR points in the square whose heights differ by more show an object
CLEARLY = 2.0  # times as many clicks at objects as where the same clicks are turned
LEAST = 0.1  # share of clicks at objects; even far, hidden objects let right clicks have more
DEVIATIONS = 3.0  # standard deviations by which few clicks must fit better in another orientation
FRAMES = ("lidar", "ego", "global")
AS_ZERO_M = 1e-5  # a z nearer to 0 was written as 0: clicks have CLICK_DIGITS decimals
TWICE = 0.5  # clicks of one class nearer than this part of the shorter side of its typical size are on one object
# How the clicks would have to be changed -> the matrix (2, 2) that does it to x and y.
CHANGES = {
    "as they are": [[1, 0], [0, 1]],
    "turned by 90 degrees": [[0, -1], [1, 0]],
    "turned by 180 degrees": [[-1, 0], [0, -1]],
    "turned by 270 degrees": [[0, 1], [-1, 0]],
    "with the other sign of y": [[1, 0], [0, -1]],
    "with the other sign of x": [[-1, 0], [0, 1]],
    "with x and y swapped": [[0, 1], [1, 0]],
    "with x and y swapped and both signs changed": [[0, -1], [-1, 0]],
}
Found = tuple[str, list[str]]  # a warning, and the ids of the clicks that it is about; "" for none
TURNED = tuple(name for name in CHANGES if name.startswith("turned"))


@dataclass(frozen=True)
class _Places:
    """What the LiDAR files tell about n clicks.

    Attributes:
        ids: (n,) their click_id. hits: (n, len(CHANGES)) bool, whether the changed click is at an object.
        height: (n,) whether z [m] is within the heights of the points around the click: 1 or 0, NaN without points.
        zero: (n, 3) bool, whether z is 0 in each of FRAMES. problem: why the first file that cannot be read could not;
            "" if all can.
    """

    ids: NDArray[np.str_]
    hits: NDArray[np.bool_]
    height: NDArray[np.float64]
    zero: NDArray[np.bool_]
    problem: str


def misplaced(index: Index, manifest: LabelManifest, file: Path) -> str:
    """Look for people's clicks that lie at no objects, at wrong heights, or twice on one object.

    The places are compared with those of the same clicks turned and mirrored about the sensor. A click is at an object
    if the LiDAR points of the keyframe in a square around it differ in height by more than TALL_M. Samples whose LiDAR
    file cannot be read are left out.

    Args:
        manifest: of ``import_clicks``. file: the clicks that it was made of.

    Returns:
        Warnings in one text, each with the rows of the file that it is about; empty without any. Places and heights
        are judged from FEW clicks on.
    """
    clicks = manifest.clicks.filter(np.array(manifest.clicks["source"].to_pylist()) == "human")
    places = _look(index, clicks)
    found = [_twice(index, clicks)]
    if len(places.hits) >= FEW:
        found += [_orientation(places), _heights(places)]
    elif places.problem and not len(places.hits):
        words = "no LiDAR file of the samples with clicks can be read, so the places of the clicks were not checked: "
        found.append((words + places.problem, []))
    warnings = [warning for warning in found if warning[0]]
    row_of = read_clicks(index, manifest.split, file).row_of if warnings else {}
    return ". Also: ".join(text + _rows(file, sorted(row_of[name] for name in ids)) for text, ids in warnings)


def _rows(file: Path, rows: list[int]) -> str:
    return f" ({file}, row {some(list(map(str, rows)))})" if rows else ""


def _orientation(places: _Places) -> Found:
    """A warning, if clicks fit better in another orientation, or are at objects less often than right ones are.

    MANY clicks must be at objects CLEARLY times as often as the turned clicks are. Fewer clicks are only complained of
    if another orientation is better by DEVIATIONS, or if nearly none is at an object.
    """
    hits = places.hits
    share = dict(zip(CHANGES, hits.mean(0).tolist(), strict=True))
    given, best = share["as they are"], max(share, key=lambda name: share[name])
    turned = float(np.mean([share[name] for name in TURNED]))
    if len(hits) >= MANY:
        fine = best == "as they are" and given >= CLEARLY * turned
    else:
        mine, others = hits[:, list(CHANGES).index("as they are")], hits[:, list(CHANGES).index(best)]
        fine = float(others.sum() - mine.sum()) < DEVIATIONS * max(1.0, float(np.sqrt((mine != others).sum())))
    if fine and given >= LEAST:
        return "", []
    better = "" if best == "as they are" else f", and {share[best]:.0%} would be {best}"
    return (
        f"{given:.0%} of {len(hits)} clicks have an object's LiDAR points within {NEAR_M:g} m; of the same "
        f"clicks turned around the sensor {turned:.0%} have{better}. The clicks may be in another frame than their "
        "column `frame` says (global, ego, lidar; in nuScenes' LIDAR_TOP x points right and y forward), or of another "
        "time: look at some with pdetr3d inspect"
    ), places.ids[~hits[:, list(CHANGES).index("as they are")]].tolist()


def _heights(places: _Places) -> Found:
    """A warning, if most clicks have z = 0, or a z that no LiDAR point around them has."""
    zero = dict(zip(FRAMES, places.zero.mean(0).tolist(), strict=True))
    frame = max(zero, key=lambda name: zero[name])
    if zero[frame] > 0.5:
        return (
            f"{zero[frame]:.0%} of {len(places.zero)} clicks have z = 0 in frame {frame}, as a 2D tool writes them; z "
            "is the height of the object's center [m]"
        ), places.ids[places.zero[:, FRAMES.index(frame)]].tolist()
    seen = places.height[~np.isnan(places.height)]
    if len(seen) < FEW or seen.mean() >= 0.5:
        return "", []
    return (
        f"{seen.mean():.0%} of {len(seen)} clicks have a z within {TALL_M:g} m of the heights of the LiDAR points "
        f"around them; z is the height of the object's center [m], in the frame of the column `frame` (a LiDAR is "
        "about 2 m above the ground, where ego and global have z = 0)"
    ), places.ids[places.height == 0].tolist()


def _twice(index: Index, clicks: pa.Table) -> Found:
    """A warning, if two clicks of one class are nearer to each other than two objects of it can be."""
    groups: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for click in clicks.select(["click_id", "sample_token", "class", "x", "y"]).to_pylist():
        groups[click["sample_token"], click["class"]].append(click)
    found, ids = [], list[str]()
    for (token, name), mine in groups.items():
        xy = np.array([[click["x"], click["y"]] for click in mine])
        apart = np.linalg.norm(xy[:, None] - xy, axis=2)
        near = apart < TWICE * index.classes.fallback_size_m[index.classes.label_of[name], :2].min()
        pairs = np.argwhere(np.triu(near, 1)).tolist()
        ids += [mine[place]["click_id"] for pair in pairs for place in pair]
        found += [
            f"{name} at ({x:.1f}, {y:.1f}) and ({u:.1f}, {v:.1f}) m from the LiDAR in sample {token}"
            for (x, y), (u, v) in ((xy[i], xy[j]) for i, j in pairs)
        ]
    if not found:
        return "", []
    return (
        f"{len(found)} pairs of clicks of one class are nearer than half of the class's shorter side, so they may be "
        f"two clicks on one object (two annotators?); leave one of each: {some(found)}"
    ), list(dict.fromkeys(ids))


def _look(index: Index, clicks: pa.Table) -> _Places:
    """Read the LiDAR files of up to KEYFRAMES samples, and compare their clicks with the points."""
    sample, names = (np.array(clicks[key].to_pylist(), str) for key in ("sample_token", "click_id"))
    xyz = np.stack([clicks[axis].to_numpy() for axis in "xyz"], axis=1) if len(sample) else np.zeros((0, 3))
    tokens = list(dict.fromkeys(sample.tolist()))
    ids, hits, height, zero = (
        [np.zeros(0, str)],
        [np.zeros((0, len(CHANGES)), bool)],
        [np.zeros(0)],
        [np.zeros((0, 3), bool)],
    )
    problem = ""
    for token in tokens[:: max(1, len(tokens) // KEYFRAMES)][:KEYFRAMES]:
        record, mine = index.record(token), xyz[sample == token]
        try:
            points = read_lidar(index.dataroot / index.value(token, "lidar_path"), index.reading)
        except (DataError, OSError) as error:
            problem = problem or str(error)
            continue
        ids.append(names[sample == token])
        hits.append(np.stack([_tall(points, mine[:, :2] @ np.array(c).T) for c in CHANGES.values()], axis=1))
        height.append(_within(points, mine))
        poses = (np.eye(4), record.lidar2ego, chain(record.lidar2ego, record.ego2global))
        zero.append(np.stack([np.abs(apply(pose, mine)[:, 2]) < AS_ZERO_M for pose in poses], axis=1))
    return _Places(np.concatenate(ids), np.concatenate(hits), np.concatenate(height), np.concatenate(zero), problem)


def _near(points: NDArray[np.float32], xy: NDArray[np.float64]) -> list[NDArray[np.float32]]:
    """The heights of points (N, 3+) in the squares around places (n, 2)."""
    return [points[(np.abs(points[:, :2] - place) < NEAR_M).all(1), 2] for place in xy]


def _tall(points: NDArray[np.float32], xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points (N, 3+) in the squares around places (n, 2) differ in height by more than TALL_M: (n,)."""
    return np.array([len(z) > 1 and float(np.ptp(z)) > TALL_M for z in _near(points, xy)], bool)


def _within(points: NDArray[np.float32], xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """``_Places.height`` of places (n, 3)."""
    return np.array(
        [
            float(heights.min() - TALL_M <= z <= heights.max() + TALL_M) if len(heights) else np.nan
            for z, heights in zip(xyz[:, 2], _near(points, xyz[:, :2]), strict=True)
        ]
    )
