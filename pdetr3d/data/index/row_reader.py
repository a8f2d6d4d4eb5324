"""Reads the nuScenes tables: one row of the index per keyframe.

Boxes and transforms are in the keyframe's LIDAR_TOP frame. Transforms are composed in float64 through each sensor's own
ego pose.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pdetr3d.config import DataConfig
from pdetr3d.data.index.annotations import LIDAR, RADAR
from pdetr3d.data.index.dataset_files import DatasetFiles
from pdetr3d.data.index.regions import read_regions, write_lists
from pdetr3d.data.index.rows import INDEX_SCHEMA, REGION_COLUMNS, REGION_SCHEMA
from pdetr3d.data.index.splits import scene_splits
from pdetr3d.geometry.boxes import from_nuscenes
from pdetr3d.geometry.camera import compose_lidar2img
from pdetr3d.geometry.rigid import apply, chain, inverse, rigid
from pdetr3d.schema import CAMERAS, LIDAR_TOP, DataError
from pdetr3d.tables.counts import not_counted
from pdetr3d.tables.loaded import Tables

CHUNK = 1000  # keyframes converted to Arrow at a time; this limits the memory for Python objects
MAX_SWEEPS = 9  # earlier sweeps kept per keyframe; data.num_sweeps <= 10 counts the keyframe
STEP_S = (0.001, 3600.0)  # allowed time between a sweep and the one before; outside, prev or a timestamp is wrong


class RowReader:
    """Reads the rows of an index. It caches poses, because samples share calibrations and keyframes share sweeps.

    Args:
        nusc: the tables. data: its classes, and how files are checked. whole: as in ``build_index``.

    Attributes:
        files: checks the files that rows name, and counts what is unusual. missing_sweeps: names of sweep files that do
            not exist. unknown: category without a class -> number of annotations. outside: number of annotations
            outside valid regions or in regions to ignore. They are complete after ``table``.
    """

    def __init__(self, nusc: Tables, data: DataConfig, whole: bool) -> None:
        self.nusc = nusc
        self.dataroot = Path(nusc.dataroot)
        self.data = data
        self.whole = whole
        self.files = DatasetFiles(self.dataroot, data, whole)
        self.missing_sweeps: set[str] = set()
        self.unknown: Counter[str] = Counter()
        self.outside = 0
        self._regions = read_regions(Path(nusc.table_root), {sample["token"] for sample in nusc.sample})
        self._scenes: set[str] = set()  # scenes whose first LiDAR file was checked
        self._poses: dict[tuple[str, str], NDArray[np.float64]] = {}
        self._splits: dict[str, list[str]] = {}
        for split, scenes in scene_splits(nusc).items():
            for scene in scenes:
                self._splits.setdefault(scene, []).append(split)

    def table(self) -> pa.Table:
        """The rows of all keyframes, of INDEX_SCHEMA, or of REGION_SCHEMA if the dataset has regions.

        Raises:
            DataError: names the file or token, the value, the allowed values and the fix.
        """
        schema = REGION_SCHEMA if self._regions else INDEX_SCHEMA
        samples = self.nusc.sample
        chunks = [samples[start : start + CHUNK] for start in range(0, len(samples), CHUNK)]
        batches = [pa.RecordBatch.from_pylist(list(map(self.row, chunk)), schema=schema) for chunk in chunks]
        return pa.Table.from_batches(batches, schema=schema)

    def row(self, sample: dict[str, Any]) -> dict[str, Any]:
        """One row of INDEX_SCHEMA."""
        if LIDAR_TOP not in sample["data"]:
            raise DataError(
                f"sample {sample['token']}: has no LIDAR_TOP keyframe in sample_data.json; every sample needs one (has "
                f"{', '.join(sample['data']) or 'no keyframe at all'}; data.cameras maps own channel names, also that "
                "of the LiDAR)"
            )
        lidar = self.nusc.get("sample_data", sample["data"][LIDAR_TOP])
        lidar2ego, ego2global = self._lidar2ego(lidar), self._pose("ego_pose", lidar["ego_pose_token"])
        lidar2global = chain(lidar2ego, ego2global)
        scene = self.nusc.get("scene", sample["scene_token"])
        drive = self.nusc.get("log", scene["log_token"])
        self.files.check_lidar(lidar["filename"], look_into=scene["token"] not in self._scenes)
        self._scenes.add(scene["token"])
        row = {
            "sample_token": sample["token"],
            "scene_token": scene["token"],
            "scene_name": scene["name"],
            "log_token": drive["token"],
            "location": drive["location"],
            "splits": sorted(self._splits.get(scene["name"], [])),
            "timestamp_us": lidar["timestamp"],
            "lidar_path": lidar["filename"],
            "lidar2ego": lidar2ego.ravel(),
            "ego2global": ego2global.ravel(),
        }
        return (
            row
            | self._sweeps(lidar, lidar2global)
            | self._cameras(sample, lidar2global)
            | self._annotations(sample, lidar2global)
            | self._region_columns(sample["token"])
        )

    def _region_columns(self, token: str) -> dict[str, list | None]:
        if token not in self._regions:
            return {}
        found = self._regions[token]
        return dict(zip(REGION_COLUMNS, (write_lists(found.valid), write_lists(found.ignore)), strict=True))

    def _sweeps(self, lidar: dict[str, Any], lidar2global: NDArray[np.float64]) -> dict[str, list]:
        paths: list[str] = []
        transforms: list[NDArray] = []
        times: list[float] = []
        sweep = lidar
        while sweep["prev"] and len(paths) < MAX_SWEEPS:
            sweep = self._before(sweep)
            if not self.files.safe(sweep["filename"]).is_file():
                self.missing_sweeps.add(sweep["filename"])
                continue
            self.files.check_lidar(sweep["filename"])
            sweep2global = chain(self._lidar2ego(sweep), self._pose("ego_pose", sweep["ego_pose_token"]))
            paths.append(sweep["filename"])
            transforms.append(chain(sweep2global, inverse(lidar2global)).ravel())
            times.append(1e-6 * (lidar["timestamp"] - sweep["timestamp"]))
        return {"sweep_path": paths, "sweep2lidar": transforms, "sweep_dt_s": times}

    def _before(self, sweep: dict[str, Any]) -> dict[str, Any]:
        """The sweep that the field prev names, after checking that it is an earlier one of the same LiDAR."""
        earlier: dict[str, Any] = self.nusc.get("sample_data", sweep["prev"])
        if earlier["channel"] != sweep["channel"]:
            raise DataError(
                f"sample_data.json, token {sweep['token']}, field prev: {earlier['token']!r} is of "
                f"{earlier['channel']}, but must be an earlier row of {sweep['channel']}; mend the converter"
            )
        step_s = 1e-6 * (sweep["timestamp"] - earlier["timestamp"])
        if not STEP_S[0] <= step_s <= STEP_S[1]:
            raise DataError(
                f"sample_data.json, token {earlier['token']}, field timestamp: {earlier['timestamp']} is {step_s:g} s "
                f"before {sweep['timestamp']} of token {sweep['token']}, which names it in prev; allowed are "
                f"{STEP_S[0]:g} to {STEP_S[1]:g} s. Timestamps are whole microseconds, and prev is the scan before, of "
                'the same drive ("" where there is none); mend the converter'
            )
        return earlier

    def _cameras(self, sample: dict[str, Any], lidar2global: NDArray[np.float64]) -> dict[str, list]:
        paths: list[str | None] = []
        sizes: list[list[int]] = []
        matrices: list[NDArray] = []
        for channel in CAMERAS:
            if channel not in sample["data"]:
                paths.append(None)
                sizes.append([0, 0])
                matrices.append(np.zeros(16))
                continue
            camera = self.nusc.get("sample_data", sample["data"][channel])
            if not self.files.safe(camera["filename"]).is_file() and self.whole:
                raise DataError(
                    f"{self.dataroot / camera['filename']}: no such image ({channel} of sample {sample['token']})"
                )
            calibration = self.nusc.get("calibrated_sensor", camera["calibrated_sensor_token"])
            ego2cam = inverse(self._pose("calibrated_sensor", calibration["token"]))
            global2ego = inverse(self._pose("ego_pose", camera["ego_pose_token"]))
            try:
                lidar2img = compose_lidar2img(chain(lidar2global, global2ego, ego2cam), calibration["camera_intrinsic"])
            except ValueError as error:
                raise DataError(f"calibrated_sensor {calibration['token']} ({channel}): {error}") from error
            paths.append(camera["filename"])
            sizes.append([camera["width"], camera["height"]])
            matrices.append(lidar2img.ravel())
        return {"camera_path": paths, "camera_size_px": sizes, "lidar2img": matrices}

    def _annotations(self, sample: dict[str, Any], lidar2global: NDArray[np.float64]) -> dict[str, Any]:
        classes = self.data.class_list
        pairs = [(ann, classes.class_of(ann["category_name"])) for ann in map(self._annotation, sample["anns"])]
        self.unknown.update(ann["category_name"] for ann, name in pairs if name is None)
        mine = [(ann, classes.label_of[name]) for ann, name in pairs if name is not None]
        global2lidar = inverse(lidar2global)
        mine = self._within_regions(sample["token"], mine, global2lidar)
        for ann, _ in mine:
            numbers = np.array([*ann["translation"], *ann["size"], *ann["rotation"]], np.float64)
            if (
                numbers.shape != (10,)
                or not np.isfinite(numbers).all()
                or numbers[3:6].min() <= 0
                or not np.any(numbers[6:])
            ):
                raise DataError(
                    f"sample_annotation {ann['token']}: translation {ann['translation']}, size {ann['size']}, rotation "
                    f"{ann['rotation']}: all must be finite, sides > 0, the rotation a quaternion (w, x, y, z)"
                )
        center, size, yaw = from_nuscenes(
            np.array([ann["translation"] for ann, _ in mine]),
            np.array([ann["size"] for ann, _ in mine]),
            np.array([ann["rotation"] for ann, _ in mine]),
            global2lidar,
        )
        velocity = np.array([self.nusc.box_velocity(ann["token"]) for ann, _ in mine], np.float64).reshape(-1, 3)
        return {
            "ann_token": [ann["token"] for ann, _ in mine],
            "ann_label": [label for _, label in mine],
            "ann_box": list(np.concatenate([center, size, yaw[:, None]], 1)),
            "ann_velocity_m_s": list((velocity @ global2lidar[:3, :3].T)[:, :2]),
            LIDAR: [_count(ann["num_lidar_pts"]) for ann, _ in mine],
            RADAR: [_count(ann["num_radar_pts"]) for ann, _ in mine],
        }

    def _within_regions(
        self, token: str, mine: list[tuple[dict[str, Any], int]], global2lidar: NDArray[np.float64]
    ) -> list[tuple[dict[str, Any], int]]:
        if token not in self._regions or not mine:
            return mine
        center = apply(global2lidar, np.array([ann["translation"] for ann, _ in mine], np.float64))
        known = self._regions[token].known_at(center)
        self.outside += int((~known).sum())
        return [each for each, inside in zip(mine, known, strict=True) if inside]

    def _annotation(self, token: str) -> dict[str, Any]:
        return self.nusc.get("sample_annotation", token)

    def _lidar2ego(self, lidar: dict[str, Any]) -> NDArray[np.float64]:
        return self._pose("calibrated_sensor", lidar["calibrated_sensor_token"])

    def _pose(self, table: str, token: str) -> NDArray[np.float64]:
        if (table, token) not in self._poses:
            record = self.nusc.get(table, token)
            try:
                self._poses[table, token] = rigid(record["rotation"], record["translation"])
            except ValueError as error:
                raise DataError(f"{self.nusc.version}/{table}.json, token {token}: {error}") from error
        return self._poses[table, token]


def _count(points: Any) -> int:
    """A number of points as the index has it: -1 where the tables do not count."""
    return -1 if not_counted(points) else points
