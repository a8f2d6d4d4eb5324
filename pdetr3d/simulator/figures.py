"""Counts the objects of a nuScenes-format split, to compare the simulated world with the real one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.splits import get_scenes_of_split

from pdetr3d.schema import CLASSES

DISTANCE_BINS_M = (0, 10, 20, 30, 40, 52, 60)
FEW_POINTS = 5


def world_figures(nusc: NuScenes, split: str) -> dict[str, Any]:
    """Count the annotations of the ten classes in a split; distances are those of the devkit (from the ego vehicle).

    Returns:
        ``keyframes``: their number. ``objects_per_frame``: annotated objects.
        ``few_or_no_points_share``: share of all objects with at most 5 LiDAR points in the keyframe.
        ``few_points_share``: the same share of the objects with at least one point.
        ``few_points_share_in_range``: the same share of those within the devkit's class ranges.
        ``classes``: class -> ``count`` (all), ``share``, ``scored`` (with points, within the devkit's class range),
        ``moving_share``.
        ``points``: class -> distance bin -> [number of objects, median number of points], of the scored objects.
        A split without objects gives zeros.
    """
    table = _objects(nusc, split)
    scored = table[(table.points > 0) & table.in_range]
    seen = table[table.points > 0]
    keyframes = sum(nusc.get("scene", s)["nbr_samples"] for s in _scene_tokens(nusc, split))
    classes = {
        name: {
            "count": int((table.name == name).sum()),
            "share": float((table.name == name).mean()) if len(table) else 0.0,
            "scored": int((scored.name == name).sum()),
            "moving_share": float((table.speed[table.name == name] > 0.2).mean())
            if (table.name == name).any()
            else 0.0,
        }
        for name in CLASSES
    }
    return {
        "keyframes": keyframes,
        "objects_per_frame": len(table) / max(keyframes, 1),
        "few_or_no_points_share": _few(table),
        "few_points_share": _few(seen),
        "few_points_share_in_range": _few(scored),
        "classes": classes,
        "points": {name: _by_distance(scored[scored.name == name]) for name in CLASSES},
    }


def _few(table: pd.DataFrame) -> float:
    return float((table.points <= FEW_POINTS).mean()) if len(table) else 0.0


def _scene_tokens(nusc: NuScenes, split: str) -> list[str]:
    names = set(get_scenes_of_split(split, nusc))
    return [scene["token"] for scene in nusc.scene if scene["name"] in names]


def _objects(nusc: NuScenes, split: str) -> pd.DataFrame:
    scenes = set(_scene_tokens(nusc, split))
    class_range = config_factory("detection_cvpr_2019").class_range
    rows = []
    for annotation in nusc.sample_annotation:
        sample = nusc.get("sample", annotation["sample_token"])
        name = category_to_detection_name(annotation["category_name"])
        if sample["scene_token"] not in scenes or name is None:
            continue
        pose = nusc.get("ego_pose", nusc.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"])
        distance = float(np.hypot(*(np.array(annotation["translation"]) - pose["translation"])[:2]))
        speed = float(np.linalg.norm(nusc.box_velocity(annotation["token"])[:2]))
        rows.append((name, distance, annotation["num_lidar_pts"], distance < class_range[name], speed))
    table = pd.DataFrame(rows, columns=["name", "distance", "points", "in_range", "speed"])
    return table.astype({"in_range": bool})


def _by_distance(table: pd.DataFrame) -> dict[str, list[float]]:
    edges = list(zip(DISTANCE_BINS_M, DISTANCE_BINS_M[1:], strict=False))
    groups = {f"{a}-{b}": table.points[(table.distance >= a) & (table.distance < b)] for a, b in edges}
    return {name: [len(points), float(points.median()) if len(points) else 0.0] for name, points in groups.items()}
