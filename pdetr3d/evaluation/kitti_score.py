"""Scores boxes that were predicted on an imported KITTI dataset as KITTI does (``kitti_ap.py``)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pdetr3d.class_list import ClassList
from pdetr3d.evaluation.kitti_ap import IOU, METRICS, Detected, Labeled, kitti_ap
from pdetr3d.geometry.boxes import EDGES, corners
from pdetr3d.geometry.camera import project_segments
from pdetr3d.schema import Boxes3D, CameraRecord, DataError

LABELS = "kitti_labels.parquet"  # KITTI's labels, which the import writes to the folder of the tables
FACTS = "import.json"  # the import's settings, in the same folder
DONT_CARE = "DontCare"  # KITTI's type of a region without labels


def has_kitti_labels(folder: Path) -> bool:
    """Whether a folder of tables (``dataroot/version``) was imported from KITTI."""
    return (folder / LABELS).is_file()


def kitti_score(
    folder: Path,
    predictions: Mapping[str, Boxes3D],
    cameras: Mapping[str, CameraRecord | None],
    classes: ClassList,
) -> dict[str, Any]:
    """Score boxes as KITTI does.

    Args:
        folder: of the tables, ``dataroot/version``.
        predictions: sample token -> boxes in the LIDAR_TOP frame, for every sample to score.
        cameras: sample token -> CAM_FRONT. Boxes outside its image are left out, because KITTI's annotators labeled
            only objects in the image.
        classes: names of ``Boxes3D.label``.

    Returns:
        As ``kitti_ap``, for those of KITTI's classes that the import mapped to one of ``classes``.

    Raises:
        DataError: when the dataset has no KITTI labels, or a sample has no CAM_FRONT.
    """
    if not has_kitti_labels(folder):
        raise DataError(
            f"{folder / LABELS}: no such file; KITTI's score needs a dataset that pdetr3d import kitti wrote"
        )
    categories = json.loads((folder / FACTS).read_text())["categories"]  # KITTI's type -> category of the tables
    kind_of = {name: kind for kind in IOU if (name := classes.class_of(categories.get(kind, ""))) is not None}
    labels = pq.read_table(folder / LABELS).to_pandas()
    labels = dict(tuple(labels[labels["kind"] != DONT_CARE].groupby("sample_token")))
    frames = []
    for token, boxes in predictions.items():
        camera = cameras[token]
        if camera is None:
            raise DataError(f"sample {token}: has no CAM_FRONT, which KITTI's score needs; import the dataset again")
        frames.append(
            (_labeled(labels.get(token)), _detected(boxes, camera, [kind_of.get(name, "") for name in classes.names]))
        )
    report = kitti_ap(frames)
    return {kind: report[kind] for kind in report if kind in kind_of.values()}


def show_kitti(report: Mapping[str, Any], whose: str = "") -> None:
    """Print ``kitti_score``'s report as a table; ``whose`` names the detector in its title."""
    table = Table(title=f"{whose} KITTI: AP at 40 recall points [%], easy / moderate / hard")
    for column in ("class", "IoU", *METRICS, "objects"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for kind, mine in report.items():
        cells = [" / ".join("-" if v is None else f"{v:.2f}" for v in mine[metric].values()) for metric in METRICS]
        table.add_row(kind, f"{IOU[kind]:g}", *cells, " / ".join(str(count) for count in mine["n_gt"].values()))
    Console().print(table)


def _labeled(rows: Any) -> Labeled:
    if rows is None:
        return Labeled(np.zeros(0, str), np.zeros(0), np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 7)))
    return Labeled(
        kind=rows["kind"].to_numpy(str),
        height_px=(rows["bottom_px"] - rows["top_px"]).to_numpy(np.float64),
        occluded=rows["occluded"].to_numpy(np.int64),
        truncated=rows["truncated"].to_numpy(np.float64),
        box=rows[[*"xyzlwh", "yaw_rad"]].to_numpy(np.float64),
    )


def _detected(boxes: Boxes3D, camera: CameraRecord, kinds: Sequence[str]) -> Detected:
    height = image_heights(boxes.rows.astype(np.float64), camera)
    kind = np.array([kinds[label] for label in boxes.label], str).reshape(len(boxes))
    keep = (height > 0) & (kind != "")
    return Detected(kind[keep], height[keep], boxes.score[keep].astype(np.float64), boxes.rows[keep].astype(np.float64))


def image_heights(box: NDArray[np.float64], camera: CameraRecord) -> NDArray[np.float64]:
    """Heights (N,) [px] of ``image_rectangles``; 0 for a box outside."""
    left, top, right, bottom = image_rectangles(box, camera).T
    return np.where(right > left, bottom - top, 0.0)


def image_rectangles(box: NDArray[np.float64], camera: CameraRecord) -> NDArray[np.float64]:
    """Rectangles (N, 4) left, top, right, bottom [px] around projected boxes (N, 7), clipped to the image.

    A box outside has a rectangle without area. Of a box that reaches behind the camera the part in front counts.
    """
    rectangles = np.zeros((len(box), 4))
    size = np.array([camera.width_px, camera.height_px], np.float64)
    for number, each in enumerate(corners(box[:, :3], box[:, 3:6], box[:, 6])):
        pixels = project_segments(camera.lidar2img, each[EDGES]).reshape(-1, 2)
        if len(pixels):
            rectangles[number] = *np.clip(pixels.min(0), 0, size), *np.clip(pixels.max(0), 0, size)
    return rectangles
