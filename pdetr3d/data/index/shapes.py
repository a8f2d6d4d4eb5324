"""Checks that boxes are plausible for their class: their sizes, and the headings of moving objects."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pdetr3d.class_list import ClassList
from pdetr3d.data.index.annotations import flat
from pdetr3d.geometry.rigid import wrap_angle
from pdetr3d.tables.times import ASKEW_DEG, MOVING_M_S

ENOUGH = 20  # objects that are needed for a judgment
OTHER_SIZE = 4.0  # a side this many times longer or shorter than typical is in another unit
LONG = 1.5  # a class is long when its typical length / width is above this
WIDE = 0.8  # boxes of a long class whose length / width is below this have their sides in another order


def sizes_askew(table: pa.Table, classes: ClassList) -> list[str]:
    """A warning for each class with ENOUGH boxes whose median box has implausible sides.

    Args:
        table: of INDEX_SCHEMA. classes: of its labels.
    """
    return unusual_sizes(flat(table, "ann_box")[:, 3:6], flat(table, "ann_label"), classes, "sample_annotation.json")


def unusual_sizes(size_m: NDArray[np.float64], label: NDArray[np.int64], classes: ClassList, file: str) -> list[str]:
    """The warnings of ``sizes_askew`` about boxes of any file.

    Args:
        size_m: (N, 3) l, w, h. label: (N,) of ``classes``. file: its name, for the message.
    """
    lines = []
    for place, (name, typical) in enumerate(zip(classes.names, classes.fallback_size_m, strict=True)):
        mine = size_m[label == place]
        if len(mine) < ENOUGH:
            continue
        usual = np.median(mine, 0)
        other = (usual / typical > OTHER_SIZE) | (usual / typical < 1 / OTHER_SIZE)
        if other.any() or (typical[0] > LONG * typical[1] and usual[0] < WIDE * usual[1]):
            lines.append(
                f"the usual one of {len(mine)} boxes of class {name} is {_sides(usual)} m (l, w, h), where "
                f"{_sides(typical)} are typical: sizes are w, l, h in m in {file}"
            )
    return lines


def _sides(size: np.ndarray) -> str:
    return " x ".join(f"{side:.3g}" for side in size)


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
