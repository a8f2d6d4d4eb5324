"""The attribute that a predicted box gets: a rule of ours on class and speed (the detector predicts no attributes)."""

from __future__ import annotations

import math

MOVING_ABOVE_M_S = 0.2

# class -> (moving, standing still); barrier and traffic_cone have no attributes in nuScenes.
_ATTRIBUTES = {
    "car": ("vehicle.moving", "vehicle.parked"),
    "truck": ("vehicle.moving", "vehicle.parked"),
    "construction_vehicle": ("vehicle.moving", "vehicle.parked"),
    "trailer": ("vehicle.moving", "vehicle.parked"),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "motorcycle": ("cycle.with_rider", "cycle.without_rider"),
    "bicycle": ("cycle.with_rider", "cycle.without_rider"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "barrier": ("", ""),
    "traffic_cone": ("", ""),
}


def attribute_of(class_name: str, speed_m_s: float) -> str:
    """The nuScenes attribute of a predicted box; "" for classes that have none.

    Moving means faster than 0.2 m/s; an unknown speed (NaN) counts as standing still. Moving vehicles are
    ``vehicle.moving``; standing ones ``vehicle.parked``, but a bus ``vehicle.stopped`` (it waits rather than parks).
    A moving cycle has a rider, a standing one has none. Moving people are ``pedestrian.moving``, others
    ``pedestrian.standing``. The only effect is on mAAE and, through it, NDS; SPNDS leaves attributes out.

    Raises:
        KeyError: when ``class_name`` is not one of ``pdetr3d.schema.CLASSES``.
    """
    moving, still = _ATTRIBUTES[class_name]
    return moving if not math.isnan(speed_m_s) and speed_m_s > MOVING_ABOVE_M_S else still
