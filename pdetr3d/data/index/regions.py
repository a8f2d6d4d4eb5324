"""A dataset's own regions (valid, to ignore): the Parquet file ``VERSION/regions.parquet`` beside its tables.

The file has one row (REGIONS_SCHEMA) per sample with regions; a sample without a row is annotated everywhere. Polygons
are lists of corners (x, y) [m] in the LIDAR_TOP frame of the keyframe, seen from above (``geometry/regions.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from pdetr3d.data.storage.files import read_parquet, write_parquet
from pdetr3d.geometry.regions import Polygon, Regions, disk, polygon_problem
from pdetr3d.schema import DataError
from pdetr3d.words import listed

FILE = "regions.parquet"  # in the folder of the tables
POLYGONS = pa.list_(pa.list_(pa.list_(pa.float64(), 2)))
# valid: null = everywhere, [] = nowhere. ignore: [] = nothing.
REGIONS_SCHEMA = pa.schema([("sample_token", pa.string()), ("valid", POLYGONS), ("ignore", POLYGONS)])


def write_regions(folder: Path, regions: Mapping[str, Regions]) -> None:
    """Write ``regions`` (sample token -> its regions) atomically to regions.parquet in the tables' folder."""
    rows = [
        {"sample_token": token, "valid": write_lists(found.valid), "ignore": write_lists(found.ignore)}
        for token, found in regions.items()
    ]
    write_parquet(Path(folder) / FILE, pa.Table.from_pylist(rows, schema=REGIONS_SCHEMA))


def read_regions(folder: Path, known: Collection[str] | None = None) -> dict[str, Regions]:
    """Read the regions of all samples that have some: sample token -> regions. Without the file the result is empty.

    Args:
        folder: the tables' folder, ``dataroot/version``. known: sample tokens of the dataset; others are refused.

    Raises:
        DataError: when the file is not of REGIONS_SCHEMA, a token occurs twice or is unknown, or a polygon is invalid;
            names the file, the rows (from 0) and the problems.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return {}
    found: dict[str, Regions] = {}
    problems: list[str] = []
    table = read_parquet(path, REGIONS_SCHEMA)
    for number, row in enumerate(table.to_pylist()):
        token = row["sample_token"]
        wrong = [
            f"{kind} polygon {place} {problem}; allowed are three corners (x, y) [m] or more, sides that do not cross"
            for kind in ("valid", "ignore")
            for place, corners in enumerate(row[kind] or ())
            if (problem := _problem(corners))
        ]
        if token in found:
            wrong.append("has a row already; a sample has one row")
        if known is not None and token not in known:
            wrong.append("is no sample of this dataset")
        problems += [f"row {number}, sample_token {token!r}: {reason}" for reason in wrong]
        if not wrong:
            found[token] = regions_of(row["valid"], row["ignore"])
    if problems:
        raise DataError(f"{path}: regions that cannot be used; write the file again:{listed(problems)}")
    return found


def regions_of(valid: list | None, ignore: list | None) -> Regions:
    """Make regions from a row's values of the columns ``valid`` and ``ignore``."""
    return Regions(None if valid is None else _arrays(valid), _arrays(ignore or []))


def disks(ignore: pa.Table) -> dict[str, list[Polygon]]:
    """Convert a manifest's regions to ignore (``manifest.IGNORE_SCHEMA``) to sample token -> polygons.

    Each row is a ball that a person marked as "not sure"; the polygon is its disk seen from above. ``Regions.joined``
    adds them to a sample's own regions.
    """
    found: dict[str, list[Polygon]] = {}
    for row in ignore.to_pylist():
        found.setdefault(row["sample_token"], []).append(disk(np.array([row["x"], row["y"]]), row["radius_m"]))
    return found


def _problem(corners: list) -> str:
    return polygon_problem(np.array([(np.nan, np.nan) if c is None else c for c in corners or ()], np.float64))


def write_lists(polygons: tuple[Polygon, ...] | None) -> list | None:
    """The value of the column ``valid`` or ``ignore``: the inverse of ``regions_of``."""
    return None if polygons is None else [np.asarray(corners, np.float64).tolist() for corners in polygons]


def _arrays(polygons: list) -> tuple[Polygon, ...]:
    return tuple(np.array(corners, np.float64).reshape(-1, 2) for corners in polygons)
