"""Makes boxes from people's clicks by a trained teacher (``pdetr3d boxes``), without training."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pdetr3d.class_list import ClassList
from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.human_clicks import read_clicks
from pdetr3d.data.storage.files import atomic_path, file_digest
from pdetr3d.evaluation.results_format import nuscenes_boxes, write_results
from pdetr3d.inference.teacher import TeacherPredictor
from pdetr3d.pseudo_labels import COLUMNS, to_pseudo_labels
from pdetr3d.schema import BOX_COLUMNS, Boxes3D, PointLabels, SampleRecord

ROW = "row"  # of the click in its file, from 1
MEANING = {
    "frame": "LIDAR_TOP of the sample's keyframe (nuScenes: x right, y forward, z up)",
    "x, y, z": "center of the box [m]",
    "l, w, h": "length along the heading, width, height [m]",
    "yaw": "heading [rad], counter-clockwise about z from +x",
    "score": "BEV IoU that the teacher expects",
    "direction": "probability that the object heads along yaw, not the opposite way; trust its order, not its value",
    "accepted, reason": "whether the box may be used for training, and why not; or that it was moved onto its click",
}


class ClickBoxes:
    """Makes a teacher's boxes for the clicks of a file.

    Args:
        teacher: makes the boxes. index: of the samples that the clicks name.
        file: clicks in the format of ``pdetr3d label --import``.

    Raises:
        DataError: for bad rows of the file (one message names all); for a teacher of other classes than the index.
    """

    def __init__(self, teacher: TeacherPredictor, index: Index, file: Path) -> None:
        index.classes.refuse_other(teacher.config.classes, teacher.file, index.path)
        self.teacher, self.index = teacher, index
        found = read_clicks(index, None, file)
        self.row_of = found.row_of
        self.clicks: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for click in found.clicks:
            self.clicks[click["sample_token"]].append(click)
        self.digest = file_digest(teacher.file)
        self.parts: list[pd.DataFrame] = []
        self.results: dict[str, list[dict[str, Any]]] = {}

    def __len__(self) -> int:
        """The number of samples with clicks."""
        return len(self.clicks)

    def predict(self) -> Iterator[str]:
        """Make the boxes sample by sample; yields the token of each finished sample.

        Raises:
            DataError: when a sample's file cannot be read.
        """
        for token, clicks in self.clicks.items():
            record = dataclasses.replace(self.index.record(token), clicks=_labels(clicks, self.index.classes))
            boxes = self.teacher.boxes(record, record.clicks.xyz_m, record.clicks.label)
            config = self.teacher.config
            rows = to_pseudo_labels(
                record,
                boxes,
                self.teacher.prior_size_m,
                self.digest,
                config.model.range_m,
                snap=config.label.snap,
                classes=config.classes,
            )
            self.parts.append(rows.assign(**{ROW: [self.row_of[click["click_id"]] for click in clicks]}))
            self.results[token] = _result(record, rows, self.index.classes)
            yield token

    @property
    def table(self) -> pd.DataFrame:
        """One row per click, in the order of the file: the columns of pseudo_labels.parquet, and ROW."""
        whole = pd.concat(self.parts, ignore_index=True) if self.parts else pd.DataFrame(columns=[*COLUMNS, ROW])
        return whole.sort_values(ROW, ignore_index=True)

    def write(self, out: Path) -> None:
        """Write atomically: the table (.parquet, .csv), or the accepted boxes as a nuScenes results file (.json)."""
        if out.suffix.lower() == ".json":
            camera = self.teacher.config.teacher.cameras
            write_results(out, self.results, use_camera=camera, use_external=True)  # the clicks are external data
            return
        with atomic_path(out) as temporary:
            if out.suffix.lower() == ".csv":
                self.table.to_csv(temporary, index=False, float_format="%.6f")
            else:
                table = pa.Table.from_pandas(self.table, preserve_index=False)
                pq.write_table(table.replace_schema_metadata({"meaning": json.dumps(MEANING)}), temporary)


def _labels(clicks: list[dict[str, Any]], classes: ClassList) -> PointLabels:
    """The clicks of one sample; their boxes are unknown."""
    return PointLabels(
        click_id=np.array([click["click_id"] for click in clicks], object),
        xyz_m=np.array([[click[axis] for axis in "xyz"] for click in clicks], np.float64).reshape(-1, 3),
        label=np.array([classes.label_of[click["class"]] for click in clicks], np.int64),
        box_index=np.full(len(clicks), -1),
    )


def _result(record: SampleRecord, rows: pd.DataFrame, classes: ClassList) -> list[dict[str, Any]]:
    """The accepted boxes of a sample as entries of a results file."""
    good = rows[rows["accepted"]]
    box = good[list(BOX_COLUMNS)].to_numpy(np.float32)
    label = [classes.label_of[name] for name in good["class"]]
    boxes = Boxes3D.build(box[:, :3], box[:, 3:6], box[:, 6], np.array(label, np.int64), score=good["score"].to_numpy())
    return nuscenes_boxes(record.sample_token, boxes, (record.lidar2ego, record.ego2global), classes)
