"""Converts a request to a deployed student, points or LiDAR files with their motion, to a ``Sample``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pdetr3d.config import DataConfig
from pdetr3d.data.loading.load import load_sample
from pdetr3d.finished.deploy.contract import refuse_no_ages
from pdetr3d.schema import CAMERAS, Boxes3D, DataError, PointLabels, Sample, SampleRecord, SweepRecord

SWEEP_KEYS = {"path", "sweep2lidar", "dt_s"}


def to_sample(row: Mapping[str, Any], name: str, data: DataConfig) -> Sample:
    """Convert one sample of a request.

    Args:
        row: either ``points``, (P, 5) numbers x, y, z [m], intensity [0..255], dt [s] in the keyframe's LIDAR_TOP
            frame; or ``sweeps``, a list of {path, sweep2lidar, dt_s}, newest first: .pcd.bin files in nuScenes' format,
            each with its motion (4, 4) into the keyframe's frame and its age. The first is the keyframe itself, which
            needs neither motion nor age. Of the further sweeps the first ``data.num_sweeps - 1`` are read, as in
            training. (A server reads any file that its callers name: offer ``points`` alone to strangers.)
        name: used in messages, and as the sample's token.
        data: of the student's config.

    Raises:
        DataError: names the sample and its fault.
    """
    points, sweeps = row.get("points"), row.get("sweeps")
    if (points is None) == (sweeps is None):
        raise DataError(f"sample {name} has the keys {sorted(row)}: give either points or sweeps")
    if points is None:
        data = data.model_copy(update={"packed": ""})  # the training's pack does not contain a caller's files
        return load_sample(_record(name, [_sweep(sweep, name) for sweep in row["sweeps"]]), data, cameras=False)
    return Sample(
        record=_record(name, [SweepRecord("", np.eye(4), 0.0)]),
        points=_points(points, name),
        images=np.zeros((0, 0, 0, 3), np.uint8),
        lidar2img=np.tile(np.eye(4), (len(CAMERAS), 1, 1)),
        camera_valid=np.zeros(len(CAMERAS), bool),
        boxes=Boxes3D.empty(),
        clicks=PointLabels.empty(),
        augmentation=np.eye(4),
    )


def _points(value: Any, name: str) -> NDArray[np.float32]:
    # Arrow gives an array of arrays, which only a list of them converts to a table.
    rows = list(value) if isinstance(value, np.ndarray) and value.dtype.hasobject else value
    try:
        points = np.asarray(rows, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"sample {name}: points are no table of numbers ({error})") from error
    if points.size == 0:
        return np.zeros((0, 5), np.float32)
    if points.ndim != 2 or points.shape[1] != 5 or not np.isfinite(points).all():
        raise DataError(
            f"sample {name}: points have shape {points.shape}; they must be (P, 5), finite: x, y, z, intensity, dt"
        )
    try:
        refuse_no_ages(torch.tensor(points))
    except ValueError as error:
        raise DataError(f"sample {name}: {error}") from error
    return points


def _sweep(value: Any, name: str) -> SweepRecord:
    if not isinstance(value, Mapping) or "path" not in value or set(value) - SWEEP_KEYS:
        raise DataError(f"sample {name}: a sweep is {value!r}; it must have path, and may have sweep2lidar and dt_s")
    motion = value.get("sweep2lidar")
    try:
        sweep2lidar = np.eye(4) if motion is None else np.array([list(row) for row in motion], np.float64)
        age = float(value.get("dt_s") or 0.0)
    except (TypeError, ValueError) as error:
        raise DataError(f"sample {name}: sweep {value['path']}: no numbers ({error})") from error
    if sweep2lidar.shape != (4, 4) or not np.isfinite(sweep2lidar).all() or not age >= 0:
        raise DataError(
            f"sample {name}: sweep {value['path']}: sweep2lidar must be 4 x 4 finite numbers and dt_s at least 0, got "
            f"{sweep2lidar.tolist()} and {age}"
        )
    return SweepRecord(str(value["path"]), sweep2lidar, age)


def _record(name: str, sweeps: list[SweepRecord]) -> SampleRecord:
    if not sweeps:
        raise DataError(f"sample {name}: sweeps is empty; its first entry must be the keyframe")
    first, *earlier = sweeps
    if first.dt_s or not np.array_equal(first.sweep2lidar, np.eye(4)):
        raise DataError(
            f"sample {name}: the first sweep is the keyframe, whose frame all boxes are in: leave out its sweep2lidar "
            "and dt_s, or set them to the identity and 0"
        )
    return SampleRecord(
        sample_token=name,
        scene_token="",
        timestamp_us=0,
        role="unlabeled",
        lidar_path=first.path,
        sweeps=tuple(earlier),
        cameras=(None,) * len(CAMERAS),
        lidar2ego=np.eye(4),
        ego2global=np.eye(4),
        boxes=Boxes3D.empty(),
        clicks=PointLabels.empty(),
    )
