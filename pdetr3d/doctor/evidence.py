"""What a diagnosis looks at, as plain values: checks need neither files nor MLflow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pdetr3d.tracking.history import History


class Unknown(Exception):
    """A check cannot be made; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        title: what is wrong, in one line. severity: "problem" or "warning".
        evidence: numbers and where they were read, one per line. advice: what to try next, the likeliest first; config
            keys and commands in backticks.
    """

    title: str
    severity: Literal["problem", "warning"]
    evidence: tuple[str, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Quality:
    """Boxes at clicks against their true boxes.

    Attributes:
        source: file under the run directory. teacher, floors: what ``pseudo_label_quality`` returned, of the teacher and
            of boxes that need no training (name -> quality; empty where they were not measured).
    """

    source: str
    teacher: dict[str, Any]
    floors: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Other:
    """The run that this one is held against: its path, its flat config, its quality."""

    path: Path
    config: dict[str, Any]
    quality: Quality


@dataclass(frozen=True)
class LabelGroup:
    """Pseudo labels of one class or distance band: ``clicks`` within ``model.range_m``, and how many of them were
    rejected for which reason."""

    clicks: int
    rejected: dict[str, int]


@dataclass(frozen=True)
class StrayClick:
    """A click outside its box: ``outside_m`` [m] from the nearest surface of its box, or of the nearest box of its
    class where none is its own; None where the sample has no box of the class."""

    sample_token: str
    name: str
    outside_m: float | None


@dataclass(frozen=True)
class ClickFacts:
    """Clicks of box-labeled samples against their boxes.

    Attributes:
        clicks: how many. stray: those outside, the farthest first.
        shift_m: median (x, y, z) [m] from the centers of their boxes (LIDAR_TOP); None without any.
    """

    clicks: int
    stray: tuple[StrayClick, ...]
    shift_m: tuple[float, float, float] | None


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run; what is None could not be read, and ``unknown`` says why by field name.

    Attributes:
        path: the run directory. config: its keys, flat, as it wrote them down.
        quality: of its pseudo labels. other: the run of ``--against``.
        labels: "class car", "30-40 m", ... -> group.
        clicks: on its box-labeled samples.
        skipped: split -> (samples left out, samples).
        stages: finished training stages ("teacher", "student_ours", ...) -> their done.json.
        histories: name of an MLflow run (stages, too) -> its curves.
        scores: arm -> its evaluate_ARM/done.json.
        streams: stage -> what Ray Data says of its loading tasks, one line.
    """

    path: Path
    config: dict[str, Any]
    quality: Quality | None = None
    other: Other | None = None
    labels: dict[str, LabelGroup] | None = None
    clicks: ClickFacts | None = None
    skipped: dict[str, tuple[int, int]] | None = None
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    streams: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)

    def need(self, name: str) -> Any:
        """A field that is not None.

        Raises:
            Unknown: with the reason.
        """
        value = getattr(self, name)
        if value is None:
            raise Unknown(self.unknown.get(name, f"{name} could not be read"))
        return value

    def training(self) -> dict[str, History]:
        """Histories of the training stages.

        Raises:
            Unknown: when there is none.
        """
        found = {name: h for name, h in self.histories.items() if name == "teacher" or name.startswith("student_")}
        if not found:
            raise Unknown(self.unknown.get("histories", "no training stage has logged anything yet"))
        return found

    def setting(self, key: str, value: object) -> str:
        """"`key=value` (now ...)" for advice."""
        return f"`{key}={value}` (now {self.config.get(key, 'unknown')})"
