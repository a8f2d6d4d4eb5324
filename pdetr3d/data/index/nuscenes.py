"""Builds the index of a dataset with nuScenes tables: reads its rows, checks them, and writes the file."""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa

from pdetr3d.config import DataConfig
from pdetr3d.data.index.agreement import boxes_too_low, refuse_other_points
from pdetr3d.data.index.annotations import kept
from pdetr3d.data.index.empty import refuse_empty
from pdetr3d.data.index.facts import IndexFacts
from pdetr3d.data.index.index import write_index
from pdetr3d.data.index.oddities import odd_boxes, odd_files, odd_tables
from pdetr3d.data.index.point_counts import count_points
from pdetr3d.data.index.row_reader import RowReader
from pdetr3d.data.storage.files import refuse_other_file
from pdetr3d.data.storage.points import NUSCENES
from pdetr3d.tables.loaded import Tables
from pdetr3d.tables.names import Names

log = logging.getLogger(__name__)


def build_index(dataroot: Path, version: str, out: Path, data: DataConfig = NUSCENES, *, whole: bool = True) -> Path:
    """Read the tables of ``dataroot/version`` and write the index to ``out`` (an Arrow file, atomic).

    ``INDEX_SCHEMA`` (``rows.py``) documents the columns. Annotations whose category has no class are left out and
    counted, as are those whose center lies outside a valid region or in a region to ignore (``regions.parquet``).
    Annotations without LiDAR and radar points stay; their counts are 0. Points that the tables do not count are
    counted here (``count_points``). These checks are made: the fields that indexing and scoring need; every file of a
    row lies under ``dataroot`` and exists; a .pcd.bin holds whole points; the numbers of each scene's first LiDAR file
    fit its layout. A missing *earlier* sweep is left out. Warnings name it and what else is unlikely (``oddities.py``).

    Args:
        data: ``lidar_*`` and ``nan_limit`` say how files are read; ``classes``, ``categories`` and ``cameras`` give the
            dataset's own names; also ``follow_links`` and ``allow_empty``. whole: False leaves existence and content of
            files to a later check (``data.on_error=skip``).

    Raises:
        DataError: names the file or token, the value, the allowed values and the fix.
    """
    refuse_other_file(out, "index")
    dataroot = Path(dataroot).absolute()
    folder = dataroot / version
    names = Names.read(data.categories, data.cameras, data.class_list)
    nusc = Tables(dataroot, version, data.class_list, names)
    reader = RowReader(nusc, data, whole)
    table = reader.table()
    _warn(folder, [*odd_tables(nusc), *odd_files(reader)])  # said even if the dataset is refused below
    _warn(folder, refuse_other_points(table, dataroot, data))
    table, counted = count_points(table, dataroot, data, whole=whole)
    _warn(folder, [*odd_boxes(table, data.class_list), *boxes_too_low(table, dataroot, data)])
    unknown = dict(reader.unknown.most_common())
    if nusc.sample_annotation:  # a dataset without annotations may get people's clicks later
        _refuse_no_objects(table, unknown, data, folder)
    facts = IndexFacts(
        reading=data,
        names=names,
        classes=data.class_list,
        counted=counted,
        unknown_categories=unknown,
        missing_sweeps=len(reader.missing_sweeps),
        links=len(reader.files.links),
        outside=reader.outside,
        short=len(reader.files.short()),
    )
    write_index(Path(out), table, dataroot, version, facts)
    return Path(out)


def _warn(folder: Path, lines: list[str]) -> None:
    for line in lines:
        log.warning("%s: %s", folder, line)


def _refuse_no_objects(table: pa.Table, unknown: dict[str, int], data: DataConfig, folder: Path) -> None:
    mine = kept(table)
    seen = [f"{count} annotations of category {name!r}" for name, count in unknown.items()]
    seen += [f"{len(mine)} objects that have a class, all without points"] if len(mine) else []
    refuse_empty({"objects": int(mine.sum())}, data.allow_empty, str(folder), seen)
