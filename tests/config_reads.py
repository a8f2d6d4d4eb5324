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
    """Record the dotted keys of fields that any thread reads inside. Checks while a Config is built do not count, nor
    do dumps of whole sections (``flat``, ``to_json``) for people or other processes.

    A section is identified by the section from which it was read. An unpickled one may be any section of its class.
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
