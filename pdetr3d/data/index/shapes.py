"""Checks that boxes are plausible for their class: their sizes, and the headings of moving objects."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pdetr3d.class_list import ClassList
from pdetr3d.data.index.annotations import flat
from pdetr3d.geometry.rigid import wrap_angle
from pdetr3d.tables.sizes import ENOUGH, unusual_sizes
from pdetr3d.tables.times import ASKEW_DEG, MOVING_M_S


def sizes_askew(table: pa.Table, classes: ClassList) -> list[str]:
    """A warning for each class with ENOUGH boxes whose median box has implausible sides.

    Args:
        table: of INDEX_SCHEMA. classes: of its labels.
    """
    return unusual_sizes(flat(table, "ann_box")[:, 3:6], flat(table, "ann_label"), classes, "sample_annotation.json")


def headings_askew(table: pa.Table) -> str:
    """A warning when moving objects of a table (INDEX_SCHEMA) do not move along their headings; else "".

    With fewer than ENOUGH moving objects there is no judgment.
    """
    velocity, box = flat(table, "ann_velocity_m_s"), flat(table, "ann_box")
    with np.errstate(invalid="ignore"):
        moving = np.hypot(velocity[:, 0], velocity[:, 1]) > MOVING_M_S  # False for unknown velocities (NaN)
    if moving.sum() < ENOUGH:
        return ""
    way = np.arctan2(velocity[moving, 1], velocity[moving, 0])
    usual = float(np.degrees(np.median(np.abs(wrap_angle(way - box[moving, 6])))))
    if usual <= ASKEW_DEG:
        return ""
    return (
        f"the usual one of {int(moving.sum())} objects that move at over {MOVING_M_S:g} m/s goes at {usual:.0f} "
        "degrees to where its box is headed: rotations turn the x axis, along the length, to the front"
    )
