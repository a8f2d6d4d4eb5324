"""Records which config fields code reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from pydantic import BaseModel

from pdetr3d import config as config_module
from pdetr3d.config import Config
from pdetr3d.config_keys import sections
from pdetr3d.config_sections import Section


@contextmanager
def reads() -> Iterator[set[str]]:
    """Dotted keys of all fields that are read inside, by any thread. Checks of a Config that is built do not count, nor
    does a dump of a whole section (``flat``, ``to_json``), which says a config to a person or another process.

    A section is known by where it was taken from. One that came by itself (unpickled) may be any of its class.
    """
    found: set[str] = set()
    places: dict[int, tuple[Section, str]] = {}  # id of a section -> itself, so that the id stays its own; its name
    checking: list[None] = []

    def read(self: Section, name: str) -> Any:
        value = BaseModel.__getattribute__(self, name)
        fields = type(self).model_fields
        if checking or name.startswith("_") or name not in fields:
            return value
        if isinstance(self, Config):
            here = [""]
        elif id(self) in places:
            here = [places[id(self)][1] + "."]
        else:
            here = [f"{place}." for place, owner in sections().items() if owner is type(self)]
        if isinstance(value, Section):
            places[id(value)] = (value, here[0] + name)
        else:
            found.update(place + name for place in here)
        return value

    def built(text: str) -> Config:
        checking.append(None)
        try:
            return original(text)
        finally:
            checking.pop()

    original = config_module._validated
    with (
        mock.patch.object(Section, "__getattribute__", read),
        mock.patch.object(config_module, "_validated", built),
    ):
        yield found
