"""Class names of a foreign dataset -> categories of the written one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from pdetr3d.schema import DataError
from pdetr3d.tables.names import CATEGORY

EXAMPLE = "it holds lines such as `Car: car` (null: no class)"


@dataclass(frozen=True)
class ClassMapping:
    """Own name -> class name, or None: no class.

    Attributes:
        targets: of every name that is known. source: file that says so, or words, for messages.
    """

    targets: Mapping[str, str | None]
    source: str

    @staticmethod
    def read(file: Path) -> ClassMapping:
        """Read a YAML file of own names, each with one of the ten classes, a name of your own, or null.

        Raises:
            DataError: when it cannot be read or is no such mapping.
        """
        try:
            value = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"--mapping {file}: cannot be read as YAML ({reason}); {EXAMPLE}") from error
        if not isinstance(value, dict) or not value:
            raise DataError(f"--mapping {file}: must be a mapping of names, but is {value!r}; {EXAMPLE}")
        wrong = {name: target for name, target in value.items() if not _name(name) or not _target(target)}
        if wrong:
            lines = "".join(f"\n  {name!r}: {target!r}" for name, target in wrong.items())
            raise DataError(f"--mapping {file}: names are texts, their classes texts or null, but not{lines}")
        return ClassMapping(value, f"--mapping {file}")

    def category(self, name: str) -> str:
        """What category.json calls an object: nuScenes' category of one of the ten classes; a name that is none of the
        ten as it is; the own name where there is no class (index and devkit then count it as of no class)."""
        target = self.targets[name]
        return name if target is None else CATEGORY.get(target, target)

    def problem(self, name: str) -> str:
        """What is wrong with a name; empty: it is known."""
        if name in self.targets:
            return ""
        close = difflib.get_close_matches(name, self.targets, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"class {name!r} is not in {self.source}: {hint}known are {', '.join(self.targets)}"

    def without_class(self, names: Iterable[str]) -> dict[str, int]:
        """How many of the names have no class, by name."""
        counts: dict[str, int] = {}
        for name in names:
            if self.targets[name] is None:
                counts[name] = counts.get(name, 0) + 1
        return counts


def _name(name: object) -> bool:
    return isinstance(name, str) and bool(name)


def _target(target: object) -> bool:
    return target is None or _name(target)
