"""The attribute that a predicted box gets: a rule of ours on class and speed (the detector predicts no attributes)."""

from __future__ import annotations

import math

from pdetr3d.class_list import ObjectClass

MOVING_ABOVE_M_S = 0.2


def attribute_of(kind: ObjectClass, speed_m_s: float) -> str:
    """The nuScenes attribute of a predicted box; "" for classes that have none.

    Moving means faster than 0.2 m/s; an unknown speed (NaN) counts as standing still. Of nuScenes' ten, moving vehicles
    are ``vehicle.moving``; standing ones ``vehicle.parked``, but a bus ``vehicle.stopped``: it waits rather than parks.
    A moving cycle has a rider, a standing one has none. Moving people are ``pedestrian.moving``, others
    ``pedestrian.standing``. The only effect is on mAAE and, through it, NDS; SPNDS leaves attributes out.
    """
    if not kind.attributes:
        return ""
    moving, still = kind.attributes
    return moving if not math.isnan(speed_m_s) and speed_m_s > MOVING_ABOVE_M_S else still
