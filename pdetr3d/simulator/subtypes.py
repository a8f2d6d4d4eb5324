"""Defines the subtypes of the simulated classes, their sizes and frequencies, and draws sizes of objects.

A subtype is visible (``vehicles.py`` and ``objects.py`` shape it), and it determines the size up to a few percent. A
model that recognizes the subtype of a car from behind thus knows its length. The means resemble nuScenes', but each
world multiplies them by factors of its own: no documented mean equals a world's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdetr3d.schema import CLASSES
from pdetr3d.simulator import constants as const

Size = tuple[float, float, float]  # l, w, h


@dataclass(frozen=True)
class Subtype:
    """A subtype: ``share`` of its class, mean ``size_m``, and ``spread``, the relative deviation of each side."""

    name: str
    share: float
    size_m: Size
    spread: Size = (0.03, 0.02, 0.025)


_ROADWORK, _CYCLE, _PERSON = (0.05, 0.04, 0.05), (0.04, 0.05, 0.03), (0.06, 0.06, 0.04)
SUBTYPES: dict[str, tuple[Subtype, ...]] = {
    "car": (
        Subtype("hatchback", 0.28, (3.95, 1.80, 1.52)),
        Subtype("sedan", 0.32, (4.75, 1.88, 1.49)),
        Subtype("suv", 0.24, (4.80, 2.04, 1.90)),
        Subtype("van", 0.16, (5.35, 2.10, 2.25)),
    ),
    "truck": (
        Subtype("pickup", 0.35, (5.55, 2.08, 1.95)),
        Subtype("box", 0.30, (7.80, 2.55, 3.40)),
        Subtype("flatbed", 0.18, (8.40, 2.55, 2.75)),
        Subtype("tractor", 0.17, (6.20, 2.65, 3.60)),
    ),
    "construction_vehicle": (
        Subtype("excavator", 0.40, (7.80, 2.95, 3.20)),
        Subtype("loader", 0.35, (6.80, 2.70, 3.40)),
        Subtype("roller", 0.25, (4.90, 2.25, 2.95)),
    ),
    "bus": (
        Subtype("city", 0.50, (12.00, 2.98, 3.30)),
        Subtype("minibus", 0.25, (7.40, 2.45, 2.85)),
        Subtype("coach", 0.25, (12.90, 3.02, 3.85)),
    ),
    "trailer": (
        Subtype("box", 0.45, (13.60, 2.98, 4.05)),
        Subtype("tank", 0.30, (11.40, 2.80, 3.60)),
        Subtype("small", 0.25, (6.20, 2.35, 2.90)),
    ),
    "barrier": (
        Subtype("concrete", 0.35, (0.62, 3.00, 0.90), _ROADWORK),
        Subtype("plastic", 0.35, (0.50, 2.05, 1.02), _ROADWORK),
        Subtype("fence", 0.30, (0.42, 2.50, 1.15), _ROADWORK),
    ),
    "motorcycle": (
        Subtype("scooter", 0.40, (1.82, 0.70, 1.36), _CYCLE),
        Subtype("motorcycle", 0.60, (2.26, 0.84, 1.48), _CYCLE),
    ),
    "bicycle": (
        Subtype("adult", 0.75, (1.78, 0.62, 1.36), _CYCLE),
        Subtype("child", 0.25, (1.34, 0.54, 1.08), _CYCLE),
    ),
    "pedestrian": (
        Subtype("adult", 0.85, (0.74, 0.70, 1.77), _PERSON),
        Subtype("child", 0.15, (0.58, 0.54, 1.30), _PERSON),
    ),
    "traffic_cone": (
        Subtype("cone", 0.65, (0.42, 0.42, 0.80), _PERSON),
        Subtype("tube", 0.35, (0.36, 0.36, 1.25), _PERSON),
    ),
}
# Attribute -> factors on (l, w, h): a rider sits higher than the machine alone, a walking person is longer than a
# standing one.
POSTURE: dict[str, Size] = {
    "cycle.with_rider": (1.0, 1.0, 1.12),
    "cycle.without_rider": (1.0, 1.0, 0.8),
    "pedestrian.moving": (1.12, 1.0, 1.0),
    "pedestrian.standing": (0.88, 1.0, 1.0),
}
CLIP_STD = 2.0  # draws beyond this number of standard deviations are clipped


class Sizes:
    """Draws the sizes of a world's objects.

    Attributes:
        scale: (10, 3) float64, the world's factors on the mean (l, w, h), rows as CLASSES.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, *b"sizes"])
        low, high = np.array(const.CLASS_SCALE_LOG).T
        sign = rng.choice([-1.0, 1.0], size=(len(CLASSES), 1))  # all sides of a class are larger, or all are smaller
        self.scale: NDArray[np.float64] = np.exp(sign * rng.uniform(low, high, (len(CLASSES), 3)))

    def subtype(self, category: str, rng: np.random.Generator) -> Subtype:
        """Draw a subtype of a class, by share."""
        subtypes = SUBTYPES[category]
        return subtypes[rng.choice(len(subtypes), p=[subtype.share for subtype in subtypes])]

    def size(self, category: str, subtype: Subtype, rng: np.random.Generator, attribute: str = "") -> Size:
        """Draw (l, w, h) [m] of an object, in whole millimeters; ``attribute`` gives its posture (POSTURE)."""
        deviation = np.clip(rng.standard_normal(3), -CLIP_STD, CLIP_STD) * subtype.spread
        mean = np.array(subtype.size_m) * self.scale[CLASSES.index(category)]
        length, width, height = np.round(mean * POSTURE.get(attribute, (1.0, 1.0, 1.0)) * np.exp(deviation), 3)
        return float(length), float(width), float(height)
