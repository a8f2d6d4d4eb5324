"""Verbs on what was trained: export-labels, report-labels, compare, report, budget, doctor."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from pdetr3d.cli.app import app, say
from pdetr3d.errors import DataError

RunFolder = Annotated[Path, typer.Argument(help="Run directory whose pseudo labels are made.", metavar="RUN_DIR")]


class LabelFormat(StrEnum):
    """What ``pdetr3d export-labels`` writes."""

    RESULTS = "results"
    TABLES = "tables"


@app.command()
def export_labels(
    run_dir: RunFolder,
    out: Annotated[Path, typer.Option(help="results: the JSON file; tables: the new dataroot. Must not exist.")],
    kind: Annotated[
        LabelFormat, typer.Option("--format", help="A results file, or complete v1.0 tables under a new dataroot.")
    ] = LabelFormat.TABLES,
) -> None:
    """Write a run's labels (human boxes, accepted pseudo labels elsewhere) in nuScenes' formats, for other tools."""
    from pdetr3d.finished.labels.export_results import export_results
    from pdetr3d.finished.labels.export_tables import export_tables
    from pdetr3d.finished.labels.run_labels import RunLabels

    write = export_results if kind is LabelFormat.RESULTS else export_tables
    say(**write(RunLabels.open(run_dir), out))


@app.command()
def report_labels(
    run_dir: RunFolder,
    out: Annotated[Path | None, typer.Option(help="New folder. Default: RUN_DIR/pseudo_labels/report.")] = None,
    worst: Annotated[int, typer.Option(min=0, help="Pictures of the worst accepted labels, class by class.")] = 20,
) -> None:
    """Report a run's pseudo labels: quality by class, distance, score; reasons; pictures of the worst (index.html)."""
    from pdetr3d.finished.labels.report import write_report
    from pdetr3d.finished.labels.run_labels import RunLabels

    say(**write_report(RunLabels.open(run_dir), out or run_dir / "pseudo_labels" / "report", worst))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run directories.", metavar="RUN...")],
    html: Annotated[
        Path | None, typer.Option(help="HTML file to write, too, with pictures; over an older one.")
    ] = None,
) -> None:
    """Print the final figures of runs side by side, and the config keys that they differ in."""
    from pdetr3d.finished.report.compare import print_comparison, write_comparison
    from pdetr3d.finished.report.runs import open_runs

    opened = open_runs(runs)
    print_comparison(opened)
    if html is not None:
        say(page=write_comparison(opened, html))


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(help="Run directory, that of a search, or a search's results file.", metavar="RUN")
    ],
    out: Annotated[Path | None, typer.Option(help="HTML file, over an older one. Default: RUN/report.html.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help='Of a search: row to compare with, e.g. "ratio=0.05". Default: that of the config itself.'),
    ] = None,
) -> None:
    """Write the report of a run, or of a search, as one HTML page.

    A run: scores, the quality of its labels beside the floors, good and bad
    ones, curves, predictions, commands. A search: table, curves, importance of
    parameters, commands that repeat rows.
    """
    from pdetr3d.finished.report.run_page import is_run, write_run_page
    from pdetr3d.finished.report.search_page import write_report

    if is_run(folder):
        if baseline is not None:
            raise DataError(f"--baseline {baseline} is of a search, and {folder} is a run")
        say(page=write_run_page(folder, out))
    else:
        say(**write_report(folder, out, baseline))


@app.command()
def budget(
    runs: Annotated[
        list[Path], typer.Argument(help="Finished run directories at three label ratios or more, or search folders.")
    ],
    box_cost: Annotated[float, typer.Option(help="Of one 3D box, in any currency.")],
    click_cost: Annotated[float, typer.Option(help="Of one click.")],
    budget: Annotated[float, typer.Option(help="For all labels.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the answer to this JSON file, too.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write the curves to this PNG file, too.")] = None,
) -> None:
    """Say which mix of boxes and clicks buys the most SPNDS, by the label-efficiency curve of finished runs."""
    from pdetr3d.finished.labels.budget import Prices, plan_budget
    from pdetr3d.finished.labels.budget_report import draw_budget, print_budget
    from pdetr3d.finished.labels.measured_runs import read_runs
    from pdetr3d.training.run_dir import write_json

    prices = Prices(box_cost, click_cost, budget)
    answer = plan_budget(read_runs(runs), prices)
    print_budget(answer)
    if json_file is not None:
        write_json(json_file, answer)
    if png is not None:
        draw_budget(answer, png)
    if written := {name: path for name, path in (("json", json_file), ("picture", png)) if path is not None}:
        say(**written)


@app.command()
def doctor(
    run_dir: Annotated[Path, typer.Argument(help="Run directory to look at.", metavar="RUN_DIR")],
    against: Annotated[
        Path | None, typer.Option(help="Run directory on the same clicks with teacher.fusion=none: what do images add?")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read the dataset's files again, to compare contents.")] = False,
) -> None:
    """Say what is wrong with a run, with the evidence and what to try next. Reads only; problems are no error."""
    from pdetr3d.finished.doctor.diagnosis import diagnose, lines
    from pdetr3d.finished.doctor.run import Run, check_comparable

    run, other = Run(run_dir), None if against is None else Run(against)
    if other is not None:
        check_comparable(run, other)
    results = diagnose(run, other, deep)
    if as_json:
        print(json.dumps({name: asdict(result) for name, result in results.items()}, indent=1))
        return
    for style, line in lines(results):
        Console().print(Text(line, style), soft_wrap=True)
