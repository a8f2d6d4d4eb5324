"""What an index knows beside its rows: how files are read, whose names and classes, what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pdetr3d.class_list import NUSCENES_CLASSES, ClassList, read_classes
from pdetr3d.config import DataConfig
from pdetr3d.tables.names import Names

READING = ("lidar_columns", "lidar_dtype", "lidar_ring", "nan_limit")  # keys under data. that an index keeps


@dataclass(frozen=True)
class IndexFacts:
    """What an index knows beside its rows.

    Attributes:
        reading: how the dataset's files are read: ``data.lidar_*`` and ``data.nan_limit`` count. names: of the
            dataset's own. classes: that annotations are of. counted: annotations whose points the index counted itself,
            since the tables do not.
        unknown_categories: name -> annotations left out, being of none of the classes. missing_sweeps: files.
        links: files that are links which leave the dataroot. outside: annotations left out, since they lie where
            nothing is annotated, or in a region to ignore. short: LiDAR files with far fewer points than is usual.
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
        """JSON text; ``from_json`` gives the equal facts back."""
        mine = {"reading": self._reading, "names": self.names.as_dict(), "classes": self.classes.text}
        value = vars(self) | mine
        return json.dumps(value, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> IndexFacts:
        """What ``to_json`` wrote; older indexes have none: "{}"."""
        value = json.loads(text)
        known = {"reading": DataConfig(**value.get("reading", {})), "names": Names.of(value.get("names", {}))}
        known["classes"] = read_classes(value.get("classes", ""))
        return IndexFacts(**value | known)

    @property
    def identity(self) -> str:
        """What of it changes the data that rows and files are."""
        reading = {key: value for key, value in self._reading.items() if key != "nan_limit"}  # refuses, changes nothing
        own = [self.classes.text] if self.classes.own else []
        return json.dumps([reading, self.names.as_dict(), *own], sort_keys=True)

    @property
    def _reading(self) -> dict[str, Any]:
        return {key: getattr(self.reading, key) for key in READING}


PLAIN = IndexFacts()  # of a dataset as nuScenes' own
