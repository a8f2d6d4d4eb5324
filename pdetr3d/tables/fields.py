"""Checks the fields of the nuScenes tables that indexing and the devkit's scoring need, column by column.

Map images, visibility and descriptions are not needed and not checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from pdetr3d.class_list import ATTRIBUTES, ClassList
from pdetr3d.schema import CAMERAS

Rows = list[dict[str, Any]]
ABSENT = object()
LARGEST = 2**63 - 1  # the index stores whole numbers in 64 bits
LATEST_US = 10**17  # in the year 5138; a larger timestamp is in nanoseconds

# A kind of value: the allowed values in words; a fast check of a whole column; a check of one value.
Kind = tuple[str, Callable[[Sequence[Any]], bool], Callable[[Any], bool]]


def _typed(words: str, types: set[type], good: Callable[[Any], bool]) -> Kind:
    def fine(column: Sequence[Any]) -> bool:
        return set(map(type, column)) <= types and all(map(good, set(column)))

    return words, fine, lambda value: type(value) in types and good(value)


def _numbers(count: int) -> Kind:
    words = f"a list of {count} numbers up to 1e308"

    def fine(column: Sequence[Any]) -> bool:
        if not (
            set(map(type, column)) <= {list}
            and set(map(len, column)) <= {count}
            and set(map(type, chain.from_iterable(column))) <= {int, float}
        ):
            return False
        try:
            sum(chain.from_iterable(column), 0.0)
        except OverflowError:  # a whole number that no float can hold
            return False
        return True

    return words, fine, lambda value: fine([value])


def _texts() -> Kind:
    def fine(column: Sequence[Any]) -> bool:
        return set(map(type, column)) <= {list} and set(map(type, chain.from_iterable(column))) <= {str}

    return "a list of tokens ([] where there is none)", fine, lambda value: fine([value])


def _count(value: Any) -> bool:
    if type(value) is int:
        return abs(value) <= LARGEST
    return value is None or (isinstance(value, float) and math.isnan(value))


TEXT: Kind = _typed("a text", {str}, bool)
LINK: Kind = _typed('a token, or "" where there is none', {str}, lambda value: True)
TIME: Kind = _typed("a whole number of microseconds, below 10**17", {int}, lambda value: 0 <= value < LATEST_US)
FLAG: Kind = _typed("true or false", {bool}, lambda value: True)
COUNT: Kind = (
    "a whole number (-1 or null: not counted)",
    lambda column: all(map(_count, column)),
    _count,
)
SIZE: Kind = _typed("a whole number of pixels, 1 or more", {int}, lambda value: 0 < value <= LARGEST)
VECTOR, QUATERNION, TEXTS = _numbers(3), _numbers(4), _texts()

FIELDS: dict[str, dict[str, Kind]] = {
    "category": {"token": TEXT, "name": TEXT},
    "attribute": {"token": TEXT, "name": TEXT},
    "instance": {"token": TEXT, "category_token": TEXT},
    "sensor": {"token": TEXT, "channel": TEXT, "modality": TEXT},
    "calibrated_sensor": {"token": TEXT, "sensor_token": TEXT, "translation": VECTOR, "rotation": QUATERNION},
    "ego_pose": {"token": TEXT, "translation": VECTOR, "rotation": QUATERNION},
    "log": {"token": TEXT, "location": TEXT},
    "scene": {"token": TEXT, "name": TEXT, "log_token": TEXT},
    "sample": {"token": TEXT, "timestamp": TIME, "scene_token": TEXT},
    "sample_data": {
        "token": TEXT,
        "sample_token": TEXT,
        "ego_pose_token": TEXT,
        "calibrated_sensor_token": TEXT,
        "filename": LINK,  # "" is refused later, by the check of paths
        "timestamp": TIME,
        "is_key_frame": FLAG,
        "prev": LINK,
    },
    "sample_annotation": {
        "token": TEXT,
        "sample_token": TEXT,
        "instance_token": TEXT,
        "translation": VECTOR,
        "size": VECTOR,
        "rotation": QUATERNION,
        "num_lidar_pts": COUNT,
        "num_radar_pts": COUNT,
        "attribute_tokens": TEXTS,
        "prev": LINK,
        "next": LINK,
    },
}
# Table -> its fields that hold tokens -> the table with the rows of these tokens.
REFERENCES = {
    "instance": {"category_token": "category"},
    "calibrated_sensor": {"sensor_token": "sensor"},
    "scene": {"log_token": "log"},
    "sample": {"scene_token": "scene"},
    "sample_data": {
        "sample_token": "sample",
        "ego_pose_token": "ego_pose",
        "calibrated_sensor_token": "calibrated_sensor",
        "prev": "sample_data",
    },
    "sample_annotation": {
        "sample_token": "sample",
        "instance_token": "instance",
    },
}


def table_problems(tables: Mapping[str, Any]) -> list[str]:
    """The problems of the tables' fields and references, one line per table and field, which names the first bad row.

    Args:
        tables: name -> content of the JSON file.
    """
    problems = []
    for name, fields in FIELDS.items():
        rows = tables[name]
        if not isinstance(rows, list) or set(map(type, rows)) - {dict}:
            problems.append(f"{name}.json: must be a list of objects")
            continue
        for field, kind in fields.items():
            problems += _field(name, rows, field, kind)
    if problems:  # the checks below need correct fields
        return problems
    if not tables["sample"]:
        return ["sample.json: has no row: a dataset without keyframes"]
    tokens = {name: [row["token"] for row in tables[name]] for name in FIELDS}
    known = {name: set(values) for name, values in tokens.items()}
    problems += [_twice(name, tables[name]) for name in FIELDS if len(known[name]) < len(tokens[name])]
    for name, references in REFERENCES.items():
        for field, target in references.items():
            problems += _reference(name, tables[name], field, target, known[target])
    return problems


def scoring_problems(tables: Mapping[str, Rows], classes: ClassList) -> list[str]:
    """The problems of image sizes, intrinsics and attributes, one line each.

    The tables must have no ``table_problems``, and nuScenes' names (``Names.apply``).
    """
    return [*_cameras(tables), *_attributes(tables, classes)]


def at_row(name: str, row: int, rows: Rows, field: str) -> str:
    """The place of a value in words: table, row (counted from 0), token, field."""
    return f"{name}.json, row {row} (token {rows[row].get('token')}), field {field}"


def _more(count: int) -> str:
    return f" ({count} rows alike)" if count > 1 else ""


def _field(name: str, rows: Rows, field: str, kind: Kind) -> list[str]:
    words, fine, good = kind
    column = [row.get(field, ABSENT) for row in rows]
    try:
        if fine(column):
            return []
    except TypeError:  # a value that cannot be hashed, or has no length
        pass
    bad = [place for place, value in enumerate(column) if not good(value)]
    if not bad:
        return []
    value = column[bad[0]]
    said = "is missing" if value is ABSENT else f"is {value!r}"
    return [f"{at_row(name, bad[0], rows, field)} {said}, but must be {words}{_more(len(bad))}"]


def _twice(name: str, rows: Rows) -> str:
    seen: dict[str, int] = {}
    for place, row in enumerate(rows):
        if seen.setdefault(row["token"], place) != place:
            return f"{at_row(name, place, rows, 'token')} is that of row {seen[row['token']]}, too: tokens must differ"
    raise AssertionError("no token comes twice")


def _reference(name: str, rows: Rows, field: str, target: str, known: set[str]) -> list[str]:
    kind = FIELDS[name][field]
    wanted = {row[field] for row in rows} - known - ({""} if kind is LINK else set())
    if not wanted:
        return []
    bad = [place for place, row in enumerate(rows) if row[field] in wanted]
    value = rows[bad[0]][field]
    text = f"{at_row(name, bad[0], rows, field)}: {value!r} is in no row of {target}.json; the tables are incomplete"
    return [text + _more(len(bad))]


def _cameras(tables: Mapping[str, Rows]) -> list[str]:
    """The problems of cameras: intrinsics, and sizes of images."""
    sensors = {row["token"] for row in tables["sensor"] if row["channel"] in CAMERAS}
    mine = [(place, row) for place, row in enumerate(tables["calibrated_sensor"]) if row["sensor_token"] in sensors]
    bad = [place for place, row in mine if not _square(row.get("camera_intrinsic"))]
    problems = []
    if bad:
        where = at_row("calibrated_sensor", bad[0], tables["calibrated_sensor"], "camera_intrinsic")
        problems.append(f"{where} must be three lists of three numbers{_more(len(bad))}")
    calibrations = {row["token"] for _, row in mine}
    images = [row for row in tables["sample_data"] if row["calibrated_sensor_token"] in calibrations]
    if all(_field("sample_data", images, field, SIZE) == [] for field in ("width", "height")):
        return problems
    place_of = {row["token"]: place for place, row in enumerate(tables["sample_data"])}
    for field in ("width", "height"):
        wrong = [row for row in images if not SIZE[2](row.get(field, ABSENT))]
        if wrong:
            place = place_of[wrong[0]["token"]]
            said = f"is {wrong[0][field]!r}" if field in wrong[0] else "is missing"
            where = at_row("sample_data", place, tables["sample_data"], field)
            problems.append(f"{where} {said}, but must be {SIZE[0]}{_more(len(wrong))}")
    return problems


def _square(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(VECTOR[2](row) for row in value)


def _attributes(tables: Mapping[str, Rows], classes: ClassList) -> list[str]:
    """The problems of attributes: the devkit allows an object with a class at most one, from its own list."""
    name_of = {row["token"]: row["name"] for row in tables["attribute"]}
    scored = {row["token"] for row in tables["category"] if classes.class_of(row["name"]) is not None}
    mine = {row["token"] for row in tables["instance"] if row["category_token"] in scored}
    rows = tables["sample_annotation"]
    problems: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        tokens = row["attribute_tokens"]
        if not tokens or row["instance_token"] not in mine:
            continue
        if len(tokens) > 1:
            reason = f"has {len(tokens)} tokens, but the devkit's scoring allows one"
        elif tokens[0] not in name_of:
            reason = f"names {tokens[0]!r}, which is in no row of attribute.json"
        elif name_of[tokens[0]] not in ATTRIBUTES:
            allowed = ", ".join(ATTRIBUTES)
            reason = f"names {name_of[tokens[0]]!r}, but the devkit's scoring allows {allowed}; write [] instead"
        else:
            continue
        problems.setdefault(reason, []).append(place)
    where = "sample_annotation"
    return [
        f"{at_row(where, places[0], rows, 'attribute_tokens')} {reason}{_more(len(places))}"
        for reason, places in problems.items()
    ]
