"""Sections of a search's report that only teachers have: quality beside floors, costs, convergence, corrupted input."""

from __future__ import annotations

from collections.abc import Iterator

from pdetr3d.evaluation.figures import FLOOR_NAMES, QUALITY
from pdetr3d.finished.report import charts
from pdetr3d.finished.report.page import Block, Table, Text
from pdetr3d.finished.report.search import Row, Search
from pdetr3d.finished.report.spread import Spread
from pdetr3d.words import NONE, number

NEAR = 0.9  # a row counts as converged at this share of the best score
CALIBRATION = {"ECE": ("calibration", "ece"), "rank correlation": ("calibration", "rank_correlation")}
SHOWN = ("bev_iou", "yaw_error_rad")  # the figures in charts of corrupted input


def quality(search: Search) -> Iterator[Block]:
    """Tables of the quality of the teachers' boxes at the clicks, of the floors, and of the teachers' costs."""
    rows = [row for row in search.rows if search.figures(row)]
    yield Text(
        "Calibration: ECE and rank correlation of the boxes' scores with the IoU that they reach. Step: median time of "
        "an optimizer step; peak: memory of the training worker. Floors are boxes that need no teacher, at the same "
        "clicks."
    )
    paths = {key: ("teacher", key) for key in QUALITY} | {n: ("teacher", *path) for n, path in CALIBRATION.items()}
    cells = [[row.name, *(str(row.spread(*path)) for path in paths.values()), *_costs(row)] for row in rows]
    for floor in search.floors:
        found = next(row for row in rows if row.spread(floor, "bev_iou").n)
        figures = [str(found.spread(floor, *path[1:])) for path in paths.values()]
        cells.append([f"floor: {FLOOR_NAMES.get(floor, floor)}", *figures, NONE, NONE, NONE])
    yield Table(["", *paths, "step [s]", "peak [MiB]", "parameters"], cells)
    bins = list(dict.fromkeys(b for r in rows for t in r.finished for b in t["final"]["teacher"]["by_distance"]))
    for floor in search.floors:
        found = next(row for row in rows if row.spread(floor, "bev_iou").n)
        lines = [[key, *(str(found.spread(floor, "by_distance", b, key)) for b in bins)] for key in QUALITY]
        yield Table(["", *bins], lines, f"Floor: {FLOOR_NAMES.get(floor, floor)}; by distance [m]", folded=True)


def _costs(row: Row) -> list[str]:
    step, memory, parameters = (
        Spread.of(row.values("costs", key).values()) for key in ("step_s", "peak_memory_bytes", "parameters")
    )
    mebibytes = None if memory.mean is None else memory.mean / 2**20
    return [str(step), number(mebibytes, 0), NONE if parameters.mean is None else f"{parameters.mean:,.0f}"]


def convergence(search: Search) -> Iterator[Block]:
    """The number of training samples that teachers need for a score, as chart and table."""
    scores = [row.score.mean for row in search.rows if row.finished and row.score.mean is not None]
    if search.judged != "teacher" or not scores:
        return
    best = max(scores) if search.mode == "max" else min(scores)
    target = best * NEAR if search.mode == "max" else best / NEAR
    reached = [Spread.of(samples_to(search, row, target)) for row in search.rows]
    yield Text(
        f"Training samples until {search.score_name} first is {target:.3g} ({NEAR:g} of the best "
        "row's last score) at a kept checkpoint; means over the seeds that get there."
    )
    yield charts.convergence(search, reached)
    rows = [[r.name, number(s.mean, 0), f"{s.n}/{len(r.trials)}"] for r, s in zip(search.rows, reached, strict=True)]
    yield Table(["", "samples", "reached"], rows, folded=True)


def samples_to(search: Search, row: Row, target: float) -> list[int]:
    """The training samples at the first kept checkpoint as good as ``target``, for each trial that has one."""
    sign = 1 if search.mode == "max" else -1
    good = [[p["samples"] for p in t["curve"] if sign * p[search.metric] >= sign * target] for t in row.trials]
    return [samples[0] for samples in good if samples]


def corruptions(search: Search) -> dict[str, list[str]]:
    """Config key of each corruption under which last checkpoints were measured -> its values as text."""
    found: dict[str, list[str]] = {}
    for trial in (trial for row in search.rows for trial in row.finished):
        found |= {key: list(by_value) for key, by_value in (trial.get("corruption") or {}).items()}
    return found


def on_corrupted_input(search: Search) -> Iterator[Block]:
    """Charts and tables of the last checkpoints' quality under each corruption."""
    found, rows = corruptions(search), list(search.lines(charts.SHOWN))
    if not found:
        return
    yield Text("Last checkpoints, which were trained on clean input, on the first samples of those that are measured.")
    yield charts.corruption_panels(search, SHOWN, rows, found)
    for key, values in found.items():
        for figure in SHOWN:
            cells = [
                [row.name, *(str(Spread.of(row.values("corruption", key, v, figure).values())) for v in values)]
                for row in rows
            ]
            yield Table(["", *values], cells, f"{figure} by {key}", folded=figure != SHOWN[0])
