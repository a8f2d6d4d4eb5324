"""Simulated clicks: random places near the middle of a box, as an annotator would click (method 1.3)."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from pdetr3d.data.draws import keyed_uniform
from pdetr3d.geometry.boxes import rotate_z
from pdetr3d.schema import PointLabels, SampleRecord

CLICK_MEAN, CLICK_STD = 0.5, 0.3  # the place t along a side is a normal variable, truncated to [0, 1]
CLICK_DENSITY = 1 / 3  # the click lies in the central third of the box


def place_clicks(center_m: NDArray, size_m: NDArray, yaw_rad: NDArray, uniform: NDArray) -> NDArray[np.float64]:
    """Clicks (..., 3) float64 [m] of boxes from uniform numbers in [0, 1), by the inverse distribution function of t.

    The offset from the center is size / 2 * u / 3 with u = 2 t - 1 in the box frame; it is rotated with the box.

    Args:
        center_m: (..., 3) [m]. size_m: (..., 3) l, w, h [m]. yaw_rad: (...). uniform: (..., 3).
    """
    from scipy.special import ndtr, ndtri  # only where clicks are drawn

    low, high = ndtr((0 - CLICK_MEAN) / CLICK_STD), ndtr((1 - CLICK_MEAN) / CLICK_STD)
    t = CLICK_MEAN + CLICK_STD * ndtri(low + np.asarray(uniform, np.float64) * (high - low))
    u = 2 * np.clip(t, 0, 1) - 1
    offset = np.asarray(size_m, np.float64) / 2 * u * CLICK_DENSITY
    return np.asarray(center_m, np.float64) + rotate_z(offset, np.asarray(yaw_rad, np.float64))


def draw_click(center_m: NDArray, size_m: NDArray, yaw_rad: NDArray, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw one click per box, (..., 3) [m], from three uniform numbers of ``rng``; shapes as in ``place_clicks``."""
    return place_clicks(center_m, size_m, yaw_rad, rng.random(np.shape(center_m)))


def by_people(clicks: PointLabels) -> NDArray[np.bool_]:
    """(K,) bool: clicks that people made. Their ids start with "human"."""
    return np.array([str(name).startswith("human") for name in clicks.click_id], bool)


def redraw_clicks(record: SampleRecord, seed: int, epoch: int) -> PointLabels:
    """The record's clicks, with the simulated ones of known boxes drawn anew, keyed by (seed, epoch, click_id).

    People's clicks, and clicks with ``box_index`` -1, stay as they are.
    """
    clicks = record.clicks
    known = (clicks.box_index >= 0) & ~by_people(clicks)
    if not known.any():
        return clicks
    boxes = record.boxes[clicks.box_index[known]]
    uniform = keyed_uniform(seed, epoch, clicks.click_id[known], "redraw_click", 3)
    xyz = clicks.xyz_m.copy()
    xyz[known] = place_clicks(boxes.center_m, boxes.size_m, boxes.yaw_rad, uniform)
    return dataclasses.replace(clicks, xyz_m=xyz)
