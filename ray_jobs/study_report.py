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

from pdetr3d.data.storage.files import atomic_path
from ray_jobs.study_results import QUALITY, SHARE, SHOWN, mean_curve

FLOOR_NAMES = {"class_mean": "floor: class mean", "class_mean_pca": "floor: class mean, PCA heading"}

COSTS = (escape("step [s]"), escape("peak [MiB]"))  # rich takes words in brackets for styles


def print_study(document: dict[str, Any]) -> None:
    """Tables: quality and cost per variant; by distance, and under each trouble."""
    summary, reference = document["summary"], document["reference"]
    folds = document.get("config", {}).get("label", {}).get("folds")
    over = f"folds (of {folds} by scene)" if folds else "seeds"
    title = f"{document['study']}: mean +- std over {over} {document['seeds']}"
    reach = f"steps to {SHARE:.0%} of {reference}"
    table = Table("variant", *QUALITY, "ECE", "rank corr.", reach, *COSTS, "parameters", title=title)
    for name, row in summary.items():
        cells = [plus_minus(row[key]) for key in (*QUALITY, "ece", "rank_correlation")]
        memory = {k: v / 2**20 if v is not None and k != "n" else v for k, v in row["peak_memory_bytes"].items()}
        reached = ("<= " if row["steps_to_share"]["at_most"] else "") + plus_minus(row["steps_to_share"], 0)
        cost = [reached, plus_minus(row["step_s"]), plus_minus(memory, 0)]
        table.add_row(name, *cells, *cost, f"{document['variants'][name]['parameters']:,}")
    floors = summary[reference]["floors"] if reference in summary else {}
    for key, row in floors.items():
        table.add_row(FLOOR_NAMES[key], *(plus_minus(row[q]) for q in QUALITY))
    Console(width=200).print(table)
    for title, lines in {"distance [m]": _by_distance(document), **_by_trouble(summary)}.items():
        for key in SHOWN:
            rows = {name: {value: at[key] for value, at in line.items()} for name, line in lines.items()}
            _print_grid(f"{key}: {title}", rows)


def _by_distance(document: dict[str, Any]) -> dict[str, Any]:
    """Variant or floor -> bin -> figures."""
    summary, reference = document["summary"], document["reference"]
    lines = {name: row["by_distance"] for name, row in summary.items()}
    floors = summary[reference]["floors"] if reference in summary else {}
    return lines | {FLOOR_NAMES[key]: row["by_distance"] for key, row in floors.items()}


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
    files.append(_draw_panels({"distance [m]": _by_distance(document)}, folder / f"{name}_distance.png"))
    troubles = _by_trouble(summary)
    return [*files, _draw_panels(troubles, folder / f"{name}_troubles.png")] if troubles else files


def _draw_panels(columns: dict[str, dict[str, Any]], path: Path) -> Path:
    """A column of panels per name of an x axis, a row per figure, a line per variant."""
    figure = Figure(figsize=(max(8, 4 * len(columns)), 3 * len(SHOWN)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(SHOWN), len(columns), sharey="row", squeeze=False)
    for row, key in zip(grid, SHOWN, strict=True):
        for axes, (x_label, variants) in zip(row, columns.items(), strict=True):
            for variant, line in variants.items():
                known = {value: at[key] for value, at in line.items() if at[key]["mean"] is not None}
                means, stds = [v["mean"] for v in known.values()], [v["std"] or 0.0 for v in known.values()]
                style = "--" if variant.startswith("floor") else "-"
                x = [value if "-" in value else float(value) for value in known]  # bins are names, not numbers
                axes.errorbar(x, means, yerr=stds, marker="o", capsize=3, linestyle=style, label=variant)
            axes.set_xlabel(x_label)
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
