"""A sweep's ``sweep.json``, as reports read it: rows of parameters, their figures by seed, the baseline.

``score``: the judged metric on the select split, by which trials were compared and rows are sorted. A *figure* is what
a finished trial reached on the val split, where nothing was chosen.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from pdetr3d.finished.report.spread import Spread
from pdetr3d.schema import DataError

FILE = "sweep.json"
SEED = "seed"  # the parameter of a trial that is its seed
NEEDED = (
    "space",
    "preset",
    "command",
    "commit",
    "date",
    "config",
    "metric",
    "mode",
    "judged",
    "trials",
    "groups",
    "shared",
)


@dataclass(frozen=True)
class Row:
    """Trials that differ in their seed alone.

    Attributes:
        name: its parameters as words, unlike that of any other row. parameters: config key -> value.
        trials: entries of ``sweep.json``, in order.
    """

    name: str
    parameters: dict[str, Any]
    trials: tuple[dict[str, Any], ...]

    @property
    def finished(self) -> list[dict[str, Any]]:
        """Those that were trained and scored to the end."""
        return [trial for trial in self.trials if trial["status"] == "finished"]

    def by_seed(self, *path: str) -> dict[int, float]:
        """Seed -> figure at ``path`` in ``final`` (stage, key, ...), over the finished trials that have it; the mean of
        trials that a random search drew twice with one seed."""
        return _by_seed(self.finished, ("final", *path))

    def spread(self, *path: str) -> Spread:
        """Of ``by_seed``."""
        return Spread.of(self.by_seed(*path).values())

    @property
    def score(self) -> Spread:
        """On the select split, over all finished trials, or over all where none is finished."""
        return Spread.of(_by_seed(self.finished or self.trials, ("score",)).values())


class Sweep:
    """What a sweep left in its run directory.

    Attributes:
        folder: the directory. document: of ``sweep.json``. rows: best score first, unfinished ones last.
        metric, mode, judged: by what trials were compared, "min" or "max", of which stage. keys: that are varied.
    """

    def __init__(self, folder: Path, document: dict[str, Any]) -> None:
        self.folder, self.document = folder, document
        self.metric, self.mode, self.judged = (str(document[key]) for key in ("metric", "mode", "judged"))
        self.trials: list[dict[str, Any]] = document["trials"]
        self.keys = list(document["space"]["space"])
        by_name = {trial["name"]: trial for trial in self.trials}
        groups = document["groups"]
        names = row_names([group["parameters"] for group in groups])
        self.rows = [
            Row(name, group["parameters"], tuple(by_name[trial] for trial in group["trials"]))
            for name, group in zip(names, groups, strict=True)
        ]

    @staticmethod
    def open(folder: Path) -> Sweep:
        """Read ``folder/sweep.json``.

        Raises:
            DataError: when there is none, it cannot be read, or it is no sweep's.
        """
        file = folder / FILE
        if not file.is_file():
            raise DataError(
                f"{file}: no such file; name the run directory of a sweep that has ended (python -m ray_jobs.sweep "
                "writes it at its end; the same command continues an interrupted one)"
            )
        try:
            document = json.loads(file.read_text())
        except ValueError as error:
            raise DataError(f"{file} is not JSON ({error}); run the sweep's command again to write it anew") from error
        missing = [key for key in NEEDED if not isinstance(document, dict) or key not in document]
        if missing:
            raise DataError(f"{file} lacks {', '.join(missing)}: written by other code? run the sweep's command again")
        return Sweep(folder, document)

    @property
    def stages(self) -> list[str]:
        """What finished trials have figures of, the judged stage first."""
        stages = [stage for row in self.rows for trial in row.finished for stage in trial["final"]]
        return sorted(dict.fromkeys(stages), key=lambda stage: stage != self.judged)

    def figures(self, row: Row) -> dict[int, float]:
        """Seed -> the judged metric on the val split."""
        return row.by_seed(self.judged, self.metric)

    def baseline(self, name: str | None = None) -> tuple[Row | None, str]:
        """The row that others are compared with, and why it is that one: ``name``; else the row of the config as it is
        without the space; else the one whose trial started first. Rows without figures are none.

        Raises:
            DataError: when there is no row ``name``, or it has no figures.
        """
        known = [row for row in self.rows if self.figures(row)]
        if name is not None:
            found = [row for row in known if set(row.name.split()) == set(name.split())]
            if not found:
                there = "\n".join(f"  {row.name}" for row in known) or "  (none)"
                raise DataError(f"--baseline {name!r}: no finished row of that name; there are\n{there}")
            return found[0], "named by --baseline"
        config = self.document["config"]
        for row in known:
            if all(value_at(config, key.split(".")) == value for key, value in row.parameters.items()):
                return row, "the config's own values"
        first = next((trial for trial in self.trials for row in known if trial in row.finished), None)
        if first is None:
            return None, "no trial is finished"
        row = next(row for row in known if first in row.trials)
        return row, "the first finished trial's; no finished row has the config's own values"

    def lines(self, count: int, *also: Row | None) -> Iterator[Row]:
        """Up to ``count`` rows with figures, the best ones and all of ``also``, in order."""
        known = [row for row in self.rows if self.figures(row)]
        kept = [row for row in also if row is not None]
        kept += [row for row in known if row not in kept][: max(0, count - len(kept))]
        return (row for row in known if row in kept)


def _by_seed(trials: Sequence[dict[str, Any]], path: Sequence[str]) -> dict[int, float]:
    found: dict[int, list[float]] = defaultdict(list)
    for trial in trials:
        value = value_at(trial, path)
        if value is not None:
            found[trial["parameters"][SEED]].append(value)
    return {seed: float(np.mean(values)) for seed, values in sorted(found.items())}


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Config key -> what is left of it when sections are left out; whole keys where that would make two alike."""
    short = {key: key.rsplit(".", 1)[-1] for key in keys}
    return short if len(set(short.values())) == len(short) else {key: key for key in keys}


def row_names(parameters: Sequence[dict[str, Any]]) -> list[str]:
    """Names of rows: "roi_grid=3 free_points=4"; with all digits where fewer would make two alike."""
    short = short_keys(list(dict.fromkeys(key for row in parameters for key in row)))
    names = [" ".join(f"{short[key]}={value_text(value)}" for key, value in row.items()) for row in parameters]
    if len(set(names)) == len(names):
        return names
    return [" ".join(f"{short[key]}={compact(value)}" for key, value in row.items()) for row in parameters]


def value_text(value: Any) -> str:
    """A parameter for people: numbers with four digits, no blanks."""
    return f"{value:.4g}" if isinstance(value, float) else compact(value)


def compact(value: Any) -> str:
    """A parameter with all digits, without blanks."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def value_at(tree: Any, path: Sequence[str]) -> Any:
    """What nested dicts hold at a path of keys; None where they end before."""
    return reduce(lambda node, key: node.get(key) if isinstance(node, dict) else None, path, tree)
