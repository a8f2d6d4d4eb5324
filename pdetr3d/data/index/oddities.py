"""Warnings of a dataset that is indexed all the same: one sentence each, without the dataset's folder."""

from __future__ import annotations

import pyarrow as pa

from pdetr3d.class_list import ClassList
from pdetr3d.data.index.point_counts import usually_empty
from pdetr3d.data.index.row_reader import RowReader
from pdetr3d.data.index.shapes import headings_askew, sizes_askew
from pdetr3d.schema import CAMERAS
from pdetr3d.tables.loaded import Tables
from pdetr3d.tables.names import IGNORED


def odd_tables(nusc: Tables) -> list[str]:
    """Tracks that are cut, cameras that are not used, and what else is ``unlikely``."""
    lines = []
    if nusc.cut_tracks:
        lines.append(
            f"{nusc.cut_tracks} annotations name a neighbor of their track that is not annotated: they get no "
            "velocity from it"
        )
    own = [row["channel"] for row in nusc.sensor if row["modality"] == "camera" and row["channel"] not in CAMERAS]
    if own := sorted(name for name in own if not name.startswith(IGNORED)):
        lines.append(
            f"cameras of other names than nuScenes' are not used: {', '.join(own)}; data.cameras=FILE maps names, or "
            "null"
        )
    return lines + nusc.unlikely


def odd_files(reader: RowReader) -> list[str]:
    """Files that are missing, links or short, after all rows were read."""
    lines = []
    if reader.missing_sweeps:
        lines.append(f"{len(reader.missing_sweeps)} sweep files are missing; these sweeps are left out")
    if reader.files.links:
        lines.append(f"data.follow_links=true: {len(reader.files.links)} files are links that leave {reader.dataroot}")
    return lines + [words for words in (reader.files.short_words(), reader.files.dim_words()) if words]


def odd_boxes(table: pa.Table, classes: ClassList) -> list[str]:
    """Boxes of other sizes, headings or places than usual. Args: table: of INDEX_SCHEMA, with counted points."""
    return [line for line in (*sizes_askew(table, classes), headings_askew(table), usually_empty(table)) if line]
