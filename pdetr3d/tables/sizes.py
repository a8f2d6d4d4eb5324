"""Checks that the sizes of boxes are plausible for their class, whatever file holds the boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdetr3d.class_list import ClassList

ENOUGH = 20  # objects that are needed for a judgment
OTHER_SIZE = 4.0  # a side this many times longer or shorter than typical is in another unit
LONG = 1.5  # a class is long when its typical length / width is above this
WIDE = 0.8  # boxes of a long class whose length / width is below this have their sides in another order


def unusual_sizes(size_m: NDArray[np.float64], label: NDArray[np.int64], classes: ClassList, file: str) -> list[str]:
    """A warning for each class with ENOUGH boxes whose median box has implausible sides.

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
