"""Simulates one scene: draws it, writes its sensor files, and returns its rows of the tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion
from scipy.spatial import cKDTree

from pdetr3d.config import SimConfig
from pdetr3d.geometry.rigid import chain, inverse, rigid
from pdetr3d.schema import LATER, LIDAR_TOP, DataError
from pdetr3d.simulator import constants as const
from pdetr3d.simulator.camera import render
from pdetr3d.simulator.layout import lay_out
from pdetr3d.simulator.lidar import scan
from pdetr3d.simulator.objects import CLUTTER, build_shape
from pdetr3d.simulator.shapes import pack_parts
from pdetr3d.simulator.subtypes import Sizes
from pdetr3d.simulator.tables import (
    SCENE_TABLES,
    Row,
    calibration,
    data_row,
    ego_transform,
    link,
    visibility_token,
    yaw_quaternion,
)  # fmt: skip
from pdetr3d.simulator.world import Actor, World
from pdetr3d.tables.tokens import token


@dataclass(frozen=True)
class SceneJob:
    """A scene to simulate: ``split`` and ``index`` seed its random draws, ``place`` is its position on the grid."""

    name: str
    split: int
    index: int
    place: int


def build_world(seed: int, job: SceneJob, duration_s: float) -> World:
    """Draw one scene. Only (seed, job.split, job.index) determine it: more train scenes change no val scene.

    Args:
        seed: of the world. job: the scene.
        duration_s: there are no collisions from one keyframe period before time 0 to this time.
    """
    rng = np.random.default_rng([seed, job.split, job.index])
    ego, street, actors = lay_out(rng, duration_s, Sizes(seed))
    shapes = [build_shape(a.kind, a.size_m, rng, a.subtype, a.attribute) for a in actors]
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.1)
    sun = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
    row, column = divmod(job.place, const.SCENE_GRID)
    return World(
        ego=ego,
        actors=actors,
        parts=pack_parts(shapes),
        street=street,
        road2global_m_rad=(
            500.0 + const.SCENE_SPACING_M * column,
            500.0 + const.SCENE_SPACING_M * row,
            rng.uniform(-np.pi, np.pi),
        ),
        sun=sun,
        ambient=float(rng.uniform(0.42, 0.6)),
        brightness=float(rng.uniform(0.8, 1.1)),
    )


def simulate_scene(root: Path, config: SimConfig, job: SceneJob) -> dict[str, list[Row]]:
    """Write LiDAR and camera files of one scene under ``root``; returns its rows by table name.

    Raises:
        DataError: when a file cannot be written.
    """
    return _SceneWriter(root, config, job).run()


class _SceneWriter:
    """Writes one scene.

    A velocity needs two annotations of an object. A scene with a single keyframe is therefore followed by another
    scene, named NAME-later, which belongs to no split: its only keyframe, half a second later, has a LiDAR sweep and
    annotations, but no images. ``moments`` counts the keyframes with this additional one.
    """

    def __init__(self, root: Path, config: SimConfig, job: SceneJob) -> None:
        self.root, self.config, self.job = root, config, job
        self.moments = max(config.keyframes, 2)
        self.start_us = const.FIRST_TIMESTAMP_US + job.place * const.SCENE_SPACING_US
        self.world = build_world(config.seed, job, (self.moments - 1) * const.KEYFRAME_PERIOD_US * 1e-6)
        self.rig = calibration(config.image_size_px)
        self.sensor2ego = {c: rigid(row["rotation"], row["translation"]) for c, row in self.rig.items()}
        self.tables: dict[str, list[Row]] = {name: [] for name in SCENE_TABLES}
        self.points = np.zeros((self.moments, len(self.world.actors)), np.int64)
        self.visible = np.zeros_like(self.points)
        self.silhouette = np.zeros_like(self.points)

    def run(self) -> dict[str, list[Row]]:
        names = [self.job.name] * self.config.keyframes + [f"{self.job.name}{LATER}"]
        samples: list[Row] = [
            {
                "token": token(self.config.seed, self.job.name, "sample", k), "timestamp": self._keyframe_us(k),
                "prev": "", "next": "", "scene_token": token(self.config.seed, names[k]),
            }
            for k in range(self.moments)
        ]  # fmt: skip
        self.tables["sample"] = samples
        for name in dict.fromkeys(names[: self.moments]):
            mine = [s for s, of in zip(samples, names, strict=False) if of == name]
            link(mine)
            self.tables["scene"].append(
                {
                    "token": mine[0]["scene_token"], "log_token": token(self.config.seed, "log"),
                    "nbr_samples": len(mine),
                    "first_sample_token": mine[0]["token"], "last_sample_token": mine[-1]["token"],
                    "name": name, "description": "simulated street",
                }
            )  # fmt: skip
        self._lidar()
        self._cameras()
        self._annotations()
        return self.tables

    def _keyframe_us(self, k: int) -> int:
        return self.start_us + k * const.KEYFRAME_PERIOD_US

    def _seconds(self, timestamp_us: int) -> float:
        return (timestamp_us - self.start_us) * 1e-6

    def _ego2global(self, timestamp_us: int) -> NDArray[np.float64]:
        return ego_transform(self.world.ego_poses(np.array([self._seconds(timestamp_us)]))[0])

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, self.job.split, self.job.index, *purpose])

    def _record(self, channel: str, timestamp_us: int, k: int, key: bool) -> Row:
        """Append sample_data and ego_pose rows of one measurement that belongs to keyframe ``k``."""
        sample = self.tables["sample"][k]["token"]
        row = data_row(self.config.seed, self.job.name, channel, timestamp_us, sample, key, self.config.image_size_px)
        x, y, yaw = self.world.ego_poses(np.array([self._seconds(timestamp_us)]))[0]
        self.tables["sample_data"].append(row)
        self.tables["ego_pose"].append(
            {
                "token": row["token"], "timestamp": timestamp_us,
                "rotation": yaw_quaternion(float(yaw)), "translation": [float(x), float(y), 0.0],
            }
        )  # fmt: skip
        return row

    def _lidar(self) -> None:
        """Write all sweeps, with those before the first keyframe; a sweep belongs to the keyframe that follows it."""
        gaps, rows = self.config.sweeps_per_keyframe + 1, []
        for k in range(self.config.keyframes):
            for j in range(gaps):
                before_us = round((gaps - 1 - j) * const.KEYFRAME_PERIOD_US / gaps)
                rows.append(self._scan(k, j, self._keyframe_us(k) - before_us, j == gaps - 1))
        link(rows)
        for k in range(self.config.keyframes, self.moments):
            self._scan(k, 0, self._keyframe_us(k), True)

    def _scan(self, k: int, j: int, timestamp_us: int, key: bool) -> Row:
        """Write one sweep, number ``j`` of keyframe ``k``; returns its sample_data row."""
        row = self._record(LIDAR_TOP, timestamp_us, k, key)
        lidar2global = chain(self.sensor2ego[LIDAR_TOP], self._ego2global(timestamp_us))
        steps, rng = self.config.lidar_azimuth_steps, self._generator(1, k, j)
        points = scan(self.world, lidar2global, self._seconds(timestamp_us), steps, rng)
        points.tofile(self.root / row["filename"])
        if key:
            self._count_points(k, points, lidar2global)
        return row

    def _cameras(self) -> None:
        for number, (channel, (_, _, _, trigger_us)) in enumerate(const.CAMERA_RIG.items()):
            rows = []
            intrinsic = np.array(self.rig[channel]["camera_intrinsic"])
            for k in range(self.config.keyframes):
                timestamp_us = self._keyframe_us(k) + trigger_us
                row = self._record(channel, timestamp_us, k, True)
                cam2global = chain(self.sensor2ego[channel], self._ego2global(timestamp_us))
                image, actor, silhouette = render(
                    self.world, cam2global, intrinsic, self.config.image_size_px, self._seconds(timestamp_us),
                    self._generator(2, k, number),
                )  # fmt: skip
                self.visible[k] += np.bincount(actor[actor >= 0], minlength=len(self.world.actors))
                self.silhouette[k] += silhouette
                _write_jpeg(self.root / row["filename"], image)
                rows.append(row)
            link(rows)

    def _poses(self, k: int) -> NDArray[np.float64]:
        """(A, 3) global poses at the keyframe's LiDAR time."""
        return self.world.poses(self._seconds(self._keyframe_us(k)))

    def _count_points(self, k: int, points: NDArray[np.float32], lidar2global: NDArray[np.float64]) -> None:
        """Count the LiDAR points in each object's box by the devkit's ``points_in_box``, in the LiDAR frame."""
        global2lidar = inverse(lidar2global)
        tree = cKDTree(points[:, :2])
        turn = Quaternion(matrix=global2lidar[:3, :3], rtol=1e-6, atol=1e-6)
        for i, (actor, pose) in enumerate(zip(self.world.actors, self._poses(k), strict=True)):
            if actor.kind in CLUTTER:
                continue
            box = _box(actor, pose)
            box.rotate(turn)
            box.translate(global2lidar[:3, 3])
            # For speed, the devkit tests only the points near the box.
            near = tree.query_ball_point(box.center[:2], float(np.linalg.norm(actor.size_m)) / 2)
            self.points[k, i] = int(points_in_box(box, points[near, :3].T).sum()) if near else 0

    def _annotations(self) -> None:
        """Annotate the objects within range that a sensor saw during the scene, tracked over its keyframes."""
        count = self.config.keyframes
        ego = self.world.ego_poses(np.arange(count) * const.KEYFRAME_PERIOD_US * 1e-6)
        seen = (self.points[:count].sum(axis=0) > 0) | (self.visible.max(axis=0) >= const.MIN_VISIBLE_PX)
        poses = np.stack([self._poses(k) for k in range(self.moments)])
        within = np.hypot(*(poses[:count, :, :2] - ego[:, None, :2]).transpose(2, 0, 1)) < const.ANNOTATION_RANGE_M
        for i, actor in enumerate(self.world.actors):
            keyframes = np.flatnonzero(within[:, i])
            if actor.kind in CLUTTER or not seen[i] or not len(keyframes):
                continue
            keyframes = np.append(keyframes, np.arange(count, self.moments))
            instance = token(self.config.seed, self.job.name, "instance", i)
            rows = [self._annotation(instance, i, int(k), poses[k, i]) for k in keyframes]
            link(rows)
            self.tables["sample_annotation"] += rows
            self.tables["instance"].append(
                {
                    "token": instance, "category_token": token("category", const.CATEGORY[actor.kind]),
                    "nbr_annotations": len(rows),
                    "first_annotation_token": rows[0]["token"], "last_annotation_token": rows[-1]["token"],
                }
            )  # fmt: skip

    def _annotation(self, instance: str, i: int, k: int, pose: NDArray[np.float64]) -> Row:
        actor = self.world.actors[i]
        box = _box(actor, pose)
        return {
            "token": token(instance, k), "sample_token": self.tables["sample"][k]["token"], "instance_token": instance,
            "visibility_token": visibility_token(int(self.visible[k, i]), int(self.silhouette[k, i])),
            "attribute_tokens": [token("attribute", actor.attribute)] if actor.attribute else [],
            "translation": [float(v) for v in box.center], "size": [float(v) for v in box.wlh],
            "rotation": [float(v) for v in box.orientation.elements], "prev": "", "next": "",
            "num_lidar_pts": int(self.points[k, i]), "num_radar_pts": 0,
        }  # fmt: skip


def _box(actor: Actor, pose: NDArray[np.float64]) -> Box:
    """The annotated box in the global frame; nuScenes orders sizes as w, l, h."""
    length, width, height = actor.size_m
    center = [pose[0], pose[1], const.BOX_BASE_M + height / 2]
    return Box(center, [width, length, height], Quaternion(yaw_quaternion(float(pose[2]))))


def _write_jpeg(path: Path, rgb: NDArray[np.uint8]) -> None:
    if not cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, const.JPEG_QUALITY]):
        raise DataError(f"cannot write {path}: is the disk full?")
