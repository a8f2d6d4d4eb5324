"""Configurations as YAML files: ``pdetr3d show-config`` writes them, ``--config FILE`` of verbs and jobs reads them.

A file may hold any of the keys. Its values replace those of the preset, and ``key=value`` words of the command line
replace both. A file is converted to overrides of its preset, so that code that takes overrides also takes files.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pdetr3d.config import Config, build, override, unknown_key
from pdetr3d.presets import PRESETS, check_preset, load
from pdetr3d.schema import DataError
from pdetr3d.words import misread

WIDTH = 110  # of a comment [characters]
BEGIN = "begin with what `pdetr3d show-config` prints"
HEAD = (
    "A configuration for --config FILE. Keys that are left out keep the preset's values; key=value words come after it."
)


def to_yaml(config: Config) -> str:
    """All keys of a config as YAML, each below a comment with its meaning, unit and allowed values.

    ``with_file`` reads such a file.
    """
    from pdetr3d.config_keys import keys, sections

    every, flat = keys(), config.flat()
    lines = [*_comment(HEAD, ""), f"preset: {_value(config.preset)}"]
    for section, owner in sections().items():
        depth = "  " * section.count(".")
        lines += ["", *_comment(" ".join((owner.__doc__ or "").split()), depth), f"{depth}{section.split('.')[-1]}:"]
        for name, key in every.items():
            if name.rpartition(".")[0] == section:
                unit = f" [{key.unit}]" if key.unit else ""
                allowed = "" if key.allowed == "text" else f"; allowed: {key.allowed.replace('`', '')}"
                lines += _comment(f"{key.meaning.rstrip('.')}{unit}{allowed}", f"{depth}  ")
                lines.append(f"{depth}  {name.rpartition('.')[2]}: {_value(flat[name])}")
    return "\n".join(lines) + "\n"


def with_file(file: Path | None, preset: str | None, overrides: list[str] | None) -> tuple[str, list[str]]:
    """Combine a preset, a file and the command line's overrides to a preset and overrides.

    Args:
        file: of ``--config``, or None. preset: of ``--preset``, or None for the file's.
        overrides: ``key=value`` words of the command line.

    Returns:
        The preset's name, and overrides: the file's keys whose values differ from the preset's, then ``overrides``.

    Raises:
        DataError: when the file is missing, is no YAML, or holds a key or value that is not allowed; when no preset is
            named, or file and ``preset`` name different ones.
    """
    words = list(overrides or [])
    if file is None:
        if preset is None:
            raise DataError(f"no preset is named: --preset NAME (one of {', '.join(PRESETS)}) or --config FILE")
        return check_preset(preset), words
    values, places = _read(file)
    named = values.pop("preset", None)
    if named is not None and named not in PRESETS:
        raise DataError(f"{places['preset']}: preset = {named!r}: allowed: {', '.join(PRESETS)}")
    if preset is not None and named not in (None, preset):
        raise DataError(f"{places['preset']}: preset = {named!r}, but --preset says {preset!r}: leave out one of them")
    if named is None and preset is None:
        raise DataError(f"{file} names no preset: add the line preset: NAME (one of {', '.join(PRESETS)}), or --preset")
    name = check_preset(named or preset or "")
    before = PRESETS[name].flat()
    _check_each(PRESETS[name], values, places)
    words = [*(f"{key}={json.dumps(value)}" for key, value in values.items() if value != before[key]), *words]
    try:
        load(name, words)
    except DataError as error:
        override(PRESETS[name], overrides or [])  # raises its own error if the command line alone is wrong
        raise DataError(f"{file}, with what is on the command line: {error}") from error
    return name, words


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _value(value: Any) -> str:
    """A value as YAML with one meaning for all readers: some read 1e-05 as text, but all read 1.0e-05 as a number."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w.-]*", value) and yaml.safe_load(value) == value
    return value if plain else json.dumps(value, allow_nan=False, ensure_ascii=False)


def _read(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a file: dotted key -> value, and dotted key -> ``FILE:LINE``.

    Raises:
        DataError: as ``with_file``.
    """
    from omegaconf import OmegaConf  # it reads 1e-3 as a number, as in overrides
    from omegaconf.errors import OmegaConfBaseException

    if not file.is_file():
        raise DataError(f"--config {file}: no such file; {BEGIN} (> {file.name})")
    try:
        text = file.read_text(encoding="utf-8")
        for event in yaml.parse(text):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise DataError(f"{file}:{line}: *{event.anchor}: aliases are not read; write the value itself")
        root = yaml.compose(text)
        if not isinstance(root, yaml.MappingNode):
            raise DataError(f"{file} holds no sections with keys, such as optim: {{lr: 0.001}}; {BEGIN}")
        places = _places(file, root)
        tree = OmegaConf.to_container(OmegaConf.create(text))
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text file in UTF-8 ({error.reason} at byte {error.start}); {BEGIN}") from error
    except yaml.YAMLError as error:
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            line, said = error.problem_mark.line, error.problem
        else:  # the file holds a character that YAML forbids
            line, said = text.count("\n", 0, getattr(error, "position", 0)), str(error).splitlines()[0]
        raise DataError(
            f"{file}:{line + 1}: this is no YAML: {said}; look at this line and the one above, or {BEGIN}"
        ) from error
    except RecursionError as error:
        raise DataError(f"{file}: sections in sections beyond what can be read; {BEGIN}") from error
    except OmegaConfBaseException as error:
        raise DataError(f"{file}: {' '.join(str(error).split())}; write values themselves, without ${{...}}") from error
    return {key: _at(tree, key) for key in places}, places


def _at(tree: Any, key: str) -> Any:
    """The value of a dotted key, which may be written in sections or as one name (``label.ratio: 0.3``)."""
    if key in tree:
        return tree[key]
    for name, inner in tree.items():
        if isinstance(inner, dict) and key.startswith(f"{name}."):
            with suppress(KeyError):
                return _at(inner, key.removeprefix(f"{name}."))
    raise KeyError(key)


def _places(file: Path, root: yaml.MappingNode) -> dict[str, str]:
    """Dotted key -> ``FILE:LINE`` of every value; raises DataError for unknown and repeated keys."""
    known = Config(preset="").flat()
    found: dict[str, str] = {}
    for key, place, node in _leaves(file, root, list(known)):
        if key not in known:
            raise DataError(f"{place}: {unknown_key(key, list(known))}")
        if isinstance(node, yaml.MappingNode):
            raise DataError(f"{place}: {key} is a key, not a section: write its value behind the colon")
        if key in found:
            raise DataError(f"{place}: {key} stands at {found[key]}, too: remove one of them")
        if not isinstance(known[key], str) and (odd := misread(_plain(node))):
            raise DataError(f"{place}: {key}: {odd}")
        found[key] = place
    return found


def _plain(node: yaml.Node) -> Iterator[str]:
    """The texts of a value, or of a list's, that have no quotes."""
    if isinstance(node, yaml.ScalarNode) and node.style is None:
        yield node.value
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            yield from _plain(one)


def _leaves(
    file: Path, node: yaml.MappingNode, known: list[str], prefix: str = ""
) -> Iterator[tuple[str, str, yaml.Node]]:
    for name, value in node.value:
        key, place = f"{prefix}{name.value}", f"{file}:{name.start_mark.line + 1}"
        inside = [one for one in known if one.startswith(f"{key}.")]
        if not inside:
            yield key, place, value
        elif isinstance(value, yaml.MappingNode):
            yield from _leaves(file, value, known, f"{key}.")
        else:
            some = ", ".join(one.rpartition(".")[2] for one in inside[:3])
            raise DataError(f"{place}: {key} is a section: write its keys under it ({some}, ...), or remove it")


def _check_each(preset: Config, values: dict[str, Any], places: dict[str, str]) -> None:
    """Check each value of a file by itself; rules about several keys are checked later.

    Raises:
        DataError: has one line per wrong value: place, key, value, allowed values, fix.
    """
    changes: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        place = changes
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    try:
        build(preset.model_dump(mode="json"), changes)
    except DataError as error:
        cause = error.__cause__
        problems = cause.errors() if isinstance(cause, ValidationError) else []
    else:
        return
    from pdetr3d.config_keys import keys

    every, before, wrong = keys(), preset.flat(), dict[str, str]()
    for problem in problems:
        loc = ".".join(map(str, problem["loc"]))
        for key in values:
            if key in wrong or not f"{loc}.".startswith(f"{key}."):
                continue
            wrong[key] = (
                f"{places[key]}: {key} = {json.dumps(values[key])}: {problem['msg'].removeprefix('Value error, ')}; "
                f"allowed: {every[key].allowed.replace('`', '')}. Change it there, or remove the line: the preset has "
                f"{json.dumps(before[key])}"
            )
    if wrong:
        raise DataError("\n".join(wrong.values()))
