"""Makes rows of the nuScenes v1.0 tables from ``Frame``s; the nuScenes schema defines the fields."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyquaternion import Quaternion

from pdetr3d.class_list import ATTRIBUTES
from pdetr3d.geometry.boxes import to_nuscenes
from pdetr3d.geometry.rigid import chain, inverse, rigid
from pdetr3d.importers.frame import Frame
from pdetr3d.schema import CAMERAS, LIDAR_TOP
from pdetr3d.tables.tokens import token

Row = dict[str, Any]
# The ego frame (x forward, y left, z up, on the ground) is placed below the LiDAR. Only distances depend on it.
LIDAR_HEIGHT_M = 1.73
LIDAR2EGO = rigid([math.cos(math.pi / 4), 0.0, 0.0, -math.sin(math.pi / 4)], [0.0, 0.0, LIDAR_HEIGHT_M])


def sample_token(version: str, frame: str) -> str:
    """The token of a keyframe's sample; ``frame``: the frame's name."""
    return token(version, "sample", frame)


class TableRows:
    """Collects the rows of frames, which must be added scene by scene in order of time.

    Args:
        version: name of the tables' folder. map_file: path of the map within the dataset.
    """

    def __init__(self, version: str, map_file: str) -> None:
        self.version = version
        self._tables: dict[str, list[Row]] = {
            name: []
            for name in ("scene", "sample", "sample_data", "ego_pose", "instance", "sample_annotation", "log",
                         "calibrated_sensor", "category")
        }  # fmt: skip
        self._map_file = map_file
        self._calibrations: dict[tuple[Any, ...], str] = {}
        self._categories: dict[str, str] = {}
        self._instances: dict[str, Row] = {}
        self._last: dict[str, Row] = {}  # last annotation of each instance
        self._channels: dict[str, Row] = {}  # last sample_data row of each channel of the scene
        self._waiting: list[Row] = []  # sweeps before the scene's next keyframe
        self._scene: Row | None = None

    def token(self, *parts: object) -> str:
        """``token`` of this version."""
        return token(self.version, *parts)

    def add(self, frame: Frame, num_lidar_pts: NDArray[np.int64]) -> None:
        """Add a frame; ``num_lidar_pts``: (N,) number of points in each of its objects."""
        if self._scene is None or self._scene["name"] != frame.scene:
            self._begin(frame)
        sample = self._sample(frame) if frame.keyframe else ""
        known = frame.lidar2global is not None
        lidar2global = frame.lidar2global if frame.lidar2global is not None else LIDAR2EGO
        pose = self._pose(frame, chain(inverse(LIDAR2EGO), lidar2global))
        self._data(frame, LIDAR_TOP, sample, pose, self._calibration(LIDAR_TOP, LIDAR2EGO, []), known)
        for camera in frame.cameras:
            intrinsic = np.asarray(camera.intrinsic, np.float64).tolist()
            calibrated = self._calibration(camera.channel, chain(camera.camera2lidar, LIDAR2EGO), intrinsic)
            row = self._data(frame, camera.channel, sample, pose, calibrated, known)
            row |= {"width": camera.size_px[0], "height": camera.size_px[1]}
            row["fileformat"] = "png" if camera.file.suffix.lower() == ".png" else "jpg"
            row["filename"] = row["filename"].removesuffix(".pcd.bin") + camera.file.suffix.lower()
        if frame.keyframe:
            self._annotations(frame, sample, lidar2global, num_lidar_pts)

    def finish(self) -> dict[str, list[Row]]:
        """All thirteen tables; call it after the last frame."""
        self._end()
        logs = [row["token"] for row in self._tables["log"]]
        sensors = (LIDAR_TOP, *CAMERAS)
        return {
            **self._tables,
            "instance": list(self._instances.values()),
            "sensor": [
                {"token": self.token("sensor", name), "channel": name,
                 "modality": "lidar" if name == LIDAR_TOP else "camera"}
                for name in sensors
            ],
            "attribute": [{"token": self.token("attribute", n), "name": n, "description": n} for n in ATTRIBUTES],
            "visibility": [
                {"token": str(number), "level": level, "description": level}
                for number, level in enumerate(("v0-40", "v40-60", "v60-80", "v80-100"), start=1)
            ],
            "map": [{"token": self.token("map"), "category": "semantic_prior", "filename": self._map_file,
                     "log_tokens": logs}],
        }  # fmt: skip

    def _begin(self, frame: Frame) -> None:
        self._end()
        log, scene = self.token("log", frame.scene), self.token("scene", frame.scene)
        self._tables["log"].append(
            {"token": log, "logfile": frame.scene, "vehicle": "", "date_captured": "", "location": self.version}
        )
        self._scene = {
            "token": scene, "log_token": log, "nbr_samples": 0, "first_sample_token": "", "last_sample_token": "",
            "name": frame.scene, "description": "",
        }  # fmt: skip
        self._tables["scene"].append(self._scene)

    def _end(self) -> None:
        """Close the scene; sweeps after its last keyframe belong to this keyframe."""
        for row in self._waiting:
            assert self._scene is not None
            row["sample_token"] = self._scene["last_sample_token"]
        self._waiting, self._channels, self._scene = [], {}, None

    def _sample(self, frame: Frame) -> str:
        assert self._scene is not None
        token, before = sample_token(self.version, frame.name), self._scene["last_sample_token"]
        if before:
            self._tables["sample"][-1]["next"] = token
        self._tables["sample"].append(
            {"token": token, "timestamp": frame.timestamp_us, "prev": before, "next": "",
             "scene_token": self._scene["token"]}
        )  # fmt: skip
        self._scene["nbr_samples"] += 1
        self._scene["first_sample_token"] = self._scene["first_sample_token"] or token
        self._scene["last_sample_token"] = token
        for row in self._waiting:
            row["sample_token"] = token
        self._waiting = []
        return token

    def _pose(self, frame: Frame, ego2global: NDArray[np.float64]) -> str:
        token = self.token("ego_pose", frame.name)
        self._tables["ego_pose"].append({"token": token, "timestamp": frame.timestamp_us, **_pose_of(ego2global)})
        return token

    def _calibration(self, channel: str, sensor2ego: NDArray[np.float64], intrinsic: list) -> str:
        key = (channel, sensor2ego.tobytes(), str(intrinsic))
        if key not in self._calibrations:
            token = self.token("calibrated_sensor", channel, len(self._calibrations))
            self._calibrations[key] = token
            row = {"token": token, "sensor_token": self.token("sensor", channel), "camera_intrinsic": intrinsic}
            self._tables["calibrated_sensor"].append(row | _pose_of(sensor2ego))
        return self._calibrations[key]

    def _data(self, frame: Frame, channel: str, sample: str, pose: str, calibrated: str, linked: bool) -> Row:
        """Add a row of sample_data.

        Args:
            linked: whether it is linked to the channel's previous row, i.e. sweeps may be accumulated. The ego motion
                must be known for that.
        """
        row: Row = {
            "token": self.token("sample_data", channel, frame.name), "sample_token": sample, "ego_pose_token": pose,
            "calibrated_sensor_token": calibrated, "timestamp": frame.timestamp_us, "fileformat": "pcd",
            "is_key_frame": frame.keyframe, "height": 0, "width": 0, "prev": "", "next": "",
            "filename": f"{'samples' if frame.keyframe else 'sweeps'}/{channel}/{frame.name}.pcd.bin",
        }  # fmt: skip
        before = self._channels.get(channel) if linked else None
        if before is not None:
            before["next"], row["prev"] = row["token"], before["token"]
        self._channels[channel] = row
        self._tables["sample_data"].append(row)
        if not frame.keyframe:
            self._waiting.append(row)
        return row

    def _annotations(self, frame: Frame, sample: str, lidar2global: NDArray, num_lidar_pts: NDArray[np.int64]) -> None:
        objects = frame.objects
        boxes = to_nuscenes(objects.center_m, objects.size_m, objects.yaw_rad, lidar2global)
        for number, (translation, size, rotation) in enumerate(zip(*boxes, strict=True)):
            track = objects.track[number] if objects.track else None
            name = ("track", frame.scene, track) if track is not None else ("object", frame.name, number)
            instance = self._instance(self.token("instance", *name), objects.category[number])
            row: Row = {
                "token": self.token("sample_annotation", frame.name, number), "sample_token": sample,
                "instance_token": instance["token"], "visibility_token": "", "attribute_tokens": [],
                "translation": translation.tolist(), "size": size.tolist(), "rotation": rotation.tolist(),
                "prev": "", "next": "", "num_lidar_pts": int(num_lidar_pts[number]), "num_radar_pts": 0,
            }  # fmt: skip
            before = self._last.get(instance["token"])
            if before is not None:
                before["next"], row["prev"] = row["token"], before["token"]
            self._last[instance["token"]] = row
            instance["nbr_annotations"] += 1
            instance["first_annotation_token"] = instance["first_annotation_token"] or row["token"]
            instance["last_annotation_token"] = row["token"]
            self._tables["sample_annotation"].append(row)

    def _instance(self, token: str, category: str) -> Row:
        if category not in self._categories:
            self._categories[category] = self.token("category", category)
            row = {"token": self._categories[category], "name": category, "description": category}
            self._tables["category"].append(row)
        fresh = {"token": token, "category_token": self._categories[category], "nbr_annotations": 0,
                 "first_annotation_token": "", "last_annotation_token": ""}  # fmt: skip
        return self._instances.setdefault(token, fresh)


def _pose_of(src2dst: NDArray[np.float64]) -> Row:
    quaternion = Quaternion(matrix=src2dst[:3, :3], rtol=1e-4, atol=1e-5)
    return {"rotation": quaternion.elements.tolist(), "translation": src2dst[:3, 3].tolist()}
