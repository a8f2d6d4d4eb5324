"""Facts that an index stores beside its rows: layout of files, the dataset's names and classes, left-out data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pdetr3d.class_list import NUSCENES_CLASSES, ClassList, read_classes
from pdetr3d.config import DataConfig
from pdetr3d.tables.names import Names

READING = ("lidar_columns", "lidar_dtype", "lidar_ring", "nan_limit")  # the keys of ``data`` that an index stores


@dataclass(frozen=True)
class IndexFacts:
    """Facts about a dataset that its index stores beside the rows.

    Attributes:
        reading: how LiDAR files are read; only the keys READING are stored. names: the dataset's own names of
            categories and cameras. classes: the classes of the annotations.
        counted: number of annotations whose points the index counted, because the tables do not.
        unknown_categories: category -> number of annotations that were left out because it has no class.
        missing_sweeps: number of missing sweep files. links: number of files that link to a place outside the dataroot.
        outside: number of annotations that were left out because they lie outside the valid region or in a region to
            ignore. short: number of LiDAR files with far fewer points than the median.
    """

    reading: DataConfig = DataConfig()
    names: Names = Names()
    classes: ClassList = NUSCENES_CLASSES
    counted: int = 0
    unknown_categories: Mapping[str, int] = field(default_factory=dict)
    missing_sweeps: int = 0
    links: int = 0
    outside: int = 0
    short: int = 0

    def to_json(self) -> str:
        """JSON text from which ``from_json`` makes equal facts."""
        mine = {"reading": self._reading, "names": self.names.as_dict(), "classes": self.classes.text}
        value = vars(self) | mine
        return json.dumps(value, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> IndexFacts:
        """Read the text of ``to_json``. An index of an older version has "{}"."""
        value = json.loads(text)
        known = {"reading": DataConfig(**value.get("reading", {})), "names": Names.of(value.get("names", {}))}
        known["classes"] = read_classes(value.get("classes", ""))
        return IndexFacts(**value | known)

    @property
    def identity(self) -> str:
        """The facts that change how rows and files are understood, as text for the index's digest."""
        reading = {key: value for key, value in self._reading.items() if key != "nan_limit"}  # it changes no data
        own = [self.classes.text] if self.classes.own else []
        return json.dumps([reading, self.names.as_dict(), *own], sort_keys=True)

    @property
    def _reading(self) -> dict[str, Any]:
        return {key: getattr(self.reading, key) for key in READING}


PLAIN = IndexFacts()  # the facts of nuScenes itself
