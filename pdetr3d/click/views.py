"""Computes the positions of the page's camera in sheet coordinates (``sheet.py``), with z up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pdetr3d.click.sheet import HALF_SIDE_M, SHEET_Z_M, Tile, width_m

NARROW_RAD = float(np.radians(20))  # field of view from above: rays are nearly parallel
WIDE_RAD = float(np.radians(55))  # field of view in 3D
MARGIN = 1.03  # factor on the shown height
# The camera looks down at a slight angle, because its up direction +z must not be its line of sight.
TILT = 1e-3


@dataclass(frozen=True)
class View:
    """``position_m`` and ``look_at_m`` (x, y, z), and the vertical field of view ``fov_rad``."""

    position_m: tuple[float, float, float]
    look_at_m: tuple[float, float, float]
    fov_rad: float


def above(tiles: Sequence[Tile], aspect: float) -> View:
    """The whole sheet from above, +y up, on a canvas of ``aspect`` = width / height."""
    return _down(0.0, 0.0, max(2 * HALF_SIDE_M, width_m(tiles) / aspect))


def over(tile: Tile, aspect: float) -> View:
    """One image, as large as the canvas allows; ``aspect``: width / height of the canvas."""
    return _down(*tile.middle_m, max(tile.size_m[1], tile.size_m[0] / aspect))


def beside() -> View:
    """The scene in 3D: from behind and above the car, looking ahead."""
    return View((0.0, -24.0, 20.0), (0.0, 8.0, -1.0), WIDE_RAD)


def _down(x: float, y: float, height_m: float) -> View:
    """The view from above that fills the canvas with ``height_m`` of the sheet around (x, y)."""
    up = MARGIN * height_m / 2 / np.tan(NARROW_RAD / 2)
    return View((x, y - TILT * up, SHEET_Z_M + up), (x, y, SHEET_Z_M), NARROW_RAD)
