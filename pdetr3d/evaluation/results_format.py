"""Converts between Boxes3D and the nuScenes results format, and reads poses and ground truth from the tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nuscenes import NuScenes
from scipy.spatial.transform import Rotation

from pdetr3d.class_list import ClassList
from pdetr3d.data.storage.files import atomic_path
from pdetr3d.evaluation.attributes import attribute_of
from pdetr3d.geometry.boxes import from_nuscenes
from pdetr3d.geometry.rigid import apply, chain, inverse, rigid, yaw_of
from pdetr3d.json_files import read_json
from pdetr3d.schema import LIDAR_TOP, Boxes3D, DataError
from pdetr3d.tables.counts import has_points

MAX_BOXES_PER_SAMPLE = 500  # the devkit refuses more
Poses = tuple[NDArray[np.float64], NDArray[np.float64]]  # lidar2ego, ego2global, each (4, 4)
_META = {"use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}


def nuscenes_boxes(sample_token: str, boxes: Boxes3D, poses: Poses, classes: ClassList) -> list[dict[str, Any]]:
    """The ``sample_result`` entries of one sample: its best 500 boxes, best first.

    Args:
        sample_token: nuScenes token.
        boxes: in the LIDAR_TOP frame of the sample.
        poses: (lidar2ego, ego2global), (4, 4) each.
        classes: names of ``Boxes3D.label``.

    Returns:
        Entries in the global frame: translation [m], size (w, l, h) [m], quaternion (w, x, y, z), velocity (vx, vy)
        [m/s] with 0 for unknown (NaN), class, score, and the attribute of ``attributes.attribute_of``.
    """
    boxes = boxes[np.argsort(-boxes.score, kind="stable")[:MAX_BOXES_PER_SAMPLE]]
    if not len(boxes):
        return []
    lidar2global = chain(*poses)
    rotation = Rotation.from_matrix(lidar2global[:3, :3])
    center = apply(lidar2global, boxes.center_m)
    heading = Rotation.from_euler("z", boxes.yaw_rad[:, None].astype(np.float64))
    quaternion = (rotation * heading).as_quat()[:, [3, 0, 1, 2]]  # SciPy's (x, y, z, w) -> (w, x, y, z)
    speed = np.linalg.norm(boxes.velocity_m_s, axis=1)
    velocity = rotation.apply(np.column_stack([np.nan_to_num(boxes.velocity_m_s), np.zeros(len(boxes))]))[:, :2]
    wlh = boxes.size_m[:, [1, 0, 2]]
    return [
        {
            "sample_token": sample_token,
            "translation": center[i].tolist(),
            "size": wlh[i].tolist(),
            "rotation": quaternion[i].tolist(),
            "velocity": velocity[i].tolist(),
            "detection_name": classes.names[boxes.label[i]],
            "detection_score": float(boxes.score[i]),
            "attribute_name": attribute_of(classes.classes[boxes.label[i]], float(speed[i])),
        }
        for i in range(len(boxes))
    ]


def write_results(path: Path, results: Mapping[str, list[dict[str, Any]]], **meta: bool) -> None:
    """Write a nuScenes results file atomically.

    Args:
        results: sample token -> its entries (``nuscenes_boxes``).
        meta: those of the devkit's flags ``use_camera``, ``use_lidar``, ... that differ from a LiDAR detector's.
    """
    with results_file(path, **meta) as write:
        for token, entries in results.items():
            write(token, entries)


@contextmanager
def results_file(path: Path, **meta: bool) -> Iterator[Callable[[str, list[dict[str, Any]]], None]]:
    """``write_results`` one sample at a time: yields a function to call with each sample's token and entries."""
    first = True
    with atomic_path(path) as temporary, temporary.open("w") as stream:
        stream.write(f'{{"meta": {json.dumps({**_META, **meta})}, "results": {{')

        def write(token: str, entries: list[dict[str, Any]]) -> None:
            nonlocal first
            stream.write(f"{'' if first else ', '}{json.dumps(token)}: {json.dumps(entries)}")
            first = False

        yield write
        stream.write("}}")


def read_results(path: Path, poses: Mapping[str, Poses], classes: ClassList) -> dict[str, Boxes3D]:
    """Read a nuScenes results file as boxes in the LIDAR_TOP frames of the samples.

    Args:
        poses: sample token -> (lidar2ego, ego2global), for every sample that the file must contain; other samples are
            left out.
        classes: that ``detection_name`` may name.

    Raises:
        DataError: when the file is no results file, lacks a sample, or a box does not have the format.
    """
    results = read_samples(path, list(poses))
    return {token: _boxes(path, token, results[token], pose, classes) for token, pose in poses.items()}


def read_samples(path: Path, tokens: Sequence[str]) -> dict[str, Any]:
    """Read a nuScenes results file's entries by sample token, without checking the entries.

    Args:
        tokens: of the samples that the file must contain.

    Raises:
        DataError: when the file is no results file, or lacks a sample.
    """
    value = read_json(path, "it is no nuScenes results file, which holds meta and results")
    results = value.get("results") if isinstance(value, dict) else None
    if not isinstance(results, dict):
        raise DataError(
            f'{path}: no nuScenes results file: it must hold "meta", and "results" with the list of boxes of each '
            "sample token"
        )
    missing = [token for token in tokens if token not in results]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(tokens)} samples of the split are missing, e.g. {missing[0]}; a sample "
            "without boxes needs an empty list"
        )
    return results


def _boxes(path: Path, token: str, rows: list[dict[str, Any]], poses: Poses, classes: ClassList) -> Boxes3D:
    if not rows:
        return Boxes3D.empty()
    try:
        columns = [np.array([row[key] for row in rows], np.float64) for key in ("translation", "size", "rotation")]
        classes.refuse_unknown({row["detection_name"] for row in rows}, f"{path}, sample {token}")
        label = [classes.label_of[row["detection_name"]] for row in rows]
        score = np.array([row["detection_score"] for row in rows], np.float64)
        center, size, yaw = from_nuscenes(columns[0], columns[1], columns[2], inverse(chain(*poses)))
        return Boxes3D.build(center, size, yaw, np.array(label), score=score)
    except DataError:
        raise
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}, sample {token}: a box is not of nuScenes' results format ({error!r})") from error


def read_poses(nusc: NuScenes, sample_tokens: list[str]) -> dict[str, Poses]:
    """Sample token -> (lidar2ego, ego2global), (4, 4) each, of its LIDAR_TOP keyframe, from the nuScenes tables."""
    poses = {}
    for token in sample_tokens:
        data = nusc.get("sample_data", nusc.get("sample", token)["data"][LIDAR_TOP])
        sensor = nusc.get("calibrated_sensor", data["calibrated_sensor_token"])
        ego = nusc.get("ego_pose", data["ego_pose_token"])
        poses[token] = (rigid(sensor["rotation"], sensor["translation"]), rigid(ego["rotation"], ego["translation"]))
    return poses


def ground_truth_boxes(nusc: NuScenes, sample_token: str, poses: Poses, classes: ClassList) -> Boxes3D:
    """One sample's annotations of the classes with a LiDAR or radar point, as boxes in its LIDAR_TOP frame.

    These are the objects that the devkit scores, before its range filter. The velocity [m/s] is that of
    ``NuScenes.box_velocity``, rotated into the LIDAR_TOP frame.
    """
    global2lidar = inverse(chain(*poses))
    rows = []
    for annotation_token in nusc.get("sample", sample_token)["anns"]:
        row = nusc.get("sample_annotation", annotation_token)
        name = classes.class_of(row["category_name"])
        if name is None or not has_points(row["num_lidar_pts"], row["num_radar_pts"]):
            continue
        box2lidar = chain(rigid(row["rotation"], row["translation"]), global2lidar)
        velocity = global2lidar[:3, :3] @ nusc.box_velocity(annotation_token)
        width, length, height = row["size"]
        rows.append(
            (box2lidar[:3, 3], (length, width, height), yaw_of(box2lidar), classes.label_of[name], velocity[:2])
        )
    if not rows:
        return Boxes3D.empty()
    center, size, yaw, label, velocities = (np.array(column) for column in zip(*rows, strict=True))
    return Boxes3D.build(center, size, yaw, label, velocity_m_s=velocities)
