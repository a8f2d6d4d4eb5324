"""Writes predicted boxes as a table (.parquet, .csv) or as JSON (a nuScenes results file for an indexed split)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pdetr3d.class_list import ClassList
from pdetr3d.data.storage.files import atomic_path, refuse_existing
from pdetr3d.evaluation.results_format import nuscenes_boxes, write_results
from pdetr3d.finished.deploy.box_rows import COLUMNS, DTYPES, join_frames, to_frame
from pdetr3d.inference.frames import Frame, RecordFrame
from pdetr3d.schema import Boxes3D, DataError

SUFFIXES = (".parquet", ".json", ".csv")
MEANING = {
    "frame": "LIDAR_TOP of the keyframe, with the axes of the training data (nuScenes: x right, y forward, z up)",
    "x, y, z": "center of the box [m]",
    "l, w, h": "length along the heading, width, height [m]",
    "yaw": "heading [rad], counter-clockwise about z from +x",
    "vx, vy": "velocity over ground [m/s]; null: unknown",
    "score": "0..1",
}
_TYPES = {"object": pa.string(), "float64": pa.float64()}
SCHEMA = pa.schema([(name, _TYPES[DTYPES[name]]) for name in COLUMNS], metadata=MEANING)


def check_out(out: Path, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Check that ``out`` can be written.

    Raises:
        DataError: for an unknown suffix, a missing folder, or a path that exists already.
    """
    if out.suffix.lower() not in suffixes:
        raise DataError(f"--out {out}: suffix {out.suffix!r}; allowed are {', '.join(suffixes)}")
    if not out.parent.is_dir():
        raise DataError(f"--out {out}: the folder {out.parent} does not exist; make it, or name another")
    refuse_existing(out)


class BoxWriter:
    """Collects the boxes of frames, and writes them at the end: atomically, or not at all.

    Args:
        out: the file to write. classes: names of ``Boxes3D.label``.

    Raises:
        DataError: as ``check_out``.
    """

    def __init__(self, out: Path, classes: ClassList) -> None:
        check_out(out)
        self.classes = classes
        self.out, self.kind = out, out.suffix.lower()
        self.frames: list[pd.DataFrame] = []
        self.samples: dict[str, Any] = {}
        self.of_index = False

    def add(self, frame: Frame, boxes: Boxes3D) -> None:
        """Add the boxes of one frame, in its LIDAR_TOP frame."""
        if self.kind != ".json":
            self.frames.append(to_frame(boxes, frame.name, self.classes))
        elif isinstance(frame, RecordFrame):
            poses = (frame.record.lidar2ego, frame.record.ego2global)
            self.samples[frame.name], self.of_index = nuscenes_boxes(frame.name, boxes, poses, self.classes), True
        else:
            rows = to_frame(boxes, frame.name, self.classes).drop(columns="sample")
            self.samples[frame.name] = json.loads(rows.to_json(orient="records", double_precision=7))

    def write(self) -> None:
        """Write ``out``."""
        if self.kind == ".parquet":
            write_table(self.out, join_frames(self.frames))
        elif self.of_index:
            write_results(self.out, self.samples)
        else:
            with atomic_path(self.out) as temporary:
                if self.kind == ".csv":
                    join_frames(self.frames).to_csv(temporary, index=False, float_format="%.6f")
                else:
                    temporary.write_text(json.dumps({"meaning": MEANING, "samples": self.samples}, allow_nan=False))


def write_table(file: Path, rows: pd.DataFrame) -> None:
    """Write rows with the columns ``box_rows.COLUMNS`` as a Parquet file, atomically."""
    with atomic_path(file) as temporary:
        pq.write_table(pa.Table.from_pandas(rows, schema=SCHEMA, preserve_index=False), temporary)


def picture_name(name: str) -> str:
    """The file name of a frame's picture; ``name``: of the frame."""
    return name.strip("/").replace("/", "_") + ".png"
