"""Labels of self-training, a rival method without clicks: a student's own boxes, stored in a file of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pdetr3d.class_list import ClassList
from pdetr3d.data.storage.files import read_parquet, write_parquet
from pdetr3d.schema import BOX_COLUMNS, BOXES_KNOWN, SOURCE_PSEUDO, Boxes3D, DataError, PointLabels, SampleRecord

_NUMBERS = [*BOX_COLUMNS, "score"]
# Boxes as in Boxes3D, in the keyframe's LIDAR_TOP frame. They belong to no click.
SELF_SCHEMA = pa.schema(
    [("sample_token", pa.string()), *((name, pa.float64()) for name in _NUMBERS), ("class", pa.string())]
)


def write_self_labels(path: Path, boxes: Mapping[str, Boxes3D], threshold: float, classes: ClassList) -> int:
    """Write the boxes (sample_token -> boxes) whose score exceeds ``threshold`` atomically, and return their number.

    Velocities are left out, as in the teacher's pseudo labels: only people's boxes have them.
    """
    frames = [pd.DataFrame(columns=SELF_SCHEMA.names)]
    for token in sorted(boxes):
        sure = boxes[token][boxes[token].score > threshold]
        frame = pd.DataFrame(np.column_stack([sure.rows, sure.score]), columns=_NUMBERS)
        frames.append(frame.assign(sample_token=token, **{"class": [classes.names[i] for i in sure.label]}))
    table = pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
    write_parquet(path, pa.Table.from_pandas(table[SELF_SCHEMA.names], schema=SELF_SCHEMA, preserve_index=False))
    return len(table)


def read_self_labels(path: Path, classes: ClassList) -> Mapping[str, Boxes3D]:
    """Read a file of ``write_self_labels``: sample_token -> boxes, without samples that have no box.

    Raises:
        DataError: when the file is missing, has other columns, or a row is no valid box.
    """
    table = read_parquet(path, SELF_SCHEMA).to_pandas()
    try:
        classes.refuse_unknown(set(table["class"]), "a row")
        return {str(token): _build(rows, classes) for token, rows in table.groupby("sample_token", sort=False)}
    except ValueError as error:  # an unknown class, a number that is not finite, a side of 0 m
        raise DataError(f"{path}: {error}; remove its folder and train the arm self_training again") from error


def _build(rows: pd.DataFrame, classes: ClassList) -> Boxes3D:
    numbers = rows[_NUMBERS].to_numpy(float)
    label = np.array([classes.label_of[name] for name in rows["class"]])
    return Boxes3D.build(
        numbers[:, :3], numbers[:, 3:6], numbers[:, 6], label, score=numbers[:, 7], source=SOURCE_PSEUDO
    )


def without_clicks(records: Sequence[SampleRecord]) -> list[SampleRecord]:
    """Copies of the records without clicks."""
    return [replace(record, clicks=PointLabels.empty()) for record in records]


def self_labeled(records: Sequence[SampleRecord], labels: Mapping[str, Boxes3D]) -> list[SampleRecord]:
    """Records of self-training, without clicks: samples whose boxes are all known keep them, others get ``labels``."""
    return [
        record
        if record.role in BOXES_KNOWN
        else replace(record, boxes=labels.get(record.sample_token, Boxes3D.empty()))
        for record in without_clicks(records)
    ]


def half_labeled(labeled: Sequence[SampleRecord], others: Sequence[SampleRecord]) -> list[SampleRecord]:
    """All records, with the smaller group repeated to the size of the larger, for a mean teacher's mixed batches."""
    count = max(len(labeled), len(others)) if len(labeled) and len(others) else 0
    repeated = [group[i % len(group)] for group in (labeled, others) for i in range(count)]
    return repeated or [*labeled, *others]
