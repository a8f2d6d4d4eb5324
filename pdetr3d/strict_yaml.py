"""Reads YAML that people write. Where YAML's own readers would silently take something else, it is an error."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import ConstructorError

from pdetr3d.words import misread


class _Loader(yaml.SafeLoader):
    """Refuses keys that stand twice in a mapping, and numbers that YAML reads otherwise than people do."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise ConstructorError(None, None, f"{name!r} stands twice; each may stand once", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float") and (odd := misread([node.value])):
            raise ConstructorError(None, None, odd, node.start_mark)
        return super().construct_object(node, deep)


def read_yaml(text: str) -> Any:
    """The value of a YAML text, of plain types alone.

    Raises:
        yaml.YAMLError: for a text that is no YAML, for a key that stands twice, and for a number such as 010 or 1_0.
        RecursionError: when it is nested too deeply.
    """
    return _Loader(text).get_single_data()
