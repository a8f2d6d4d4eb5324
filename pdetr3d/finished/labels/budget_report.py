"""Prints the answer on a label budget as tables and sentences, and draws it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from pdetr3d.data.storage.files import atomic_path
from pdetr3d.finished.labels.budget import KINDS
from pdetr3d.words import number

COLORS = {"ours": "tab:blue", "boxes_only": "tab:orange", "boxes + clicks": "tab:blue", "boxes only": "tab:orange"}
ARM_COLUMNS = ("ours", "boxes_only", "full")


def print_budget(document: dict[str, Any]) -> None:
    """Print the tables of runs and allocations, the answer, and the notes; ``document``: from ``plan_budget``."""
    console = Console(width=140)
    prices = document["prices"]
    runs = Table(
        "label ratio", "seed", "boxed keyframes", "boxes", "clicks", "cost", *ARM_COLUMNS, title="SPNDS of runs"
    )
    for run in document["runs"]:
        scores = [number(run["spnds"].get(arm), 3) for arm in ARM_COLUMNS]
        counts = [f"{run[key]:,}" for key in ("boxed", "boxes", "clicks")]
        runs.add_row(f"{run['ratio']:.4g}", str(run["seed"]), *counts, f"{run['cost']:,.2f}", *scores)
    console.print(runs)
    title = f"{prices['budget']:g} buys, at {prices['box']:g} a box and {prices['click']:g} a click"
    table = Table(
        "", "keyframes boxed", "clicked", "annotated", "boxes", "clicks", "cost", "SPNDS (5 % - 95 %)", title=title
    )
    for name, a in document["allocations"].items():
        mark = "recommended: " if name == document["recommended"] else ""
        counts = [f"{a[key]:,}" for key in ("boxed", "clicked", "annotated", "boxes", "clicks")]
        low, high = a["interval"]
        table.add_row(mark + name, *counts, f"{a['cost']:,.2f}", f"{a['spnds']:.3f} ({low:.3f} - {high:.3f})")
    console.print(table)
    for line in sentences(document):
        console.print(line, markup=False, highlight=False)


def sentences(document: dict[str, Any]) -> list[str]:
    """The answer in words, and the notes."""
    chosen, over = document["allocations"][document["recommended"]], document["recommended_over_resamples"]
    total = document["dataset"]["keyframes"]
    ranges = {key: "{:.4g} to {:.4g}".format(*over[key]) for key in ("share", "annotated")}
    lines = [
        f"Annotate {chosen['annotated']} of {total} keyframes (5 % - 95 % over resampled runs: {ranges['annotated']}), "
        f"{chosen['share']:.1%} of them with boxes (share {ranges['share']}), {chosen['clicked']} with clicks alone."
    ]
    if (gain := document["difference"]) is not None:
        low, high = gain["interval"]
        better = gain["share_of_resamples_with_clicks_better"]
        lines.append(
            f"Boxes + clicks against boxes only for the same money: SPNDS {low:+.3f} to {high:+.3f}; better in "
            f"{better:.0%} of {document['bootstrap']['resamples']} resamples of the runs."
        )
    misfits = ", ".join(f"{arm} {curve['rms_misfit']:.3f}" for arm, curve in document["curves"].items())
    lines.append(f"Runs are off their curve by (RMS, SPNDS): {misfits}.")
    return lines + [f"- {note}" for note in document["notes"]]


def draw_budget(document: dict[str, Any], path: Path) -> None:
    """Draw a PNG: SPNDS of curves and runs over box-labeled keyframes, and the best SPNDS over the budget."""
    figure = Figure(figsize=(12, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for arm, curve in document["curves"].items():
        line = curve["fitted"]
        _band(left, line["boxed"], line["spnds"], line["low"], line["high"], arm)
        left.plot(*np.array(curve["points"]).T, "o", color=COLORS[arm], markersize=4)
    left.set(xscale="log", xlabel="box-labeled keyframes", ylabel="SPNDS", title="Label efficiency: runs and curves")
    for name in KINDS:
        rows = [(row["budget"], row[name]) for row in document["by_budget"] if name in row]
        if rows:
            low, high = zip(*(a["interval"] for _, a in rows), strict=True)
            _band(right, [budget for budget, _ in rows], [a["spnds"] for _, a in rows], low, high, name)
    chosen = document["allocations"][document["recommended"]]
    right.axvline(document["prices"]["budget"], color="gray", linestyle=":", label="the budget")
    right.plot([chosen["cost"]], [chosen["spnds"]], "*", color="black", markersize=12, label="recommended")
    right.set(xlabel="budget", title="The best that a budget buys, within what was measured")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _band(axes: Axes, x: Any, y: Any, low: Any, high: Any, label: str) -> None:
    axes.plot(x, y, color=COLORS[label], label=label)
    axes.fill_between(x, low, high, color=COLORS[label], alpha=0.15)
