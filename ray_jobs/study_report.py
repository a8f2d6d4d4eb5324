"""What a person sees of a study: tables on the terminal, PNG pictures. Imports no Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pdetr3d.data.files import atomic_path
from ray_jobs.study_results import QUALITY, SHARE, TROUBLED, mean_curve

FLOOR_NAMES = {"class_mean": "floor: class mean", "class_mean_pca": "floor: class mean, PCA heading"}

COSTS = (escape("step [s]"), escape("peak [MiB]"))  # rich takes words in brackets for styles


def print_study(document: dict[str, Any]) -> None:
    """Tables: quality and cost per variant, BEV IoU by distance, and under each condition."""
    summary, reference = document["summary"], document["reference"]
    title = f"{document['study']}: mean +- std over seeds {document['seeds']}"
    reach = f"steps to {SHARE:.0%} of {reference}"
    table = Table("variant", *QUALITY, "ECE", "rank corr.", reach, *COSTS, "parameters", title=title)
    for name, row in summary.items():
        cells = [plus_minus(row[key]) for key in (*QUALITY, "ece", "rank_correlation")]
        memory = {k: v / 2**20 if v is not None and k != "n" else v for k, v in row["peak_memory_bytes"].items()}
        cost = [plus_minus(row["steps_to_share"], 0), plus_minus(row["step_s"]), plus_minus(memory, 0)]
        table.add_row(name, *cells, *cost, f"{document['variants'][name]['parameters']:,}")
    floors = summary[reference]["floors"] if reference in summary else {}
    for key, row in floors.items():
        table.add_row(FLOOR_NAMES[key], *(plus_minus(row[q]) for q in QUALITY))
    Console(width=200).print(table)
    rows = {name: row["by_distance"] for name, row in summary.items()}
    rows |= {FLOOR_NAMES[key]: row["by_distance"] for key, row in floors.items()}
    _print_grid("BEV IoU by distance [m]", rows)
    for name, lines in _by_trouble(summary).items():
        rows = {v: {value: at["bev_iou"] for value, at in line.items()} for v, line in lines.items()}
        _print_grid(f"BEV IoU: {name}", rows)


def _by_trouble(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Trouble -> variant -> value -> figures."""
    names = {name: None for row in summary.values() for name in row["troubles"]}
    return {n: {v: row["troubles"][n] for v, row in summary.items() if n in row["troubles"]} for n in names}


def _print_grid(title: str, rows: dict[str, dict[str, Any]]) -> None:
    if not rows:
        return
    columns = list(next(iter(rows.values())))
    table = Table("", *columns, title=escape(title))
    for name, row in rows.items():
        table.add_row(name, *(plus_minus(row[c]) for c in columns))
    Console(width=200).print(table)


def plus_minus(values: dict[str, Any], digits: int = 3) -> str:
    """A ``spread`` as text, "0.123 +- 0.004"; "-" where nothing is known."""
    if values["mean"] is None:
        return "-"
    return f"{values['mean']:.{digits}f}" + ("" if values["std"] is None else f" +- {values['std']:.{digits}f}")


def draw_study(document: dict[str, Any], folder: Path) -> list[Path]:
    """STUDY_curves.png, STUDY_distance.png and, with troubles, STUDY_troubles.png in ``folder``."""
    summary, name = document["summary"], document["study"]
    figure, axes = _figure("steps", f"{name}: BEV IoU on {document['clicks_from']} samples")
    for variant, data in document["variants"].items():
        points = mean_curve(data["runs"])
        steps = [step for step, _, _ in points]
        axes.plot(steps, [mean for _, mean, _ in points], marker="o", label=variant)
        axes.fill_between(steps, [m - s for _, m, s in points], [m + s for _, m, s in points], alpha=0.15)
    files = [_save(figure, axes, folder / f"{name}_curves.png")]
    figure, axes = _figure("distance [m]", f"{name}: BEV IoU of the last checkpoint")
    lines = {variant: row["by_distance"] for variant, row in summary.items()}
    if document["reference"] in summary:
        lines |= {FLOOR_NAMES[k]: row["by_distance"] for k, row in summary[document["reference"]]["floors"].items()}
    for label, row in lines.items():
        known = {distance: values for distance, values in row.items() if values["mean"] is not None}
        means, stds = [v["mean"] for v in known.values()], [v["std"] or 0.0 for v in known.values()]
        style = "--" if label.startswith("floor") else "-"
        axes.errorbar(list(known), means, yerr=stds, marker="o", capsize=3, linestyle=style, label=label)
    files.append(_save(figure, axes, folder / f"{name}_distance.png"))
    troubles = _by_trouble(summary)
    return [*files, _draw_troubles(troubles, folder / f"{name}_troubles.png")] if troubles else files


def _draw_troubles(troubles: dict[str, dict[str, Any]], path: Path) -> Path:
    """A column of panels per trouble, a row per figure, a line per variant."""
    figure = Figure(figsize=(4 * len(troubles), 3 * len(TROUBLED)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(TROUBLED), len(troubles), sharey="row", squeeze=False)
    for row, key in zip(grid, TROUBLED, strict=True):
        for axes, (trouble, variants) in zip(row, troubles.items(), strict=True):
            for variant, line in variants.items():
                means, stds = [at[key]["mean"] for at in line.values()], [at[key]["std"] or 0.0 for at in line.values()]
                axes.errorbar([float(v) for v in line], means, yerr=stds, marker="o", capsize=3, label=variant)
            axes.set_xlabel(trouble)
            axes.grid(alpha=0.3)
        row[0].set_ylabel(key)
    return _save(figure, grid[0][0], path)


def _figure(x_label: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Figure, axes: Axes, path: Path) -> Path:
    axes.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
