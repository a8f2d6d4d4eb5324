"""Writes a hand-made nuScenes dataset (tables without sensor files) in plain loops from a list of objects."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np

CATEGORIES = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "construction_vehicle": "vehicle.construction",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "barrier": "movable_object.barrier",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
    "bicycle_rack": "static_object.bicycle_rack",
}


def quaternion(yaw_rad: float) -> list[float]:
    return [math.cos(yaw_rad / 2), 0.0, 0.0, math.sin(yaw_rad / 2)]


def annotation(name, xyz_global, wlh, yaw_rad=0.0, num_lidar_pts=5, num_radar_pts=0, track=None, attribute=None):
    """An object; equal ``track`` joins objects of consecutive samples to one instance, which gives velocities."""
    return {
        "name": name,
        "translation": [float(v) for v in xyz_global],
        "size": [float(v) for v in wlh],
        "rotation": quaternion(yaw_rad),
        "num_lidar_pts": num_lidar_pts,
        "num_radar_pts": num_radar_pts,
        "track": track,
        "attribute": attribute,
    }


def write(
    dataroot: Path, version: str, scenes: dict[str, list[dict]], splits: dict[str, list[str]] | None = None
) -> None:
    """Write scenes: scene name -> samples {"ego": (xyz, yaw), "objects": [annotation(...)]}, 0.5 s apart.

    The LiDAR is at ego (0, 0, 1.8), turned by -90 degrees as in nuScenes (LiDAR +x is ego -y)."""
    tables: dict[str, list[dict]] = {
        "visibility": [{"token": "4", "level": "v80-100", "description": ""}],
        "attribute": [
            {"token": f"attr-{a}", "name": a, "description": ""}
            for a in ("vehicle.moving", "vehicle.parked", "pedestrian.moving")
        ],
        "category": [{"token": f"cat-{name}", "name": full, "description": ""} for name, full in CATEGORIES.items()],
        "sensor": [{"token": "sensor", "channel": "LIDAR_TOP", "modality": "lidar"}],
        "calibrated_sensor": [
            {
                "token": "calibrated",
                "sensor_token": "sensor",
                "translation": [0.0, 0.0, 1.8],
                "rotation": quaternion(-math.pi / 2),
                "camera_intrinsic": [],
            }
        ],
        "log": [{"token": "log", "logfile": "log", "vehicle": "x", "date_captured": "2018-01-01", "location": "here"}],
        "map": [{"token": "map", "log_tokens": ["log"], "category": "semantic_prior", "filename": "maps/map.png"}],
        **{name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "instance", "sample_annotation")},
    }
    for scene, samples in scenes.items():
        tokens = [f"{scene}-{i}" for i in range(len(samples))]
        tables["scene"].append(
            {
                "token": scene,
                "log_token": "log",
                "nbr_samples": len(samples),
                "first_sample_token": tokens[0],
                "last_sample_token": tokens[-1],
                "name": scene,
                "description": "",
            }
        )
        last_of_track: dict[str, dict] = {}
        for i, sample in enumerate(samples):
            _add_sample(tables, scene, tokens, i, sample, last_of_track)
    folder = dataroot / version
    folder.mkdir(parents=True)
    (dataroot / "maps").mkdir()
    cv2.imwrite(str(dataroot / "maps/map.png"), np.zeros((4, 4), np.uint8))
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    if splits is not None:
        (folder / "splits.json").write_text(json.dumps(splits))


def _add_sample(tables, scene, tokens, i, sample, last_of_track) -> None:
    token, time_us = tokens[i], 1_500_000_000_000_000 + 500_000 * i
    before, after = (tokens[i - 1] if i else ""), (tokens[i + 1] if i + 1 < len(tokens) else "")
    tables["sample"].append({"token": token, "timestamp": time_us, "prev": before, "next": after, "scene_token": scene})
    xyz, yaw = sample["ego"]
    tables["ego_pose"].append(
        {"token": f"ego-{token}", "timestamp": time_us, "translation": list(xyz), "rotation": quaternion(yaw)}
    )
    tables["sample_data"].append(
        {
            "token": f"data-{token}",
            "sample_token": token,
            "ego_pose_token": f"ego-{token}",
            "calibrated_sensor_token": "calibrated",
            "timestamp": time_us,
            "fileformat": "pcd",
            "is_key_frame": True,
            "height": 0,
            "width": 0,
            "filename": f"samples/LIDAR_TOP/{token}.pcd.bin",
            "prev": f"data-{before}" if before else "",
            "next": f"data-{after}" if after else "",
        }
    )
    for j, thing in enumerate(sample["objects"]):
        thing = dict(thing)
        name, track, attribute = thing.pop("name"), thing.pop("track"), thing.pop("attribute")
        own = f"ann-{token}-{j}"
        instance = f"inst-{scene}-{track}" if track else f"inst-{own}"
        row = {
            "token": own,
            "sample_token": token,
            "instance_token": instance,
            "visibility_token": "4",
            "prev": "",
            "next": "",
            **thing,
        }
        row["attribute_tokens"] = [f"attr-{attribute}"] if attribute else []
        if track and track in last_of_track:
            last_of_track[track]["next"], row["prev"] = own, last_of_track[track]["token"]
        else:
            tables["instance"].append(
                {
                    "token": instance,
                    "category_token": f"cat-{name}",
                    "nbr_annotations": 1,
                    "first_annotation_token": own,
                    "last_annotation_token": own,
                }
            )
        if track:
            last_of_track[track] = row
        tables["sample_annotation"].append(row)
