"""Describes config keys (default, allowed values, unit, meaning); writes docs/configuration.md from them."""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pdetr3d.config import Config
from pdetr3d.config_sections import Section

UNITS = {"_m": "m", "_rad": "rad", "_deg": "degrees", "_s": "s", "_us": "µs", "_px": "px"}  # ending of a key -> unit


_HEAD = """# Configuration

<!-- Written by "python -m pdetr3d.config_keys > docs/configuration.md" from the fields' comments: edit those. -->

Every key can be set on the command line: `optim.lr=0.001`. Keys that you do not set have the values of the preset.
This page shows the defaults of the code. Each preset changes some of them. Values are YAML: a list is `[1,2]`; text
needs no quotes.

A file can hold keys, too: verbs and jobs that take keys also take `--config FILE`. Values of the file replace those of
the preset. Values on the command line replace both. The file may hold all keys or some. The line `preset: NAME` in it
stands for `--preset NAME`.

```bash
pdetr3d show-config --preset quickstart label.ratio=0.02 > mine.yaml      # every key with its meaning; edit it
pdetr3d show-config --config mine.yaml optim.lr=0.001                     # the file, with another value of one key
```
"""


@dataclass(frozen=True)
class Key:
    """One dotted key.

    Attributes:
        name: e.g. ``optim.lr``. default: as JSON. allowed: the allowed values in words. unit: "" without a unit.
        meaning: the comment at the field in the sources; "" without one.
    """

    name: str
    default: str
    allowed: str
    unit: str
    meaning: str


def sections() -> dict[str, type[Section]]:
    """Dotted name -> class of every section, also of nested ones (``teacher.optim``), in the order of fields."""
    return _sections(Config)


def _sections(owner: type[Section], prefix: str = "") -> dict[str, type[Section]]:
    found: dict[str, type[Section]] = {}
    for name, field in owner.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, Section):
            found |= {prefix + name: field.annotation, **_sections(field.annotation, f"{prefix}{name}.")}
    return found


def keys() -> dict[str, Key]:
    """Name -> description of every key that an override may change, in the order of fields."""
    defaults = Config(preset="").flat()
    return {
        f"{section}.{name}": Key(
            name=f"{section}.{name}",
            default=json.dumps(defaults[f"{section}.{name}"]),
            allowed=_allowed(schema),
            unit=next((unit for end, unit in UNITS.items() if name.endswith(end)), ""),
            meaning=meanings[name],
        )
        for section, owner in sections().items()
        for meanings in [comments(owner)]
        for name, schema in owner.model_json_schema()["properties"].items()
        if "$ref" not in schema
    }


def comments(owner: type) -> dict[str, str]:
    """Field -> the comment above it and behind it; "" for a field without a comment."""
    source = inspect.cleandoc("\n" + inspect.getsource(owner))
    lines = source.splitlines()
    said = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in said and lines[first - 2].lstrip().startswith("#"):
                first -= 1
            rows = range(first, (node.end_lineno or first) + 1)
            found[node.target.id] = " ".join(said[row] for row in rows if row in said)
    return found


def _allowed(schema: Mapping[str, Any]) -> str:
    """The allowed values of a field in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_allowed(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " · ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema["type"]
    if kind == "array":
        if "prefixItems" in schema:
            parts = [_allowed(part) for part in schema["prefixItems"]]
            return f"{len(parts)} of: {parts[0]}" if len(set(parts)) == 1 else f"[{', '.join(parts)}]"
        return f"list of: {_allowed(schema['items'])}"
    if kind in ("integer", "number"):
        signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        limits = [f"{sign} {schema[word]:.10g}" for word, sign in signs.items() if word in schema]
        return " ".join([kind, ", ".join(limits)]).strip()
    return {"boolean": "`true` · `false`", "string": "text"}[kind]


def page() -> str:
    """The text of ``docs/configuration.md``."""
    every = keys()
    parts = [_HEAD]
    first = {owner: section for section, owner in sections().items() if "." not in section}
    for section, owner in sections().items():
        mine = {name.rpartition(".")[2]: key for name, key in every.items() if name.rpartition(".")[0] == section}
        parts.append(f"\n## {section}\n")
        if first.get(owner, section) != section:
            other = {name: every[f"{first[owner]}.{name}"].default for name in mine}
            differ = [f"`{section}.{name}={key.default}`" for name, key in mine.items() if key.default != other[name]]
            keys_of = f"The keys are those of [{first[owner]}](#{first[owner]})"
            parts.append(f"{_said_at(section)}{keys_of}. Other defaults: {', '.join(differ)}.\n")
            continue
        parts.append(f"{' '.join((owner.__doc__ or '').split())}\n")
        parts.append("| key | default | allowed | unit | meaning |\n|---|---|---|---|---|")
        parts += [
            f"| `{section}.{name}` | `{key.default}` | {_cell(key.allowed)} | {key.unit} | {_cell(key.meaning)} |"
            for name, key in mine.items()
        ]
        parts.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def _said_at(section: str) -> str:
    """The comment at the field that holds a nested section; "" without one."""
    owner, _, name = section.rpartition(".")
    text = comments(sections()[owner]).get(name, "")
    return f"{text} " if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
