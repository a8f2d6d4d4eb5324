"""Checks whether clicks lie at objects of the LiDAR files; clicks in a wrong frame or with swapped axes do not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.data.storage.points import read_lidar
from pdetr3d.schema import DataError

KEYFRAMES = 50  # that are read, spread over all that have people's clicks
MANY = 30  # clicks that can be judged
NEAR_M = 1.0  # half of the side of the square around a click
TALL_M = 0.5  # LiDAR points in the square whose heights differ by more show an object
CLEARLY = 2.0  # times as many clicks at objects as where the same clicks are turned
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
TURNED = tuple(name for name in CHANGES if name.startswith("turned"))


def misplaced(index: Index, manifest: LabelManifest) -> str:
    """Compare the places of people's clicks with the same clicks turned and mirrored about the sensor.

    A click is at an object if the LiDAR points of the keyframe in a square around it differ in height by more than
    TALL_M. Samples whose LiDAR file cannot be read are left out.

    Returns:
        A warning, if the clicks fit better in another orientation, or are at objects less than CLEARLY times as often
        as the turned clicks are. Otherwise, and with fewer than MANY clicks, an empty text.
    """
    hits = list(_hits(index, manifest))
    if sum(len(found) for found in hits) < MANY:
        return ""
    share = dict(zip(CHANGES, np.concatenate(hits).mean(0).tolist(), strict=True))
    given, best = share["as they are"], max(share, key=lambda name: share[name])
    turned = float(np.mean([share[name] for name in TURNED]))
    if best == "as they are" and given >= CLEARLY * turned:
        return ""
    better = "" if best == "as they are" else f", and {share[best]:.0%} would be {best}"
    return (
        f"{given:.0%} of {sum(map(len, hits))} clicks have an object's LiDAR points within {NEAR_M:g} m; of the same "
        f"clicks turned around the sensor {turned:.0%} have{better}. The clicks may be in another frame than their "
        "column `frame` says (global, ego, lidar; in nuScenes' LIDAR_TOP x points right and y forward), or of another "
        "time: look at some with pdetr3d inspect"
    )


def _hits(index: Index, manifest: LabelManifest) -> Iterator[NDArray[np.bool_]]:
    """Whether the clicks of some samples are at objects, (clicks, len(CHANGES))."""
    clicks = manifest.clicks.filter(np.array(manifest.clicks["source"].to_pylist()) == "human")
    sample = np.array(clicks["sample_token"].to_pylist())
    xy = np.stack([clicks[axis].to_numpy() for axis in "xy"], axis=1) if len(sample) else np.zeros((0, 2))
    tokens = list(dict.fromkeys(sample.tolist()))
    for token in tokens[:: max(1, len(tokens) // KEYFRAMES)][:KEYFRAMES]:
        try:
            points = read_lidar(index.dataroot / index.value(token, "lidar_path"), index.reading)
        except (DataError, OSError):
            continue
        mine = xy[sample == token]
        yield np.stack([_tall(points, mine @ np.array(change).T) for change in CHANGES.values()], axis=1)


def _tall(points: NDArray[np.float32], xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points (N, 3+) in the squares around places (n, 2) differ in height by more than TALL_M: (n,)."""
    near = (points[(np.abs(points[:, :2] - place) < NEAR_M).all(1), 2] for place in xy)
    return np.array([len(height) > 1 and float(np.ptp(height)) > TALL_M for height in near], bool)
