"""Maps a dataset's own names of categories and sensors to nuScenes' names (``data.categories``, ``data.cameras``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pdetr3d.class_list import NUSCENES_CLASSES, ClassList
from pdetr3d.schema import CAMERAS, LIDAR_TOP, DataError
from pdetr3d.strict_yaml import read_yaml
from pdetr3d.words import close_to

# Class -> the nuScenes category that stands for it.
CATEGORY = {name: NUSCENES_CLASSES.category_of(name) for name in NUSCENES_CLASSES.names}
SENSORS = (*CAMERAS, LIDAR_TOP)  # the names to which ``data.cameras`` may map a channel
IGNORED = "ignored"  # prefix of names that are mapped to null, so that no class or camera has them

Pairs = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Names:
    """A dataset's own names: pairs (own name, name here), sorted; None leaves the category or channel out.

    A category that is not mapped belongs to the class that lists it (``ClassList.class_of``). A channel that is not
    mapped keeps its name.

    Attributes:
        categories: category -> class. cameras: sensor channel -> one of SENSORS.
    """

    categories: Pairs = ()
    cameras: Pairs = ()

    @staticmethod
    def read(categories: str, cameras: str, classes: ClassList) -> Names:
        """Read the YAML files of ``data.categories`` and ``data.cameras``; "" means no file.

        Raises:
            DataError: when a file cannot be read, is no mapping of names, or maps to a name that is not allowed.
        """
        return Names(_read("data.categories", categories, classes.names), _read("data.cameras", cameras, SENSORS))

    @staticmethod
    def of(value: Mapping[str, Mapping[str, str | None]]) -> Names:
        """Make names from the value of ``as_dict``."""
        return Names(*(tuple(sorted(value.get(key, {}).items())) for key in ("categories", "cameras")))

    def as_dict(self) -> dict[str, dict[str, str | None]]:
        """The names as two dicts, "categories" and "cameras"."""
        return {"categories": dict(self.categories), "cameras": dict(self.cameras)}

    def apply(self, tables: Mapping[str, list[dict[str, Any]]], where: Path, classes: ClassList) -> None:
        """Rename rows of the tables ``category`` and ``sensor`` in place.

        Args:
            tables: name -> rows. where: the tables' folder, for messages. classes: of the dataset.

        Raises:
            DataError: when a mapped name is in no row, or two channels would get the same name.
        """
        standing = {name: classes.category_of(name) for name in classes.names}
        _rename(tables["category"], "name", self.categories, standing, ("data.categories", where / "category.json"))
        known = {name: name for name in SENSORS}
        _rename(tables["sensor"], "channel", self.cameras, known, ("data.cameras", where / "sensor.json"))
        if not self.cameras:
            return
        channels = [row["channel"] for row in tables["sensor"]]
        twice = sorted(name for name in SENSORS if channels.count(name) > 1)
        if twice:
            raise DataError(
                f"data.cameras: two channels of {where / 'sensor.json'} would be {', '.join(twice)}; map one of them "
                "to null"
            )


NUSCENES = Names()  # of a dataset with nuScenes' names


def _read(key: str, file: str, allowed: tuple[str, ...]) -> Pairs:
    if not file:
        return ()
    example = f"it holds lines such as `own_name: {allowed[0]}` (null: left out)"
    try:
        text = Path(file).read_text(encoding="utf-8")
        value = read_yaml(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{key} {file}: cannot be read as YAML ({reason}); {example}") from error
    if not isinstance(value, dict) or not value or not all(isinstance(name, str) for name in value):
        raise DataError(f"{key} {file}: must be a mapping of names, but is {value!r}; {example}")
    wrong = {name: target for name, target in value.items() if target is not None and target not in allowed}
    if wrong:
        lines = "".join(f"\n  {name}: {target!r}{close_to(target, allowed)}" for name, target in wrong.items())
        raise DataError(f"{key} {file}: allowed are {', '.join(allowed)} and null, but not{lines}")
    return tuple(sorted(value.items()))


def _rename(
    rows: list[dict[str, Any]], field: str, pairs: Pairs, target: Mapping[str, str], words: tuple[str, Path]
) -> None:
    wanted, names = dict(pairs), [row[field] for row in rows]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        lines = "".join(f"\n  {name!r}{close_to(name, names)}" for name in unknown)
        raise DataError(f"{words[0]}: names that are in no row of {words[1]} (it has {', '.join(names)}):{lines}")
    for row in rows:
        if row[field] in wanted:
            new = wanted[row[field]]
            row[field] = f"{IGNORED}.{row[field]}" if new is None else target[new]
