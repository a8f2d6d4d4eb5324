"""Charts of runs and searches: matplotlib figures as SVG inside the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from pdetr3d.finished.report.page import Chart
from pdetr3d.finished.report.search import Row, Search, value_text
from pdetr3d.finished.report.spread import Spread
from pdetr3d.tracking.history import Curve

SHOWN = 8  # rows with a color of their own; more colors could not be distinguished
COLORS = matplotlib.color_sequences["tab10"]
GRAY = "#b8c2cf"
LINE = 130  # characters in a line of a legend
FEW = 8  # an axis with up to so many different values has a tick at each
WORDS = 40  # letters of the labels below a panel; more would overlap, so the labels are slanted
LOG_FROM = 20  # an axis of positive values is logarithmic from this ratio of largest to smallest value on
# Names may contain "$", which is no formula. The salt gives equal charts equal SVG ids.
SETTINGS: Any = {
    "text.parse_math": False,
    "svg.hashsalt": "pdetr3d",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
MARKS: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 3}


def chart(alt: str, size_in: tuple[float, float], draw: Callable[[Figure], None]) -> Chart:
    """Make a chart: ``draw`` draws on a figure of this size [inches]; ``alt`` describes the chart."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=size_in, layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Chart(f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}", alt)


def curves(search: Search) -> Chart:
    """The score over training samples, one line per trial, colored by row; lines of unfinished trials are dashed."""
    columns, height = _legend_size([row.name for row in search.rows[:SHOWN]])

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="training samples", ylabel=search.score_name)
        for place, row in reversed(list(enumerate(search.rows))):  # the best row is drawn last, on top
            first = True
            for trial in row.trials:
                x, y = ([point[key] for point in trial["curve"]] for key in ("samples", search.metric))
                style = "-" if trial["status"] == "finished" else "--"
                label = row.name if place < SHOWN and first and x else None
                axes.plot(x, y, style, marker="o", markersize=3, color=_color(place), label=label)
                first = first and not x
        ends = [trial["curve"][-1]["samples"] for row in search.rows for trial in row.trials if trial["curve"]]
        _wide_axis(axes, [end for end in ends if end > 0])
        _legend(figure, axes, columns, reverse=True)  # the best row comes first

    return chart(f"{search.score_name} by training samples", (10, 4.2 + height), draw)


def histories(metric: str, lines: Mapping[str, Curve]) -> Chart:
    """A metric over optimizer steps, one line per run or stage."""
    columns, height = _legend_size(list(lines))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="optimizer step", ylabel=metric)
        for place, (name, curve) in enumerate(lines.items()):
            axes.plot(curve.steps, curve.values, color=COLORS[place % len(COLORS)], label=name)
        _legend(figure, axes, columns)

    return chart(f"{metric} by step", (10, 3.6 + height), draw)


def convergence(search: Search, reached: Sequence[Spread]) -> Chart:
    """The number of training samples that each row needed for a score (``samples_to``), best row on top."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="training samples")
        names, means = [row.name for row in search.rows][::-1], [spread.mean for spread in reached][::-1]
        drawn = axes.barh(names, [mean or 0 for mean in means], color=COLORS[0])
        axes.bar_label(drawn, ["not reached" if mean is None else f"{mean:.0f}" for mean in means], padding=3)
        axes.set_xlim(0, 1.15 * max((mean for mean in means if mean), default=1))

    return chart("training samples until a score is reached", (8, 1.0 + 0.4 * len(reached)), draw)


def parameter_panels(search: Search) -> Chart:
    """One panel per parameter: each row's figure, with its standard deviation over seeds, at the parameter's value.

    If the search has one parameter, the points are joined, and every trained stage has a line.
    """
    stages = search.stages if len(search.keys) == 1 else [search.judged]
    rows = [row for row in search.rows if search.figures(row)]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(search.keys), sharey=True, squeeze=False)[0]
        for axes, key in zip(panels, search.keys, strict=True):
            at, words = places(search, key, rows)
            joined = "-" if len(search.keys) == 1 and not words else "none"
            for stage, color in zip(stages, COLORS, strict=False):
                spreads = [row.spread(stage, search.metric) for row in rows]
                points = sorted(((x, s) for x, s in zip(at, spreads, strict=True) if s.n), key=itemgetter(0))
                x, y = [x for x, _ in points], [s for _, s in points]
                _errors(axes, x, y, linestyle=joined, color=color, label=stage)
            _x_axis(axes, key, at, words)
        panels[0].set_ylabel(f"{search.metric} ({search.measured_on})")
        if len(stages) > 1:
            panels[0].legend(fontsize="small")

    return chart(f"{search.metric} against {', '.join(search.keys)}", (max(6.0, 3.2 * len(search.keys)), 3.8), draw)


def is_grid_of_two(search: Search) -> bool:
    """Whether the search is a grid over two parameters, so that a heat map shows all of its rows."""
    return len(search.keys) == 2 and all(domain["values"] for domain in search.domains.values())


def heat_cells(search: Search, *path: str) -> NDArray[np.float64]:
    """Mean figures of the judged stage at ``path``: rows are the first parameter's values, columns the second's.

    A cell without a finished trial is NaN.
    """
    listed = [search.domains[key]["values"] for key in search.keys]
    cells = np.full([len(values) for values in listed], np.nan)
    for row in search.rows:
        place = tuple(values.index(row.parameters[key]) for values, key in zip(listed, search.keys, strict=True))
        mean = row.spread(search.judged, *path).mean
        cells[place] = np.nan if mean is None else mean
    return cells


def heat_map(search: Search, where: str, *path: str) -> Chart:
    """``heat_cells`` as colors, bright for good; ``where`` names the objects, e.g. a distance bin."""
    cells, (down, along) = heat_cells(search, *path), search.keys
    middle = (np.nanmin(cells) + np.nanmax(cells)) / 2
    listed = [search.domains[key]["values"] for key in search.keys]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel=along, ylabel=down)
        image = axes.imshow(cells, cmap="viridis" if search.mode == "max" else "viridis_r", aspect="auto")
        axes.grid(False)
        axes.set_xticks(range(cells.shape[1]), [value_text(v) for v in listed[1]])
        axes.set_yticks(range(cells.shape[0]), [value_text(v) for v in listed[0]])
        for (i, j), mean in np.ndenumerate(cells):
            if np.isnan(mean):
                continue
            light = (mean > middle) == (search.mode == "max")  # good values are yellow, which needs black text
            axes.text(j, i, f"{mean:.3f}", ha="center", va="center", color="black" if light else "white")
        figure.colorbar(image, ax=axes, label=f"{path[-1]} ({search.measured_on})")
        axes.set_title(where)

    height = 1.5 + 0.5 * cells.shape[0]
    return chart(f"{path[-1]} by {down} and {along}, {where}", (3 + 0.9 * cells.shape[1], height), draw)


def bars(shares: dict[str, float]) -> Chart:
    """The importance of parameters, largest on top."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="share of the variance that is explained")
        names, values = list(shares)[::-1], list(shares.values())[::-1]
        axes.bar_label(axes.barh(names, values, color=COLORS[0]), fmt="%.2f", padding=3)
        axes.set_xlim(0, 1.1 * max(values) or 1)

    return chart("importance of parameters", (8, 1.0 + 0.4 * len(shares)), draw)


def distance_panels(search: Search, keys: Sequence[str], rows: Sequence[Row], bins: Sequence[str]) -> Chart:
    """One panel per figure of the judged stage, with one line per row over the distance bins."""
    columns, height = _legend_size([row.name for row in rows])
    width = 0.4 / max(1, len(rows))

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, (len(keys) + 1) // 2, squeeze=False).ravel()
        for axes, key in zip(panels, keys, strict=False):
            for place, row in enumerate(rows):
                spreads = {b: row.spread(search.judged, "by_distance", b, key) for b in bins}
                known = {b: spread for b, spread in spreads.items() if spread.n}
                at = [bins.index(b) + (place - (len(rows) - 1) / 2) * width for b in known]  # rows side by side
                _errors(axes, at, list(known.values()), color=_color(search.rows.index(row)), label=row.name)
            axes.set_xticks(range(len(bins)), list(bins))
            axes.set_title(key)
        for axes in panels[-((len(keys) + 1) // 2) :]:
            axes.set_xlabel("distance [m]")
        _legend(figure, panels[0], columns)

    return chart(f"{', '.join(keys)} by distance", (11, 6 + height), draw)


def corruption_panels(
    search: Search, keys: Sequence[str], rows: Sequence[Row], corruptions: Mapping[str, list[str]]
) -> Chart:
    """Panels of teachers under corrupted input: a column per corruption, a row per figure, a line per search row.

    Args:
        keys: the figures. rows: of the search. corruptions: config key of the corruption -> its values as text.
    """
    columns, height = _legend_size([row.name for row in rows])

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(keys), len(corruptions), sharey="row", squeeze=False)
        for line, key in zip(panels, keys, strict=True):
            for axes, (name, values) in zip(line, corruptions.items(), strict=True):
                for row in rows:
                    spreads = [Spread.of(row.values("corruption", name, value, key).values()) for value in values]
                    known = [(float(value), spread) for value, spread in zip(values, spreads, strict=True) if spread.n]
                    at, found = [x for x, _ in known], [spread for _, spread in known]
                    _errors(axes, at, found, color=_color(search.rows.index(row)), label=row.name)
                axes.set_xlabel(name)
            line[0].set_ylabel(key)
        _legend(figure, panels[0][0], columns)

    size = (max(6.0, 3.2 * len(corruptions)), 2.6 * len(keys) + height)
    return chart(f"{', '.join(keys)} on corrupted input", size, draw)


def _errors(axes: Axes, at: Sequence[float], spreads: Sequence[Spread], **style: Any) -> None:
    means, stds = [s.mean for s in spreads], [np.nan if s.std is None else s.std for s in spreads]
    axes.errorbar(list(at), means, yerr=stds, **(MARKS | style))  # type: ignore[arg-type]


def _color(place: int) -> Any:
    return COLORS[place] if place < SHOWN else GRAY


def _legend_size(names: Sequence[str]) -> tuple[int, float]:
    """(columns, height [inches]) of a legend below the axes; fewer columns for longer names."""
    columns = max(1, LINE // (6 + max(map(len, names), default=0)))
    return columns, 0.2 * math.ceil(len(names) / columns) + 0.2


def _legend(figure: Figure, axes: Axes, columns: int, reverse: bool = False) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        step = -1 if reverse else 1
        figure.legend(
            handles[::step], labels[::step], loc="outside lower center", ncols=columns, fontsize="small", frameon=False
        )


def places(search: Search, key: str, rows: Sequence[Row]) -> tuple[list[float], list[str]]:
    """The positions of rows along a parameter's axis, and the labels of the axis.

    Numbers are their own positions, without labels. Other values are at 0, 1, ... in the order of the search space,
    and are the labels.
    """
    values = [row.parameters[key] for row in rows]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return values, []
    listed = search.domains[key]["values"]
    return [float(listed.index(value)) for value in values], [value_text(value) for value in listed]


def _wide_axis(axes: Axes, ends: Sequence[float]) -> None:
    """Make an x axis from 0 on logarithmic where lines end at very different places, as those of crops and of samples.

    It is linear up to the least end, so that no line lies in the logarithmic part alone.
    """
    if ends and max(ends) / min(ends) >= LOG_FROM:
        axes.set_xscale("symlog", linthresh=min(ends))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_xlim(left=0)


def _x_axis(axes: Axes, key: str, at: Sequence[float], words: Sequence[str]) -> None:
    axes.set_xlabel(key)
    if words:
        axes.set_xticks(range(len(words)), list(words))
        if sum(map(len, words)) > WORDS:
            for label in axes.get_xticklabels():
                label.set(rotation=20, ha="right")
        return
    if min(at) > 0 and max(at) / min(at) >= LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:.4g}")  # the default formatter writes a formula
        axes.xaxis.set_minor_formatter("")
    if len(set(at)) <= FEW:
        axes.set_xticks(sorted(set(at)), [value_text(value) for value in sorted(set(at))])
        axes.minorticks_off()
