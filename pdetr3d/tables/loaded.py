"""Loads the checked tables of a nuScenes-format folder into the devkit's class; map images are not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nuscenes import NuScenes

from pdetr3d.class_list import ClassList
from pdetr3d.json_files import read_json
from pdetr3d.schema import DataError
from pdetr3d.tables.fields import FIELDS, scoring_problems, table_problems
from pdetr3d.tables.names import NUSCENES, Names
from pdetr3d.tables.plausible import implausible, unlikely
from pdetr3d.words import listed

# visibility and map may be missing: neither indexing nor the devkit's scoring reads them.
TABLES = (
    "category attribute visibility instance sensor calibrated_sensor ego_pose "
    "log scene sample sample_data sample_annotation map"
).split()
LOOKS = "a nuScenes dataroot holds samples/, sweeps/ and a folder of 13 JSON tables such as v1.0-trainval/"
AGAIN = "check its permissions, or unpack the metadata archive again"


class Tables(NuScenes):
    """The devkit's ``NuScenes`` with checked tables, in which a dataset's own names are replaced (``Names``).

    Attributes:
        cut_tracks: number of annotations whose previous or next annotation is missing. unlikely: warnings of
            ``unlikely``.

    Raises:
        DataError: when the folder, the version or a table is missing or unreadable, or a field or value is wrong; names
            table, row, field and value.
    """

    def __init__(self, dataroot: Path, version: str, classes: ClassList, names: Names = NUSCENES) -> None:
        # The devkit's __init__ is not called: it opens an image for each map, and a label file for each LiDAR file.
        folder = _folder(dataroot, version)
        self.version, self.dataroot, self.verbose = version, str(dataroot), False
        self.table_names = list(TABLES)
        tables = {name: read_json(folder / f"{name}.json", AGAIN) for name in FIELDS}
        _refuse(folder, table_problems(tables))
        names.apply(tables, folder, classes)
        _refuse(folder, scoring_problems(tables, classes))
        _refuse(folder, implausible(tables))
        self.unlikely = unlikely(tables)
        self.cut_tracks = _cut_tracks(tables["sample_annotation"])
        self.__dict__ |= tables
        self.visibility: list[dict[str, Any]] = []
        logs = [row["token"] for row in tables["log"]]
        self.map = [{"token": "", "log_tokens": logs}]  # the devkit asks for a map of each log
        self.__make_reverse_index__(False)


def _cut_tracks(rows: list[dict[str, Any]]) -> int:
    """End tracks at missing annotations, as in datasets that are annotated only in some frames.

    Returns:
        The number of annotations whose previous or next annotation is missing.
    """
    known, cut = {row["token"] for row in rows}, 0
    for row in rows:
        missing = [side for side in ("prev", "next") if row[side] and row[side] not in known]
        cut += bool(missing)
        row.update(dict.fromkeys(missing, ""))
    return cut


def _folder(dataroot: Path, version: str) -> Path:
    if not dataroot.is_dir():
        home = "~ stands for no folder here, write the whole path; " if "~" in dataroot.parts else ""
        raise DataError(f"data.dataroot {dataroot}: no such folder; {home}{LOOKS}")
    if version != Path(version).name:
        raise DataError(f"data.version {version!r}: write the folder's name alone, {Path(version).name!r}")
    folder = dataroot / version
    if not folder.is_dir():
        found = sorted(path.parent.name for path in dataroot.glob("*/sample.json"))
        if not found:
            raise DataError(f"data.dataroot {dataroot}: no tables here; {LOOKS}; missing: {version}/")
        raise DataError(f"data.version {version!r}: {dataroot} has no such folder; available: {', '.join(found)}")
    missing = [f"{name}.json" for name in FIELDS if not (folder / f"{name}.json").is_file()]
    if missing:
        raise DataError(f"{folder}: tables missing: {', '.join(missing)}; {LOOKS}")
    return folder


def _refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        raise DataError(
            f"{folder}: these tables cannot be used:{listed(problems)}\nMend the converter that wrote them, or unpack "
            "the metadata archive again; rows are counted from 0"
        )
