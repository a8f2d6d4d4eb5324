"""Verbs on finished runs: export-labels, report-labels, compare, report, budget, doctor."""

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

RunFolder = Annotated[Path, typer.Argument(help="Run directory with pseudo labels.", metavar="RUN_DIR")]


class LabelFormat(StrEnum):
    """The formats of ``pdetr3d export-labels``."""

    RESULTS = "results"
    TABLES = "tables"


@app.command()
def export_labels(
    run_dir: RunFolder,
    out: Annotated[Path, typer.Option(help="JSON file (results) or new dataroot (tables). Must not exist.")],
    kind: Annotated[
        LabelFormat,
        typer.Option("--format", help="A nuScenes results file, or complete v1.0 tables in a new dataroot."),
    ] = LabelFormat.TABLES,
) -> None:
    """Write the labels of a run (people's boxes and accepted pseudo labels) in nuScenes' formats.

    Example: pdetr3d export-labels runs/quickstart --out exported
    """
    from pdetr3d.finished.labels.export_results import export_results
    from pdetr3d.finished.labels.export_tables import export_tables
    from pdetr3d.finished.labels.run_labels import RunLabels

    write = export_results if kind is LabelFormat.RESULTS else export_tables
    say(**write(RunLabels.open(run_dir), out))


@app.command()
def report_labels(
    run_dir: RunFolder,
    out: Annotated[Path | None, typer.Option(help="New folder. Default: RUN_DIR/pseudo_labels/report.")] = None,
    worst: Annotated[int, typer.Option(min=0, help="Number of pictures of the worst accepted labels.")] = 20,
) -> None:
    """Write a page on the pseudo labels of a run: quality by class, distance and score, and pictures of the worst.

    Example: pdetr3d report-labels runs/quickstart --worst 10
    """
    from pdetr3d.finished.labels.report import write_report
    from pdetr3d.finished.labels.run_labels import RunLabels

    say(**write_report(RunLabels.open(run_dir), out or run_dir / "pseudo_labels" / "report", worst))


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories; of one alone, its students are compared.", metavar="RUN...")
    ],
    html: Annotated[
        Path | None, typer.Option(help="Also write this HTML file, with pictures. It replaces an older one.")
    ] = None,
) -> None:
    """Print the final scores of runs side by side, and the config keys in which they differ.

    Of a single run it compares the students.

    Example: pdetr3d compare runs/one runs/other --html comparison.html
    """
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
    out: Annotated[
        Path | None, typer.Option(help="HTML file. It replaces an older one. Default: RUN/report.html.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help='Row of a search to compare with, e.g. "ratio=0.05". Default: the row of the config.'),
    ] = None,
) -> None:
    """Write the report of a run, or of a search, as one HTML page.

    A run: scores, the quality of its labels beside the floors, good and bad
    ones, curves, predictions, commands. A search: table, curves, importance of
    parameters, commands that repeat rows.

    Example: pdetr3d report runs/quickstart
    """
    from pdetr3d.finished.report.run_page import write_run_page
    from pdetr3d.finished.report.search_page import write_report
    from pdetr3d.run_files import is_run

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
    box_cost: Annotated[float, typer.Option(help="Cost of one 3D box, in any currency.")],
    click_cost: Annotated[float, typer.Option(help="Cost of one click.")],
    budget: Annotated[float, typer.Option(help="Budget for all labels.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the answer to this JSON file.")] = None,
    png: Annotated[Path | None, typer.Option(help="Also write the curves to this PNG file.")] = None,
) -> None:
    """Find the mix of boxes and clicks that buys the most SPNDS, from the scores of finished runs.

    Example: pdetr3d budget runs/search-label_ratio --box-cost 0.5 --click-cost 0.03 --budget 20000
    """
    from pdetr3d.data.storage.files import write_json
    from pdetr3d.finished.labels.budget import Prices, plan_budget
    from pdetr3d.finished.labels.budget_report import draw_budget, print_budget
    from pdetr3d.finished.labels.measured_runs import read_runs

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
    run_dir: Annotated[Path, typer.Argument(help="Run directory.", metavar="RUN_DIR")],
    against: Annotated[
        Path | None,
        typer.Option(help="Run directory with the same clicks and teacher.fusion=none, to show what images add."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read the files of the dataset again and compare their content.")
    ] = False,
) -> None:
    """List the problems of a run, with evidence and advice. It only reads. Problems do not change the exit code.

    Example: pdetr3d doctor runs/quickstart
    """
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
