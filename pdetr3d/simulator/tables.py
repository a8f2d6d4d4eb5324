"""Makes the rows of the simulated world's nuScenes v1.0 tables; the nuScenes schema defines the fields."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyquaternion import Quaternion

from pdetr3d.class_list import ATTRIBUTES
from pdetr3d.config import SimConfig
from pdetr3d.geometry.rigid import rigid
from pdetr3d.schema import LIDAR_TOP
from pdetr3d.simulator import constants as const
from pdetr3d.tables.tokens import token

Row = dict[str, Any]
SCENE_TABLES = ("scene", "sample", "sample_data", "ego_pose", "instance", "sample_annotation")
VISIBILITY = (("1", "v0-40", 0.0), ("2", "v40-60", 0.4), ("3", "v60-80", 0.6), ("4", "v80-100", 0.8))
MAP_FILE = "maps/simulated.png"


def yaw_quaternion(yaw_rad: float) -> list[float]:
    """(w, x, y, z) of a rotation about +z."""
    return [float(np.cos(yaw_rad / 2)), 0.0, 0.0, float(np.sin(yaw_rad / 2))]


def ego_transform(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x, y, yaw) -> ego2global (4, 4): the ego vehicle drives on the plane z = 0."""
    return rigid(yaw_quaternion(pose[2]), [pose[0], pose[1], 0.0])


def calibration(size_px: tuple[int, int]) -> dict[str, Row]:
    """The calibration of each channel: translation and rotation (sensor2ego), and camera_intrinsic (LiDAR: []).

    Pixels are square, and the width spans the same angle as nuScenes' images. An image that is flatter than nuScenes'
    16:9 lacks the top.

    Args:
        size_px: (width, height) of the images.
    """
    yaw, pitch, roll = np.deg2rad(const.LIDAR_YAW_PITCH_ROLL_DEG)
    turn = (
        Quaternion(axis=[0, 0, 1], angle=yaw)
        * Quaternion(axis=[0, 1, 0], angle=pitch)
        * Quaternion(axis=[1, 0, 0], angle=roll)
    )
    rows: dict[str, Row] = {
        LIDAR_TOP: {
            "translation": list(const.LIDAR_POSITION_M),
            "rotation": list(turn.elements),
            "camera_intrinsic": [],
        }
    }
    # Camera axes (x right, y down, z forward) of a camera that looks along ego +x.
    forward = Quaternion(matrix=np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]))
    width, height = size_px
    for channel, (yaw_deg, position, focal, _) in const.CAMERA_RIG.items():
        aim = (
            Quaternion(axis=[0, 0, 1], degrees=yaw_deg)
            * Quaternion(axis=[0, 1, 0], degrees=const.CAMERA_PITCH_DEG)
            * forward
        )
        scale = width / const.NATIVE_IMAGE_PX[0]
        missing = scale * const.NATIVE_IMAGE_PX[1] - height
        cx, cy = scale * np.multiply(const.NATIVE_IMAGE_PX, const.CAMERA_CENTER_SHARE)
        rows[channel] = {
            "translation": list(position),
            "rotation": [float(q) for q in aim.elements],
            "camera_intrinsic": [
                [focal * scale, 0.0, float(cx)],
                [0.0, focal * scale, float(cy - missing)],
                [0.0, 0.0, 1.0],
            ],
        }
    return rows


def world_tables(config: SimConfig) -> dict[str, list[Row]]:
    """The seven tables that are the same for all scenes."""
    seed = config.seed
    rig = calibration(config.image_size_px)
    log = token(seed, "log")
    return {
        "attribute": [{"token": token("attribute", n), "name": n, "description": n} for n in ATTRIBUTES],
        "category": [{"token": token("category", n), "name": n, "description": n} for n in const.CATEGORY.values()],
        "visibility": [{"token": t, "level": v, "description": f"visible: {v[1:]} %"} for t, v, _ in VISIBILITY],
        "sensor": [
            {"token": token("sensor", name), "channel": name, "modality": "lidar" if name == LIDAR_TOP else "camera"}
            for name in rig
        ],
        "calibrated_sensor": [
            {"token": token(seed, "calibrated_sensor", c), "sensor_token": token("sensor", c), **row}
            for c, row in rig.items()
        ],
        "log": [
            {"token": log, "logfile": "simulated", "vehicle": "sim", "date_captured": "2020-09-13",
             "location": "simulated"}
        ],
        "map": [{"token": token(seed, "map"), "category": "semantic_prior", "filename": MAP_FILE, "log_tokens": [log]}],
    }  # fmt: skip


def visibility_token(visible_px: int, silhouette_px: int) -> str:
    """The nuScenes visibility bin of an object, by the share of its pixels that is not hidden; "1" if in no image.

    Args:
        visible_px: number of visible pixels. silhouette_px: number of pixels with nothing in front of the object.
    """
    share = visible_px / silhouette_px if silhouette_px else 0.0
    return [t for t, _, low in VISIBILITY if share >= low][-1]


def data_row(
    seed: int, scene: str, channel: str, timestamp_us: int, sample: str, key: bool, size_px: tuple[int, int]
) -> Row:
    """A sample_data row without prev and next (see ``link``); its ego pose has the same token, as in nuScenes.

    Args:
        scene: its name. sample: token. key: whether it is a keyframe. size_px: (width, height) of the images.
    """
    lidar = channel == LIDAR_TOP
    folder, suffix = ("samples" if key else "sweeps"), ("pcd.bin" if lidar else "jpg")
    name = token(seed, scene, channel, timestamp_us)
    return {
        "token": name, "sample_token": sample, "ego_pose_token": name,
        "calibrated_sensor_token": token(seed, "calibrated_sensor", channel), "timestamp": timestamp_us,
        "fileformat": "pcd" if lidar else "jpg", "is_key_frame": key,
        "height": 0 if lidar else size_px[1], "width": 0 if lidar else size_px[0],
        "filename": f"{folder}/{channel}/{scene}__{channel}__{timestamp_us}.{suffix}", "prev": "", "next": "",
    }  # fmt: skip


def link(rows: list[Row]) -> None:
    """Set prev and next of rows, which must be in order of time."""
    for before, after in zip(rows, rows[1:], strict=False):
        before["next"], after["prev"] = after["token"], before["token"]
