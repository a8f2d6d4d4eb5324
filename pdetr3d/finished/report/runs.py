"""Reads run directories for reports and comparisons: the config and the figures of finished stages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pdetr3d.run_files import RunFiles
from pdetr3d.schema import DataError

NOT_CONFIG = ("code", "tables")  # entries of run.json that are no config keys
DATA = (
    "data.version",
    "data.val_split",
    "data.classes",
    "data.categories",
    "tables",
    "sim.",
)  # keys and prefixes of keys that determine the data of scores


class Run(RunFiles):
    """One run directory.

    Attributes:
        name: differs from the names of other runs in the report.
    """

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(path)
        self.name = name

    @property
    def students(self) -> list[str]:
        """Names of the scored student arms."""
        return [arm for arm in self.scored if arm != "teacher"]

    @property
    def timing_s(self) -> dict[str, float]:
        """Stage -> seconds, if a pipeline or a search's trial measured them; 0 for a stage that was finished before."""
        return self.report.get("timing") or self.stage("trial").get("timing_s") or {}

    @property
    def peak_bytes(self) -> int | None:
        """Peak memory of a pipeline [bytes], or None."""
        return self.report.get("memory", {}).get("peak_rss_bytes")


def open_runs(paths: Sequence[Path]) -> list[Run]:
    """Open the runs to compare.

    Raises:
        DataError: for a repeated path, a single run with fewer than two scored students, or a folder that is no run
            directory.
    """
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise DataError(f"compare needs different run directories; got {', '.join(map(str, paths))}")
    runs = [open_run(path, name) for path, name in zip(paths, short_names(resolved), strict=True)]
    if len(runs) == 1 and len(runs[0].students) < 2:
        raise DataError(
            f"compare needs two or more run directories, or one with two or more scored students; {paths[0]} has "
            f"{', '.join(runs[0].students) or 'none'}: name another run, too, or see pdetr3d report {paths[0]}"
        )
    return runs


def open_run(path: Path, name: str = "") -> Run:
    """Open one run. Its name is the last part of its path unless ``name`` is given.

    Raises:
        DataError: for a folder that is no run directory.
    """
    path = RunFiles.open(path).path.resolve()
    return Run(name or path.name, path)


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of different paths, as few as make all names different."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return [str(Path(*path.parts[-depth:])) for path in paths]


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys of ``identity`` in which runs differ, config keys first. A missing key counts as a difference."""
    keys = dict.fromkeys(key for run in runs for key in run.identity)
    different = [key for key in keys if len({json.dumps(run.identity.get(key, "absent")) for run in runs}) > 1]
    return sorted(different, key=lambda key: (key in NOT_CONFIG, key))
