"""From the nuScenes tables to the index: one row per keyframe, made once, by the devkit.

Every field is in the keyframe's LIDAR_TOP frame; transforms are composed in float64 through each sensor's own ego pose.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from nuscenes import NuScenes
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.splits import create_splits_scenes

from pdetr3d.data.index import INDEX_SCHEMA, write_index
from pdetr3d.data.load import check_lidar_size
from pdetr3d.geometry.boxes import from_nuscenes
from pdetr3d.geometry.camera import compose_lidar2img
from pdetr3d.geometry.rigid import chain, inverse, rigid
from pdetr3d.schema import CAMERAS, CLASSES, DataError

log = logging.getLogger(__name__)

TABLES = (
    "category attribute visibility instance sensor calibrated_sensor ego_pose "
    "log scene sample sample_data sample_annotation map"
).split()
CHUNK = 1000  # keyframes turned into Arrow at a time: bounds the Python objects alive
MAX_SWEEPS = 9  # earlier sweeps kept per keyframe; data.num_sweeps <= 10 counts the keyframe


def build_index(dataroot: Path, version: str, out: Path, *, whole: bool = True) -> Path:
    """Read the tables of ``dataroot/version`` and write the index to ``out`` (an Arrow file, atomic).

    The columns are documented at ``pdetr3d.data.index.INDEX_SCHEMA``. Annotations outside the ten classes are left out;
    those without LiDAR and radar points stay, told by their counts. Checked here, for every file a row names: it lies
    under ``dataroot``, exists, and a .pcd.bin holds whole points. A missing *earlier* sweep is dropped with a warning.
    ``whole=False`` leaves the latter two to a later check (``data.on_error=skip``).

    Raises:
        DataError: naming the file or token, the value, what is allowed and the fix.
    """
    dataroot = Path(dataroot).absolute()
    nusc = open_tables(dataroot, version)
    if cut := _cut_tracks(nusc):
        log.warning(
            "%s: %d annotations name a neighbor of their track that is not annotated: it gives them no velocity",
            dataroot / version,
            cut,
        )
    reader = _Reader(nusc, dataroot, whole)
    try:
        chunks = [nusc.sample[start : start + CHUNK] for start in range(0, len(nusc.sample), CHUNK)]
        batches = [
            pa.RecordBatch.from_pylist([reader.row(sample) for sample in chunk], schema=INDEX_SCHEMA)
            for chunk in chunks
        ]
    except KeyError as error:
        raise DataError(
            f"{dataroot / version}: a table refers to {error}, which is in no table; the tables are incomplete"
        ) from error
    if reader.missing_sweeps:
        log.warning(
            "%d sweep files are missing under %s; these sweeps are left out", len(reader.missing_sweeps), dataroot
        )
    write_index(Path(out), pa.Table.from_batches(batches, schema=INDEX_SCHEMA), dataroot, version)
    return Path(out)


def open_tables(dataroot: Path, version: str) -> NuScenes:
    """The devkit's view of a nuScenes-format folder.

    Raises:
        DataError: when the folder, the version, a table or what the tables refer to is missing or unreadable.
    """
    looks = "a nuScenes dataroot holds samples/, sweeps/, maps/ and a folder of 13 JSON tables such as v1.0-trainval/"
    if not dataroot.is_dir():
        raise DataError(f"data.dataroot {dataroot}: no such folder; {looks}")
    folder = dataroot / version
    if not folder.is_dir():
        found = sorted(path.parent.name for path in dataroot.glob("*/sample.json"))
        if not found:
            raise DataError(f"data.dataroot {dataroot}: no tables here; {looks}; missing: {version}/")
        raise DataError(f"data.version {version!r}: {dataroot} has no such folder; available: {', '.join(found)}")
    missing = [f"{name}.json" for name in TABLES if not (folder / f"{name}.json").is_file()]
    if missing:
        raise DataError(f"{folder}: tables missing: {', '.join(missing)}; {looks}")
    try:
        return NuScenes(version=version, dataroot=str(dataroot), verbose=False)
    except (KeyError, IndexError, AssertionError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: the devkit cannot read these tables ({type(error).__name__}: {error}); "
            "unpack the metadata archive again"
        ) from error


def _cut_tracks(nusc: NuScenes) -> int:
    """Let tracks end where the table of annotations has holes, as in datasets of which some frames are not annotated;
    returns how many annotations had a missing neighbor."""
    known, cut = {row["token"] for row in nusc.sample_annotation}, 0
    for row in nusc.sample_annotation:
        missing = [side for side in ("prev", "next") if row[side] and row[side] not in known]
        cut += bool(missing)
        row.update(dict.fromkeys(missing, ""))
    return cut


def scene_splits(nusc: NuScenes) -> dict[str, list[str]]:
    """Split name -> scene names: the devkit's own splits and those of ``splits.json`` beside the tables, if any.

    Raises:
        DataError: when splits.json is not an object of lists of strings.
    """
    splits: dict[str, list[str]] = dict(create_splits_scenes())
    path = Path(nusc.table_root) / "splits.json"
    if path.is_file():
        try:
            custom = json.loads(path.read_text())
        except ValueError as error:
            raise DataError(f"{path}: not JSON ({error})") from error
        valid = isinstance(custom, dict) and all(
            isinstance(scenes, list) and all(isinstance(scene, str) for scene in scenes) for scenes in custom.values()
        )
        if not valid:
            raise DataError(f'{path}: must be {{"split name": ["scene name", ...], ...}}')
        # As the devkit: a predefined name wins over one of splits.json.
        splits = custom | splits
    return splits


class _Reader:
    """Builds rows; keeps poses already composed: samples share calibrations, and keyframes share sweeps."""

    def __init__(self, nusc: NuScenes, dataroot: Path, whole: bool) -> None:
        self.nusc = nusc
        self.dataroot = dataroot
        self.whole = whole
        self.missing_sweeps: set[str] = set()
        self._inside: set[str] = set()  # files known to lie under the dataroot: a sweep is asked for ten times
        self._poses: dict[tuple[str, str], NDArray[np.float64]] = {}
        self._splits: dict[str, list[str]] = {}
        for split, scenes in scene_splits(nusc).items():
            for scene in scenes:
                self._splits.setdefault(scene, []).append(split)

    def row(self, sample: dict[str, Any]) -> dict[str, Any]:
        """One row of INDEX_SCHEMA."""
        if "LIDAR_TOP" not in sample["data"]:
            raise DataError(
                f"sample {sample['token']}: has no LIDAR_TOP keyframe in sample_data.json; every sample needs one"
            )
        lidar = self.nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        lidar2ego, ego2global = self._lidar2ego(lidar), self._pose("ego_pose", lidar["ego_pose_token"])
        lidar2global = chain(lidar2ego, ego2global)
        scene = self.nusc.get("scene", sample["scene_token"])
        drive = self.nusc.get("log", scene["log_token"])
        self._check_lidar(lidar["filename"])
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
        )

    def _sweeps(self, lidar: dict[str, Any], lidar2global: NDArray[np.float64]) -> dict[str, list]:
        paths: list[str] = []
        transforms: list[NDArray] = []
        times: list[float] = []
        sweep = lidar
        while sweep["prev"] and len(paths) < MAX_SWEEPS:
            sweep = self.nusc.get("sample_data", sweep["prev"])
            if not self._safe(sweep["filename"]).is_file():
                self.missing_sweeps.add(sweep["filename"])
                continue
            self._check_lidar(sweep["filename"])
            sweep2global = chain(self._lidar2ego(sweep), self._pose("ego_pose", sweep["ego_pose_token"]))
            paths.append(sweep["filename"])
            transforms.append(chain(sweep2global, inverse(lidar2global)).ravel())
            times.append(1e-6 * (lidar["timestamp"] - sweep["timestamp"]))
        return {"sweep_path": paths, "sweep2lidar": transforms, "sweep_dt_s": times}

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
            if not self._safe(camera["filename"]).is_file() and self.whole:
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
        pairs = [
            (ann, category_to_detection_name(ann["category_name"])) for ann in map(self._annotation, sample["anns"])
        ]
        kept = [(ann, CLASSES.index(name)) for ann, name in pairs if name is not None]
        global2lidar = inverse(lidar2global)
        for ann, _ in kept:
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
            np.array([ann["translation"] for ann, _ in kept]),
            np.array([ann["size"] for ann, _ in kept]),
            np.array([ann["rotation"] for ann, _ in kept]),
            global2lidar,
        )
        velocity = np.array([self.nusc.box_velocity(ann["token"]) for ann, _ in kept], np.float64).reshape(-1, 3)
        return {
            "ann_token": [ann["token"] for ann, _ in kept],
            "ann_label": [label for _, label in kept],
            "ann_box": list(np.concatenate([center, size, yaw[:, None]], 1)),
            "ann_velocity_m_s": list((velocity @ global2lidar[:3, :3].T)[:, :2]),
            "ann_num_lidar_pts": [ann["num_lidar_pts"] for ann, _ in kept],
            "ann_num_radar_pts": [ann["num_radar_pts"] for ann, _ in kept],
        }

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

    def _safe(self, filename: str) -> Path:
        """The file's absolute path; refuses names that leave the dataroot (crafted tables read no other files)."""
        parts = PurePosixPath(filename).parts + PureWindowsPath(filename).parts
        if PurePosixPath(filename).is_absolute() or PureWindowsPath(filename).drive or ".." in parts or not filename:
            raise DataError(
                f"sample_data.json, filename {filename!r}: path escapes dataroot; "
                "names must be relative to it, without '..'"
            )
        path = self.dataroot / filename
        if filename not in self._inside:
            # samples/ itself may be a link of the user's to another disk; what lies in it may not lead out again.
            folder = self.dataroot / PurePosixPath(filename).parts[0]
            if not path.resolve().is_relative_to(folder.resolve()):
                raise DataError(
                    f"sample_data.json, filename {filename!r}: a link that escapes dataroot, to {path.resolve()}; "
                    f"put the file itself there (only whole folders such as {folder.name}/ may be links)"
                )
            self._inside.add(filename)
        return path

    def _check_lidar(self, filename: str) -> None:
        path = self._safe(filename)
        if not self.whole:
            return
        if not path.is_file():
            raise DataError(
                f"{path}: no such LiDAR file, but sample_data.json names it; unpack the file blobs of this split"
            )
        check_lidar_size(path, path.stat().st_size)
