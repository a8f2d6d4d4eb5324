"""Chooses a predicted box's nuScenes attribute by its class and speed, since the detector predicts no attributes."""

from __future__ import annotations

import math

from pdetr3d.class_list import ObjectClass

MOVING_ABOVE_M_S = 0.2


def attribute_of(kind: ObjectClass, speed_m_s: float) -> str:
    """The nuScenes attribute of a predicted box; "" for classes that have none.

    An object moves if it is faster than 0.2 m/s; one of unknown speed (NaN) stands still. With nuScenes' ten classes, a
    moving vehicle is ``vehicle.moving`` and a standing one ``vehicle.parked``, but a standing bus ``vehicle.stopped``,
    because it waits rather than parks. A moving cycle has a rider, a standing one has none. Moving people are
    ``pedestrian.moving``, others ``pedestrian.standing``. Attributes affect only mAAE and, through it, NDS; SPNDS
    leaves them out.

    Args:
        kind: the box's class. speed_m_s: in the ground plane, NaN: unknown.
    """
    if not kind.attributes:
        return ""
    moving, still = kind.attributes
    return moving if not math.isnan(speed_m_s) and speed_m_s > MOVING_ABOVE_M_S else still
