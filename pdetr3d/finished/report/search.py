"""Reads a search's ``search.json`` for reports: rows of parameters, their figures by seed, the baseline.

The *score* of a trial is the judged metric by which trials were compared and rows are sorted. It is measured on
``scored_on``: the select split, or the first point-labeled samples; with "final" it is the figure. A *figure* is the
final measurement of a finished trial on ``measured_on``: the val split, on which nothing is chosen, or the
point-labeled samples, from which no teacher learns.
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

from pdetr3d.finished.labels.measured_runs import SEARCHES
from pdetr3d.finished.report.spread import Spread
from pdetr3d.finished.report.study_results import from_study
from pdetr3d.json_files import read_json
from pdetr3d.pseudo_labels import FLOORS
from pdetr3d.run_files import SEED, VARIANT
from pdetr3d.schema import DataError

SCORED = {"select": "select", "point_labeled": "curve", "final": "final"}  # ``scored_on`` -> the score's name
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
    """The trials with the same parameters, which differ only in their seed.

    Attributes:
        name: the parameters as words; different for every row. parameters: config key -> value.
        trials: entries of ``search.json``, in order.
    """

    name: str
    parameters: dict[str, Any]
    trials: tuple[dict[str, Any], ...]

    @property
    def finished(self) -> list[dict[str, Any]]:
        """The trials that were trained and scored to the end."""
        return [trial for trial in self.trials if trial["status"] == "finished"]

    def by_seed(self, *path: str) -> dict[int, float]:
        """Seed -> figure at ``path`` in ``final`` (stage, key, ...), of the finished trials that have it.

        If a random search drew the same parameters and seed twice, the value is the mean of both trials.
        """
        return self.values("final", *path)

    def values(self, *path: str) -> dict[int, float]:
        """As ``by_seed``, for any figure of trials: ``path`` begins with "final", "corruption", "costs" or "data"."""
        return _by_seed(self.finished, path)

    def spread(self, *path: str) -> Spread:
        """Mean and deviation of ``by_seed``."""
        return Spread.of(self.by_seed(*path).values())

    @property
    def score(self) -> Spread:
        """Mean and deviation of the scores of finished trials, or of all trials if none is finished."""
        return Spread.of(_by_seed(self.finished or self.trials, ("score",)).values())


class Search:
    """The results of a search.

    Attributes:
        folder: its run directory. document: the content of ``search.json``. rows: best score first, unfinished ones
            last. metric, mode, judged: the metric by which trials are compared, "min" or "max", and the judged stage.
        measured_on, scored_on: the data of figures and of scores. domains: varied parameter -> its domain
            (``ray_jobs.searches.space.Domain`` as JSON). keys: the varied parameters.
    """

    def __init__(self, folder: Path, document: dict[str, Any]) -> None:
        self.folder, self.document = folder, document
        self.metric, self.mode, self.judged = (str(document[key]) for key in ("metric", "mode", "judged"))
        # In older documents "corruption" is named "trouble".
        self.trials: list[dict[str, Any]] = [
            {"corruption" if key == "trouble" else key: value for key, value in trial.items()}
            for trial in document["trials"]
        ]
        # Older documents lack these keys; their values were always the defaults.
        self.measured_on, self.scored_on = document.get("measured_on", "val"), document.get("scored_on", "select")
        self.variants: dict[str, dict[str, Any]] = document["space"].get("variants") or {}
        named = {VARIANT: {"values": list(self.variants)}} if self.variants else {}
        self.domains: dict[str, dict[str, Any]] = named | document["space"]["space"]
        self.keys = list(self.domains)
        by_name = {trial["name"]: trial for trial in self.trials}
        groups = document["groups"]
        names = row_names([group["parameters"] for group in groups])
        self.rows = [
            Row(name, group["parameters"], tuple(by_name[trial] for trial in group["trials"]))
            for name, group in zip(names, groups, strict=True)
        ]

    @staticmethod
    def open(path: Path) -> Search:
        """Read the ``search.json`` of a run directory, or a file of that form such as results/SPACE.json.

        Raises:
            DataError: when the file is missing, cannot be read, or is not the document of a search.
        """
        folder = path if path.is_dir() else path.parent
        file = next((f for f in (path, *(path / name for name in SEARCHES)) if f.is_file()), path / SEARCHES[0])
        if not file.is_file():
            raise DataError(
                f"{file}: no such file; name the run directory of a search that has ended (python -m ray_jobs.search "
                "writes it at its end; the same command continues an interrupted one)"
            )
        document = read_json(file, "run the search's command again to write it anew")
        if isinstance(document, dict) and "study" in document:
            document = from_study(document)
        missing = [key for key in NEEDED if not isinstance(document, dict) or key not in document]
        if missing:
            raise DataError(f"{file} lacks {', '.join(missing)}: written by other code? run the search's command again")
        return Search(folder, document)

    @property
    def score_name(self) -> str:
        """The name of ``Row.score`` in tables and on axes."""
        return f"{self.metric} ({SCORED[self.scored_on]})"

    @property
    def stages(self) -> list[str]:
        """The stages of which finished trials have figures, the judged one first, without floors."""
        stages = [stage for row in self.rows for trial in row.finished for stage in trial["final"]]
        known = dict.fromkeys(stage for stage in stages if stage not in FLOORS)
        return sorted(known, key=lambda stage: stage != self.judged)

    @property
    def floors(self) -> list[str]:
        """The floors (boxes without a teacher) of which finished trials have figures."""
        return [name for name in FLOORS if any(name in trial["final"] for row in self.rows for trial in row.finished)]

    def figures(self, row: Row) -> dict[int, float]:
        """Seed -> the judged metric of a row's finished trials."""
        return row.by_seed(self.judged, self.metric)

    def baseline(self, name: str | None = None) -> tuple[Row | None, str]:
        """The row with which others are compared, and the reason for this choice.

        It is the first of these that has figures: the row ``name``; the space's reference; the row with the config's
            own
        values; the row of the first finished trial.

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
        reference = self.document["space"].get("reference")
        for row in known:
            if reference is not None and row.parameters[VARIANT] == reference:
                return row, "the space's reference"
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
        """Up to ``count`` rows with figures, in order: all of ``also``, and the best of the others."""
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
    """Config key -> its last part; the whole key for all keys if two last parts are equal."""
    short = {key: key.rsplit(".", 1)[-1] for key in keys}
    return short if len(set(short.values())) == len(short) else {key: key for key in keys}


def row_names(parameters: Sequence[dict[str, Any]]) -> list[str]:
    """Different names for rows, e.g. "roi_grid=3 free_points=4"; a variant has its own name.

    Numbers have four digits, or all digits if two names would be equal otherwise.
    """
    short = short_keys(list(dict.fromkeys(key for row in parameters for key in row)))
    for text in (value_text, compact):
        names = [
            " ".join(value if key == VARIANT else f"{short[key]}={text(value)}" for key, value in row.items())
            for row in parameters
        ]
        if len(set(names)) == len(names):
            break
    return names


def value_text(value: Any) -> str:
    """A parameter's value for people: numbers with four digits, no blanks."""
    return f"{value:.4g}" if isinstance(value, float) else compact(value)


def compact(value: Any) -> str:
    """A parameter's value with all digits, without blanks."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def value_at(tree: Any, path: Sequence[str]) -> Any:
    """The value in nested dicts at a path of keys; None if a key is missing."""
    return reduce(lambda node, key: node.get(key) if isinstance(node, dict) else None, path, tree)
