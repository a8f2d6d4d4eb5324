"""``pdetr3d compare``: final figures of runs, or of one run's students, side by side, and differences of configs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Terminal
from rich.text import Text as Plain

from pdetr3d.evaluation.figures import QUALITY
from pdetr3d.finished.report import charts
from pdetr3d.finished.report.page import Block, Command, Section, Table, Text, write_page
from pdetr3d.finished.report.pictures import galleries
from pdetr3d.finished.report.reproduce import run_command
from pdetr3d.finished.report.runs import DATA, Run, differing
from pdetr3d.finished.report.search import compact, value_at
from pdetr3d.schema import DataError
from pdetr3d.tracking.history import Curve, read_histories
from pdetr3d.words import NONE, number

SCORES = ("mAP", "mAP_present", "NDS", "SPNDS", "mATE", "mASE", "mAOE")
BY_DISTANCE = ("bev_iou", "yaw_error_rad")  # figures of boxes at clicks that are also shown by distance
ABSENT = "absent"
CURVES = ("loss", "select/SPNDS", "select/bev_iou")  # MLflow metrics


def tables(runs: Sequence[Run]) -> list[Table]:
    """The tables of figures: one column per run, or for a single run one per student. Empty tables are left out."""
    names = [run.name for run in runs]
    if len(runs) == 1:
        return _students(runs[0])
    arms = sorted({arm for run in runs for arm in run.students})
    labels = [run.stage("pseudo_labels") for run in runs]
    quality = [(stage.get("teacher") or {}) | {"accepted": stage.get("accepted")} for stage in labels]
    made = [
        *(
            _figures(names, f"Student {a}: devkit scores, val split", [r.scores(a) for r in runs], SCORES, ("mAP",))
            for a in arms
        ),
        _figures(
            names,
            "Teacher: boxes at the clicks of the val split",
            [run.scores("teacher") for run in runs],
            QUALITY,
            BY_DISTANCE,
        ),
        _figures(
            names,
            "Pseudo labels: boxes at the clicks of a run's own point-labeled samples",
            quality,
            ("accepted", *QUALITY),
            BY_DISTANCE,
        ),
        _costs(names, [run.timing_s for run in runs], [run.peak_bytes for run in runs]),
    ]
    return [table for table in made if any(cell != NONE for row in table.rows for cell in row[1:])]


def _students(run: Run) -> list[Table]:
    """The tables of one run's students: scores, AP by class, and training times."""
    names, found = run.students, [run.scores(arm) for arm in run.students]
    classes = dict.fromkeys(name for scores in found for name in scores.get("per_class", ()))
    by_class = [[name, *(number(value_at(f, ("per_class", name, "AP"))) for f in found)] for name in classes]
    timing = [{"training_s": run.timing_s[key]} if (key := f"student_{a}") in run.timing_s else {} for a in names]
    made = [
        _figures(names, "Students: devkit scores, val split", found, SCORES, ("mAP",)),
        Table(["AP", *names], by_class, "Students: AP by class"),
        _costs(names, timing),
    ]
    return [table for table in made if table.rows]


def config_table(runs: Sequence[Run]) -> Table:
    """The flat config keys in which the runs differ, with each run's value."""
    rows = [
        [key, *(compact(run.identity[key]) if key in run.identity else ABSENT for run in runs)]
        for key in differing(runs)
    ]
    return Table(["key", *(run.name for run in runs)], rows, "What the runs differ in")


def warning(runs: Sequence[Run]) -> str:
    """A warning that the runs' scores are on different data; "" if they are on the same."""
    keys = [key for key in differing(runs) if key.startswith(DATA)]
    return (
        f"Figures may not be comparable: the runs differ in {', '.join(keys)}, which they are scored on."
        if keys
        else ""
    )


def print_comparison(runs: Sequence[Run]) -> None:
    """Print all tables on the terminal."""
    console, shown = Console(), tables(runs)
    for table in (*shown, *([config_table(runs)] if len(runs) > 1 else [])):
        terminal = Terminal(title=Plain(table.title))
        for place, heading in enumerate(table.headings):
            terminal.add_column(escape(heading), no_wrap=place == 0, overflow="fold")
        for row in table.rows:
            terminal.add_row(*map(Plain, row))
        console.print(terminal)
    for line in notes(runs, shown):
        console.print(Plain(line), soft_wrap=True)


def notes(runs: Sequence[Run], shown: Sequence[Table]) -> list[str]:
    """Sentences beside the tables: missing figures, equal configs, and ``warning``."""
    said = [] if shown else ["No stage that has figures is finished in any of the runs."]
    said += [] if len(runs) == 1 or differing(runs) else ["The runs have the same config, code and data tables."]
    return said + [line for line in (warning(runs),) if line]


def write_comparison(runs: Sequence[Run], file: Path) -> Path:
    """Write the comparison as a page; it also shows learning curves, and pictures of the same name side by side.

    Raises:
        DataError: for a picture that cannot be read.
    """
    shown, config, one = tables(runs), config_table(runs), runs[0]
    alone = len(runs) == 1
    beside = {arm: one.path / f"student_{arm}" for arm in one.students} if alone else {r.name: r.path for r in runs}
    pictures = galleries(beside)
    sections = [
        Section("Figures", [*map(Text, notes(runs, shown)), *shown]),
        Section("Learning curves", _curves(runs)),
        *([] if alone else [Section("Config", [config] if config.rows else [Text("No key differs.")])]),
        Section("Pictures", pictures or [Text("No two of them hold a picture of the same name.")]),
        Section("The run again" if alone else "Every run again", [_again(run) for run in runs]),
    ]
    title = f"Students of {one.name} side by side" if alone else f"{len(runs)} runs side by side"
    return write_page(file, title, [f"{run.name}: {run.path}" for run in runs], sections)


def _curves(runs: Sequence[Run]) -> list[Block]:
    """One chart per metric of CURVES with a line per run and stage, and a note for each unreadable history."""
    lines: dict[str, dict[str, Curve]] = {key: {} for key in CURVES}
    unread = []
    for run in runs:
        histories, problems = read_histories(run.path, CURVES)
        unread += [f"{run.name}: {problem}" for problem in problems.values()]
        for stage, history in histories.items():
            for key, curve in history.curves.items():
                lines[key][stage if len(runs) == 1 else f"{run.name} {stage}"] = curve
    made: list[Block] = [charts.histories(key, by_name) for key, by_name in lines.items() if by_name]
    return [*(made or [Text("None: no run logged any in MLflow.")]), *map(Text, unread)]


def _again(run: Run) -> Block:
    try:
        return Command(f"{run.name} (its code: {run.identity.get('code')})", run_command(run))
    except DataError as error:
        return Text(f"{run.name}: {error}")


def _figures(
    names: Sequence[str], title: str, found: Sequence[dict[str, Any]], keys: Sequence[str], binned: Sequence[str]
) -> Table:
    """A table of the figures ``found`` (one dict per column): a row per key, then a row per distance bin and key of
    ``binned``."""
    bins = dict.fromkeys(name for figures in found for name in figures.get("by_distance", ()))
    paths = {key: (key,) for key in keys} | {f"{k} at {b} m": ("by_distance", b, k) for k in binned for b in bins}
    rows = [[name, *(number(value_at(figures, path)) for figures in found)] for name, path in paths.items()]
    return Table(["", *names], rows, title)


def _costs(names: Sequence[str], timing: Sequence[dict[str, float]], peaks: Sequence[int | None] = ()) -> Table:
    stages = dict.fromkeys(stage for of_run in timing for stage in of_run)
    rows = [[f"{stage.removesuffix('_s')} [s]", *(number(t.get(stage), 1) for t in timing)] for stage in stages]
    if peaks:
        rows.append(["peak memory [MiB]", *(number(None if peak is None else peak / 2**20, 0) for peak in peaks)])
    return Table(["", *names], rows, f"Time{' and memory' if peaks else ''} (0: finished before)")
