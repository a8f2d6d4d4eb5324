"""Config keys of older versions, which runs, checkpoints, exports and YAML files of that time hold."""

from __future__ import annotations

import json
from typing import Any

from pdetr3d.errors import DataError

# Key -> (the value with which it changed nothing, what became of it).
REMOVED: dict[str, tuple[Any, str]] = {
    "student.drift": (False, "it was removed, because it cost mAP"),
    "model.pillar_padding": (False, "its name is model.pad_pillars now"),
}


def changed_nothing(key: str, value: Any) -> bool:
    """Whether the key was removed since, and its value changed nothing."""
    return key in REMOVED and value == REMOVED[key][0]


def without_removed(text: str) -> str:
    """A config as JSON text without removed keys that changed nothing.

    Raises:
        DataError: when a removed key has another value.
    """
    try:
        tree = json.loads(text)
    except ValueError:
        return text  # the check of the config says what is wrong
    for key, (_, fate) in REMOVED.items():
        section, _, name = key.rpartition(".")
        values = tree.get(section) if isinstance(tree, dict) else None
        if not isinstance(values, dict) or name not in values:
            continue
        value = values.pop(name)
        if not changed_nothing(key, value):
            raise DataError(
                f"config key {key} = {json.dumps(value)}: {fate}. Code before version 0.1.0 wrote this: use it with "
                "that code, or train again"
            )
    return json.dumps(tree)
