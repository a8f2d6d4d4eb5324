"""Estimates the sizes of classes without human boxes from the LiDAR points at clicks.

Clicks scatter evenly around the middles of their objects. So twice the distance from the click to the visible face is
on average the object's whole length (or width), although its far side has no points; and twice the click's height above
the ground is on average its height.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import DataConfig
from pdetr3d.data.loading.load import load_sample
from pdetr3d.schema import SampleRecord

CLICKS = 150  # clicks used per class: the nearest ones, which have most points
MIN_CLICKS = 5  # measured objects that a class needs
MIN_POINTS, MAX_POINTS = 25, 300  # points of an object; more are thinned out evenly
LINK_SHARE, LINK_M = 0.15, (0.25, 1.5)  # points are linked within this share of the object's diagonal, clipped to [m]
SURE = 0.3  # a face is visible when the cosine between its normal and the direction to the sensor is above this
GROUND_M = 0.25  # points lower than this above the ground belong to the ground


def sizes_from_clicks(
    records: Sequence[SampleRecord], labels: Sequence[int], data: DataConfig
) -> dict[int, NDArray[np.float32]]:
    """Median (l, w, h) [m] of each class over its nearest clicks that have enough LiDAR points.

    Args:
        records: with clicks; their boxes are not used. labels: the classes to measure. data: how samples are read; only
            the keyframe's points are.

    Returns:
        label -> (3,) float32, without classes that have fewer than MIN_CLICKS measured objects.
    """
    wanted = nearest_clicks(records, labels)
    one_sweep = data.model_copy(update={"num_sweeps": 1})
    typical_m = data.class_list.fallback_size_m
    measured: dict[int, list[NDArray[np.float64]]] = {label: [] for label in labels}
    for number in sorted(wanted):
        points = load_sample(records[number], one_sweep, cameras=False).points[:, :3].astype(np.float64)
        for label, click in wanted[number]:
            size = extents(points, click, typical_m[label], records[number].clicks.xyz_m)
            if size is not None:
                measured[label].append(size)
    return {
        label: np.median(sizes, axis=0).astype(np.float32)
        for label, sizes in measured.items()
        if len(sizes) >= MIN_CLICKS
    }


def nearest_clicks(
    records: Sequence[SampleRecord], labels: Sequence[int]
) -> dict[int, list[tuple[int, NDArray[np.float64]]]]:
    """The CLICKS nearest clicks of each class: number of the record -> list of (label, click (3,) [m])."""
    found: dict[int, list[tuple[float, int, NDArray[np.float64]]]] = {label: [] for label in labels}
    for number, record in enumerate(records):
        for label in labels:
            for xyz in record.clicks.xyz_m[record.clicks.label == label].astype(np.float64):
                found[label].append((float(np.hypot(xyz[0], xyz[1])), number, xyz))
    wanted: dict[int, list[tuple[int, NDArray[np.float64]]]] = {}
    for label, clicks in found.items():
        for _, number, xyz in sorted(clicks, key=lambda click: click[:2])[:CLICKS]:
            wanted.setdefault(number, []).append((label, xyz))
    return wanted


def extents(
    points_m: NDArray[np.float64],
    click_m: NDArray[np.float64],
    typical_m: NDArray[np.floating],
    clicks_m: NDArray[np.floating],
) -> NDArray[np.float64] | None:
    """Measure an object from its click and the LiDAR points. Its points are those that are linked to the click.

    The longer side comes from the smallest rectangle around these points, seen from above; the shorter side is the
    class's typical share of it.

    Args:
        points_m: (P, 3) points of the sample [m]. click_m: (3,) the object's click. typical_m: (3,) typical l, w, h of
            the class. clicks_m: (K, 3) all clicks of the sample; a point belongs to the nearest one, seen from above.

    Returns:
        (3,) float64 l, w, h [m]; None when the object has fewer than MIN_POINTS points.
    """
    import cv2  # imported here, because only classes without boxes need it
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    typical = np.asarray(typical_m, np.float64)
    offset = points_m - click_m
    diagonal = float(np.hypot(typical[0], typical[1]))
    around = offset[np.hypot(offset[:, 0], offset[:, 1]) < 0.75 * diagonal + 0.5]
    below = around[around[:, 2] < 0, 2]
    if len(below) < MIN_POINTS:
        return None
    ground = float(np.quantile(below, 0.05))
    own = around[around[:, 2] > ground + GROUND_M]
    nearest = cKDTree(clicks_m[:, :2] - click_m[:2]).query(own[:, :2])[0]
    own = own[np.hypot(own[:, 0], own[:, 1]) <= nearest + 1e-6]
    own = own[:: 1 + len(own) // MAX_POINTS]
    if len(own) < MIN_POINTS:
        return None
    pairs = cKDTree(own[:, :2]).sparse_distance_matrix(
        cKDTree(own[:, :2]), float(np.clip(LINK_SHARE * diagonal, *LINK_M))
    )
    _, group = connected_components(pairs, directed=False)
    own = own[group == group[np.argmin(np.hypot(own[:, 0], own[:, 1]))], :2]
    if len(own) < MIN_POINTS:
        return None
    angle = np.deg2rad(cv2.minAreaRect(own.astype(np.float32))[2])
    view = -click_m[:2] / np.linalg.norm(click_m[:2])
    sides = [
        _side(own @ axis, float(view @ axis))
        for axis in (np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)]))
    ]
    # A thin object has few points on its shorter side, so that side keeps its typical share of the longer one.
    return np.array([*(typical[:2] * max(sides) / max(typical[:2])), -2 * ground])


def _side(along: NDArray[np.float64], facing: float) -> float:
    """The length [m] of a rectangle's side.

    Args:
        along: (n,) the points' coordinates along the side, relative to the click [m]. facing: the cosine between the
            side's direction and the direction to the sensor.
    """
    low, high = np.quantile(along, [0.01, 0.99])
    if abs(facing) < SURE:  # the side is seen from across: both of its ends have points
        return float(high - low)
    return float(max(2 * (high if facing > 0 else -low), high - low))
