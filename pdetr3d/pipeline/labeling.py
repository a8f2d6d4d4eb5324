"""Writes the file of pseudo labels from a teacher's boxes at clicks, some scenes at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from pdetr3d.class_list import ClassList
from pdetr3d.data.labels.pseudo_table import PseudoLabelWriter
from pdetr3d.data.loading.record_list import Records
from pdetr3d.pseudo_labels import with_track_velocity
from pdetr3d.schema import Boxes3D, SampleRecord

PIECE = 1024  # least number of samples in memory; the rest of the last scene is added


def write_labels(
    file: Path,
    records: Records,
    boxes: Mapping[str, Boxes3D],
    rows_of: Callable[[list[SampleRecord], list[Boxes3D]], pd.DataFrame],
    track_of: Mapping[str, str],
    classes: ClassList,
) -> tuple[int, int]:
    """Write pseudo_labels.parquet. Clicks of a track get the velocity of their boxes.

    Args:
        file: the path. records: samples with clicks. boxes: sample token -> one box per click. rows_of: samples and
            their boxes -> rows (``pseudo_label_rows``). track_of: click_id -> track_id. classes: of the labels.

    Returns:
        Numbers of rows and of accepted rows.
    """
    with PseudoLabelWriter(file, classes) as writer:
        for piece in scenes(records):
            rows = rows_of(piece, [boxes[record.sample_token] for record in piece])
            writer.add(with_track_velocity(rows, track_of, piece))
    return writer.rows, writer.accepted


def scenes(records: Records) -> Iterator[list[SampleRecord]]:
    """Split the records into parts of whole scenes, since a track lies within a scene."""
    tokens = records.table.rows.table["scene_token"].take(records.row)
    scene = pc.rank(tokens, tiebreaker="dense").to_numpy()
    order = np.argsort(scene, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(scene[order]) != 0]) if len(order) else np.zeros(0, np.int64)
    del tokens, scene  # they are of the whole split's size
    start = 0
    for stop in [*first[1:].tolist(), len(order)]:
        if stop - start >= PIECE or (stop == len(order) and stop > start):
            yield [records[int(place)] for place in order[start:stop]]
            start = stop
