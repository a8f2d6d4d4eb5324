"""From the runs of a student study to its summary, its table and its picture. Imports no Ray.

A run is what ``scoring.evaluate`` returns for an arm; runs of a variant are keyed by the seed (a string, as in JSON).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from pdetr3d.data.storage.files import atomic_path
from ray_jobs.study_report import plus_minus
from ray_jobs.study_results import Runs, spread

SCORES = ("mAP", "NDS", "SPNDS", "mATE", "mASE", "mAOE")


def summarize_students(variants: dict[str, Runs]) -> dict[str, dict[str, Any]]:
    """Per variant ``spread`` over seeds of the scores, of every class's AP, and of the labels' BEV IoU."""
    return {
        name: {
            **{score: spread(run[score] for run in runs.values()) for score in SCORES},
            "AP": {c: spread(run["per_class"][c]["AP"] for run in runs.values()) for c in _classes(runs)},
            "label_bev_iou": spread(
                run["pseudo_labels"]["bev_iou"] for run in runs.values() if run["pseudo_labels"] is not None
            ),
        }
        for name, runs in variants.items()
    }


def _classes(runs: Runs) -> list[str]:
    return list(next(iter(runs.values()))["per_class"]) if runs else []


def print_students(document: dict[str, Any]) -> None:
    """One row per variant."""
    title = f"{document['study']}: mean +- std over seeds {document['seeds']}"
    first = next((name for row in document["summary"].values() for name in row["AP"]), "car")
    table = Table("variant", *SCORES, f"{first} AP", "labels' BEV IoU", title=title)
    for name, row in document["summary"].items():
        cells = [*(row[score] for score in SCORES), row["AP"][first], row["label_bev_iou"]]
        table.add_row(name, *(plus_minus(cell) for cell in cells))
    Console(width=180).print(table)


def draw_students(document: dict[str, Any], folder: Path) -> Path:
    """STUDY_scores.png in ``folder``: mAP and SPNDS per variant, a dot per seed."""
    summary, shown = document["summary"], ("mAP", "SPNDS")
    figure = Figure(figsize=(9, 1.5 + 0.4 * len(summary)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, score in zip(figure.subplots(1, len(shown), sharey=True), shown, strict=True):
        names = list(summary)
        means, stds = ([summary[n][score][key] or 0.0 for n in names] for key in ("mean", "std"))
        axes.barh(names, means, xerr=stds, alpha=0.7)
        for name in names:
            values = [run[score] for run in document["variants"][name]["runs"].values()]
            axes.plot(values, [name] * len(values), "k.", markersize=4)
        axes.set_title(f"{document['study']}: {score}")
        axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    path = folder / f"{document['study']}_scores.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
