"""Maps the class names of a foreign dataset to categories of the written one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from pdetr3d.class_list import ClassList
from pdetr3d.schema import DataError
from pdetr3d.strict_yaml import read_yaml
from pdetr3d.words import close_to

EXAMPLE = "it holds lines such as `Car: car` (null: no class)"


@dataclass(frozen=True)
class ClassMapping:
    """A mapping from the dataset's own names to classes.

    Attributes:
        targets: own name -> class name, or None: no class. source: the mapping's file, or its description, for
            messages. classes: the class list whose categories are written.
    """

    targets: Mapping[str, str | None]
    source: str
    classes: ClassList

    @staticmethod
    def of(classes: ClassList, names: Iterable[str] | None = None) -> ClassMapping:
        """The mapping of a list of own classes, by their categories.

        Args:
            names: all known names; a name that no class claims has no class. Default: the categories of the classes.
        """
        known = [category for each in classes.classes for category in each.categories] if names is None else names
        return ClassMapping(
            {name: classes.class_of(name) for name in known}, "--classes (--mapping names others)", classes
        )

    @staticmethod
    def read(file: Path, classes: ClassList) -> ClassMapping:
        """Read a YAML file: own name -> class, or null for none. Without own ``classes`` any class name is allowed.

        Raises:
            DataError: when the file cannot be read, is no such mapping, or names a class that is not in own classes.
        """
        try:
            value = read_yaml(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"--mapping {file}: cannot be read as YAML ({reason}); {EXAMPLE}") from error
        if not isinstance(value, dict) or not value:
            raise DataError(f"--mapping {file}: must be a mapping of names, but is {value!r}; {EXAMPLE}")
        wrong = {name: target for name, target in value.items() if not _name(name) or not _target(target)}
        if wrong:
            lines = "".join(f"\n  {name!r}: {target!r}" for name, target in wrong.items())
            raise DataError(f"--mapping {file}: names are texts, their classes texts or null, but not{lines}")
        if classes.own:
            strange = {n: t for n, t in value.items() if t is not None and t not in classes.names}
            lines = "".join(
                f"\n  {name}: {target!r}{close_to(target, classes.names)}" for name, target in strange.items()
            )
            if strange:
                allowed = ", ".join(classes.names)
                raise DataError(
                    f"--mapping {file}: classes that are not in --classes (allowed: {allowed}, null):{lines}"
                )
        return ClassMapping(value, f"--mapping {file}", classes)

    def category(self, name: str) -> str:
        """The category of an object in category.json.

        An own name is kept if its class claims it, or if it has no class, as index and devkit then ignore the object.
        Otherwise it is the category of the object's class (for the ten classes nuScenes'), or the class name itself if
        the class is not in the list.
        """
        target = self.targets[name]
        if target is None or self.classes.class_of(name) == target:
            return name
        return self.classes.category_of(target) if target in self.classes.names else target

    def problem(self, name: str) -> str:
        """The message about an unknown name; "" for a known one."""
        if name in self.targets:
            return ""
        known = ", ".join(self.targets)
        return f"class {name!r}{close_to(name, self.targets)} is not in {self.source}; known are {known}"

    def without_class(self, names: Iterable[str]) -> dict[str, int]:
        """The names without class, and how often each occurs."""
        counts: dict[str, int] = {}
        for name in names:
            if self.targets[name] is None:
                counts[name] = counts.get(name, 0) + 1
        return counts


def _name(name: object) -> bool:
    return isinstance(name, str) and bool(name)


def _target(target: object) -> bool:
    return target is None or _name(target)
