"""Run directories as ``pdetr3d compare`` reads them: config and the figures of finished stages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdetr3d.finished.report.search import value_at
from pdetr3d.schema import DataError

NOT_CONFIG = ("code", "tables")  # beside the config's keys in run.json
NO_DIFFERENCE = "fresh"  # an entry there that only keeps runs begun anew apart
DATA = (
    "data.version",
    "data.val_split",
    "data.classes",
    "data.categories",
    "tables",
    "sim.",
)  # what runs are scored on


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        name: unlike that of any other run beside it. path: the directory.
        identity: of ``run.json``: flat config without what does not change a run's results, versions of the
            stages' formats ("code") and the digest of the dataset's tables ("tables").
    """

    name: str
    path: Path
    identity: dict[str, Any]

    def stage(self, name: str) -> dict[str, Any]:
        """What a finished stage stored; empty where it is not finished.

        Raises:
            DataError: when the file cannot be read.
        """
        return read(self.path / name / "done.json")

    @property
    def arms(self) -> list[str]:
        """Student arms that are scored."""
        return sorted(file.parent.name.removeprefix("evaluate_") for file in self.path.glob("evaluate_*/done.json"))

    def arm(self, name: str) -> dict[str, Any]:
        """Devkit scores of an arm on the val split; of "teacher": quality of its boxes at that split's clicks."""
        trial = (
            value_at(self.stage("trial"), ("final", name)) or {}
        )  # of a search's trial, whose teacher is scored there
        return self.stage(f"evaluate_{name}") or trial

    @property
    def timing_s(self) -> dict[str, float]:
        """Stage -> seconds, where a pipeline or a search's trial wrote them down; 0 for one that was there before."""
        return value_at(read(self.path / "report.json"), ("timing",)) or self.stage("trial").get("timing_s") or {}

    @property
    def peak_bytes(self) -> int | None:
        """Most memory that a pipeline used."""
        return value_at(read(self.path / "report.json"), ("memory", "peak_rss_bytes"))


def open_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs to compare.

    Raises:
        DataError: for fewer than two, the same one twice, or a folder that is no run directory.
    """
    resolved = [path.resolve() for path in paths]
    if len(resolved) < 2 or len(set(resolved)) < len(resolved):
        raise DataError(f"compare needs two or more different run directories; got {', '.join(map(str, paths))}")
    return [open_run(path, name) for path, name in zip(paths, short_names(resolved), strict=True)]


def open_run(path: Path, name: str = "") -> Run:
    """One run, called by the last part of its path unless a ``name`` is given.

    Raises:
        DataError: for a folder that is no run directory.
    """
    if not (path / "run.json").is_file():
        raise DataError(
            f"{path} is no run directory: it has no run.json (jobs write there what --run-dir names; trials of a "
            "search are SEARCH/trials/NAME)"
        )
    path = path.resolve()
    return Run(name or path.name, path, {k: v for k, v in read(path / "run.json").items() if k != NO_DIFFERENCE})


def short_names(paths: Sequence[Path]) -> list[str]:
    """As many last parts of the (different) paths as tell them apart."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return [str(Path(*path.parts[-depth:])) for path in paths]


def differing(runs: Sequence[Run]) -> list[str]:
    """Keys of ``identity`` that runs differ in, the config's first; one that a run lacks counts as a difference."""
    keys = dict.fromkeys(key for run in runs for key in run.identity)
    different = [key for key in keys if len({json.dumps(run.identity.get(key, "absent")) for run in runs}) > 1]
    return sorted(different, key=lambda key: (key in NOT_CONFIG, key))


def read(file: Path) -> dict[str, Any]:
    """A JSON file of a run directory; empty where there is none."""
    try:
        return json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error}); remove it and run its job again") from error
