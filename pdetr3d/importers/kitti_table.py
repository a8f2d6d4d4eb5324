"""Writes KITTI's original labels beside the tables (``VERSION/kitti_labels.parquet``), for KITTI's own score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pdetr3d.data.storage.files import write_parquet
from pdetr3d.evaluation.kitti_score import LABELS
from pdetr3d.importers.kitti_files import Calibration, Labels

# One row per line of label_2. The box is in LIDAR_TOP [m, rad]; boxes of DontCare are meaningless.
NUMBERS = ("truncated", "alpha_rad", "left_px", "top_px", "right_px", "bottom_px", *"xyzlwh", "yaw_rad")
SCHEMA = pa.schema(
    [
        ("sample_token", pa.string()),
        ("line", pa.int64()),
        ("kind", pa.string()),
        ("occluded", pa.int64()),
        *((name, pa.float64()) for name in NUMBERS),
    ]
)


def write_labels(folder: Path, labels: Sequence[tuple[str, Labels, Calibration]]) -> None:
    """Write the labels of all frames, (sample token, labels, calibration) each, to ``folder``."""
    rows = []
    for token, mine, calibration in labels:
        boxes = mine.boxes(calibration)
        for i, kind in enumerate(mine.kind):
            numbers = [mine.truncated[i], mine.alpha_rad[i], *mine.rectangle_px[i], *boxes[i]]
            row = {"sample_token": token, "line": int(mine.line[i]), "kind": kind, "occluded": int(mine.occluded[i])}
            rows.append(row | dict(zip(NUMBERS, map(float, numbers), strict=True)))
    write_parquet(folder / LABELS, pa.Table.from_pylist(rows, schema=SCHEMA))
