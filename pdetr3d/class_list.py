"""The classes of a detector: nuScenes' ten, or a dataset's own list (``data.classes``).

A label is always an index into ``ClassList.names``. The list is passed with the config or the index; there is no global
list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pdetr3d.schema import CLASSES, FALLBACK_SIZE_M, DataError
from pdetr3d.strict_yaml import read_yaml
from pdetr3d.words import close_to

SHIPPED = Path(__file__).parent / "class_lists"  # the lists that come with the package, by file name
KEY = "data.classes"
HEADINGS = ("direction", "axis", "none")
# The attributes of nuScenes' devkit; tables with other attributes are refused before scoring.
ATTRIBUTES = (
    *("vehicle.moving", "vehicle.stopped", "vehicle.parked"),
    *("cycle.with_rider", "cycle.without_rider"),
    *("pedestrian.sitting_lying_down", "pedestrian.standing", "pedestrian.moving"),
)
FIELDS = {
    "size_m": "[length, width, height] [m], each above 0: of a class that has no box to measure",
    "range_m": "a number above 0: how far from the car it is scored [m]",
    "categories": "a list of names of categories, each of one class alone",
    "group": "a text: classes of one group share a detection head and a row of the reports",
    "heading": f"one of {', '.join(HEADINGS)}: whether front and back differ; axis: they do not; none: round",
    "velocity": "true or false: whether its velocity is scored",
    "attributes": f"[when moving, when still]; allowed: {', '.join(ATTRIBUTES)}",
}
NEEDED = ("size_m",)
EXAMPLE = "it holds entries such as `truck: {size_m: [6.9, 2.5, 2.9], range_m: 50}`"
RESERVED = ("ignore",)  # words that people's clicks may have instead of a class


@dataclass(frozen=True)
class ObjectClass:
    """One class.

    Attributes:
        name: of the class. size_m: typical (l, w, h) [m], used if there are no boxes to measure. range_m: the distance
            from the ego vehicle up to which it is scored. categories: its names in ``category.json``. group: name of
            its group of similar classes.
        heading: "direction"; "axis" if front and back look the same; "none" if the object is round.
        velocity: whether its velocity is scored. attributes: (when moving, when still), or () without attributes.
    """

    name: str
    size_m: tuple[float, float, float]
    range_m: float = 50.0
    categories: tuple[str, ...] = ()
    group: str = ""
    heading: str = "direction"
    velocity: bool = True
    attributes: tuple[str, ...] = ()

    @property
    def undefined(self) -> tuple[str, ...]:
        """The devkit's error measures that are not defined for this class."""
        none = {"attr_err": not self.attributes, "vel_err": not self.velocity, "orient_err": self.heading == "none"}
        return tuple(error for error, missing in none.items() if missing)


@dataclass(frozen=True)
class ClassList:
    """C classes, in the order of their labels."""

    classes: tuple[ObjectClass, ...]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def own(self) -> bool:
        """Whether the list differs from nuScenes' ten classes."""
        return self is not NUSCENES_CLASSES and self != NUSCENES_CLASSES

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of labels."""
        return tuple(each.name for each in self.classes)

    @cached_property
    def label_of(self) -> Mapping[str, int]:
        """Name -> label."""
        return {name: label for label, name in enumerate(self.names)}

    @cached_property
    def fallback_size_m(self) -> NDArray[np.float32]:
        """(C, 3) float32 typical l, w, h [m]. The array is cached: change only a copy."""
        return np.array([each.size_m for each in self.classes], np.float32)

    @cached_property
    def range_m(self) -> Mapping[str, float]:
        """Name -> the distance [m] from the ego vehicle up to which the class is scored."""
        return {each.name: each.range_m for each in self.classes}

    @cached_property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Group -> names of its classes, in the order of the list."""
        found: dict[str, tuple[str, ...]] = {}
        for each in self.classes:
            found[each.group] = (*found.get(each.group, ()), each.name)
        return found

    @cached_property
    def tasks(self) -> tuple[tuple[int, ...], ...]:
        """The labels of the classes of each detection head; each group has one head."""
        return tuple(tuple(self.label_of[name] for name in names) for names in self.groups.values())

    def labels(self, *headings: str) -> tuple[int, ...]:
        """Labels of the classes with these headings."""
        return tuple(label for label, each in enumerate(self.classes) if each.heading in headings)

    def class_of(self, category: str) -> str | None:
        """The class of a category of the tables, or None."""
        return self._of_category.get(category)

    def category_of(self, name: str) -> str:
        """The category that stands for a class."""
        return self.classes[self.label_of[name]].categories[0]

    @cached_property
    def _of_category(self) -> Mapping[str, str]:
        return {category: each.name for each in self.classes for category in each.categories}

    def refuse_unknown(self, names: set[str], where: str) -> None:
        """Raise DataError, which begins with ``where``, if a name is none of the classes."""
        unknown = sorted(names - set(self.names), key=str)
        if unknown:
            raise DataError(f"{where}: class {unknown[0]!r}{close_to(unknown[0], self.names)}: {self.allowed}")

    def refuse_other(self, model: ClassList, file: Path, index: Path) -> None:
        """Raise DataError unless the classes of a model (of ``file``) equal those of an index, in the same order."""
        if model.names != self.names:
            raise DataError(
                f"{file} was trained on the classes {', '.join(model.names)}, but {index} has {', '.join(self.names)}: "
                f"make the index with the {KEY} of that run, or take a model of these classes"
            )

    @property
    def allowed(self) -> str:
        """The allowed names, as words for messages."""
        source = f" (of {KEY}; put it there, or rename it)" if self.own else ""
        return f"allowed are {', '.join(self.names)}{source}"

    @property
    def text(self) -> str:
        """The list as one line of YAML for ``read_classes``; "" for nuScenes' ten."""
        if not self.own:
            return ""
        entries = {
            each.name: {key: getattr(each, key) for key in FIELDS if key != "attributes" or each.attributes}
            for each in self.classes
        }
        return json.dumps(entries, ensure_ascii=False)


def read_classes(value: str, key: str = KEY) -> ClassList:
    """Read the classes of ``data.classes``.

    Args:
        value: "" for nuScenes' ten; the name of a list that comes with the package; a YAML file, which maps each
            class's name to its FIELDS; or the YAML text itself in braces. key: the config key that messages name.

    Raises:
        DataError: when the value cannot be read or an entry is wrong; names file, class, key, value, allowed values.
    """
    if not value:
        return NUSCENES_CLASSES
    if value.lstrip().startswith("{"):
        return _parse(value, key)
    shipped = {path.stem: path for path in SHIPPED.glob("*.yaml")}
    try:
        text = shipped.get(value, Path(value)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        known = ", ".join(sorted(shipped))
        raise DataError(f"{key} {value}: cannot be read ({reason}); {EXAMPLE}; lists by name: {known}") from error
    return _parse(text, f"{key} {value}")


@lru_cache(maxsize=64)
def _parse(text: str, source: str) -> ClassList:
    try:
        entries = read_yaml(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{source}: is no YAML ({' '.join(str(error).split())}); {EXAMPLE}") from error
    if not isinstance(entries, dict) or not entries:
        raise DataError(f"{source}: must map names of classes to what is said of them, but is {entries!r}; {EXAMPLE}")
    problems = [line for name, entry in entries.items() for line in _problems(name, entry)]
    if not problems:
        found = ClassList(tuple(_object_class(name, entry) for name, entry in entries.items()))
        problems = _shared(found)
    if problems:
        raise DataError("".join([f"{source}: these classes cannot be used:", *(f"\n  {line}" for line in problems)]))
    return NUSCENES_CLASSES if found == NUSCENES_CLASSES else found


def _problems(name: object, entry: object) -> list[str]:
    if not isinstance(name, str) or not name.strip() or name in RESERVED:
        return [f"{name!r}: a class's name is a text, and not {', '.join(RESERVED)} (put names such as 1 in quotes)"]
    if not isinstance(entry, dict):
        return [f"{name}: {entry!r} must hold {', '.join(NEEDED)}, and may hold others of {', '.join(FIELDS)}"]
    unknown = [f"{name}.{key}: unknown key{close_to(key, FIELDS)}" for key in entry if key not in FIELDS]
    missing = [f"{name}.{key}: is missing; it is {FIELDS[key]}" for key in NEEDED if key not in entry]
    wrong = [
        f"{name}.{key}: {value!r} is not {FIELDS[key]}"
        for key, value in entry.items()
        if key in FIELDS and not _fits(key, value)
    ]
    return unknown + missing + wrong


def _fits(key: str, value: Any) -> bool:
    if key == "size_m":
        return isinstance(value, list) and len(value) == 3 and all(_positive(side) for side in value)
    if key == "range_m":
        return _positive(value)
    if key == "group":
        return isinstance(value, str) and bool(value)
    if key == "heading":
        return value in HEADINGS
    if key == "velocity":
        return isinstance(value, bool)
    if key == "attributes":
        return isinstance(value, list) and len(value) == 2 and all(each in ATTRIBUTES for each in value)
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) and each for each in value)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e6


def _object_class(name: str, entry: Mapping[str, Any]) -> ObjectClass:
    length, width, height = (float(side) for side in entry["size_m"])
    return ObjectClass(
        name=name,
        size_m=(length, width, height),
        range_m=float(entry.get("range_m", ObjectClass.range_m)),
        categories=tuple(entry.get("categories", (name,))),
        group=entry.get("group", name),
        heading=entry.get("heading", ObjectClass.heading),
        velocity=entry.get("velocity", ObjectClass.velocity),
        attributes=tuple(entry.get("attributes", ())),
    )


def _shared(found: ClassList) -> list[str]:
    """The problems of categories that belong to two classes."""
    owner: dict[str, str] = {}
    problems = []
    for each in found.classes:
        for category in each.categories:
            if owner.setdefault(category, each.name) != each.name:
                problems.append(
                    f"{each.name}.categories: {category!r} is of class {owner[category]}, too; leave it to one"
                )
    return problems


def _nuscenes() -> ClassList:
    """The ten classes of nuScenes' detection benchmark (``detection_cvpr_2019``)."""
    vehicle, cycle = ("vehicle.moving", "vehicle.parked"), ("cycle.with_rider", "cycle.without_rider")
    person = "human.pedestrian."
    bus = ("vehicle.moving", "vehicle.stopped")  # a standing bus is usually stopped, not parked
    rows: dict[str, tuple[str, float, tuple[str, ...], tuple[str, ...]]] = {
        "car": ("vehicles", 50, vehicle, ("vehicle.car",)),
        "truck": ("vehicles", 50, vehicle, ("vehicle.truck",)),
        "construction_vehicle": ("vehicles", 50, vehicle, ("vehicle.construction",)),
        "bus": ("vehicles", 50, bus, ("vehicle.bus.rigid", "vehicle.bus.bendy")),
        "trailer": ("vehicles", 50, vehicle, ("vehicle.trailer",)),
        "barrier": ("barriers", 30, (), ("movable_object.barrier",)),
        "motorcycle": ("cycles", 40, cycle, ("vehicle.motorcycle",)),
        "bicycle": ("cycles", 40, cycle, ("vehicle.bicycle",)),
        "pedestrian": (
            "people",
            40,
            ("pedestrian.moving", "pedestrian.standing"),
            tuple(person + kind for kind in ("adult", "child", "construction_worker", "police_officer")),
        ),
        "traffic_cone": ("cones", 30, (), ("movable_object.trafficcone",)),
    }
    heading = {"barrier": "axis", "traffic_cone": "none"}
    classes = []
    for name, size in zip(CLASSES, FALLBACK_SIZE_M.tolist(), strict=True):
        group, range_m, attributes, categories = rows[name]
        way = heading.get(name, "direction")
        still = name in heading
        classes.append(ObjectClass(name, tuple(size), range_m, categories, group, way, not still, attributes))
    return ClassList(tuple(classes))


NUSCENES_CLASSES = _nuscenes()
