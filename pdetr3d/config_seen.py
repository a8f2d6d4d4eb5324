"""Tells which config keys a kind of stage depends on."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

from pdetr3d.config import Config
from pdetr3d.config_sections import EVERY, IgnoredBy, Section


def seen_by(config: Config, kind: str = EVERY) -> dict[str, Any]:
    """Dotted key -> value (as ``Config.flat``) of all keys that a kind of stage depends on; of EVERY: all keys on which
    any stage depends. The marks at the fields (``IgnoredBy``) say which these are."""
    ignored = _ignored(kind)
    return {key: value for key, value in config.flat().items() if key not in ignored}


@cache
def _ignored(kind: str) -> frozenset[str]:
    """Dotted keys that a kind of stage ignores."""

    def marked(owner: type[Section], prefix: str = "", above: bool = False) -> Iterator[str]:
        for name, field in owner.model_fields.items():
            marks = [mark for mark in field.metadata if isinstance(mark, IgnoredBy)]
            here = above or any({kind, EVERY} & {*mark.kinds} for mark in marks)
            if inspect.isclass(field.annotation) and issubclass(field.annotation, Section):
                yield from marked(field.annotation, f"{prefix}{name}.", here)
            elif here:
                yield prefix + name

    return frozenset(marked(Config))
