"""The report of a sweep: what was asked, what came out, how sure that is, and how to get it again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pdetr3d.finished.report import charts
from pdetr3d.finished.report.importance import importances
from pdetr3d.finished.report.page import Block, Command, Section, Table, Text, write_page
from pdetr3d.finished.report.pictures import PLACES, RUNS, galleries
from pdetr3d.finished.report.reproduce import command
from pdetr3d.finished.report.spread import Spread, difference, number
from pdetr3d.finished.report.sweep import SEED, Row, Sweep, short_keys, value_at, value_text

# Of a stage: final figures; figures of a distance bin; the figure by class.
TEACHER = ("bev_iou", "yaw_error_rad", "size_error", "center_error_m")
STUDENT = ("mAP", "NDS", "SPNDS")
STUDENT_BINS = ("mAP", "ATE", "ASE", "AOE")
NEAR = 0.9  # of the best score: where a row counts as converged
UNSEEN = "label.no_boxes_of"
ENDS = {
    "finished": "trained to the end and scored on the val split",
    "stopped": "ended early: it lagged behind others (ASHA), or the budget was spent",
    "failed": "ended by an error; the sweep's command tries it again",
    "unfinished": "interrupted; the sweep's command goes on with it",
}


def write_report(folder: Path, out: Path | None = None, baseline: str | None = None) -> dict[str, object]:
    """Write the report of the sweep in ``folder`` to ``out`` (default: report.html there, over an older one).

    Args:
        baseline: see ``Sweep.baseline``.

    Returns:
        What to tell people.

    Raises:
        DataError: when there is no readable sweep.json, no finished row ``baseline``, or a picture is broken.
    """
    sweep = Sweep.open(folder)
    reference, why = sweep.baseline(baseline)
    file = write_page(out or folder / "report.html", title(sweep), lead(sweep), sections(sweep, reference, why))
    said: dict[str, object] = {"report": file, "trials": _ends(sweep)}
    if reference is not None:
        said["baseline"] = f"{reference.name} ({why})"
        said["best"] = f"{sweep.rows[0].name}: {sweep.metric} {sweep.rows[0].spread(sweep.judged, sweep.metric)} (val)"
    return said


def title(sweep: Sweep) -> str:
    """The question."""
    return str(sweep.document["space"]["question"])


def lead(sweep: Sweep) -> list[str]:
    """What was done, with what."""
    space, document = sweep.document["space"], sweep.document
    trains = "the teacher" if space["trains"] == "teacher" else f"students ({', '.join(space['trains'])})"
    search = (
        "every combination" if space["search"] == "grid" else f"{space['trials']} trials (search: {space['search']})"
    )
    less = "less" if sweep.mode == "min" else "more"
    unclean = " with uncommitted changes" if document["commit"].endswith("+") else ""
    made = f"commit {document['commit'].rstrip('+')}{unclean}" if document["commit"] else "unknown commit"
    budget = f" Budget: {document['budget']} training samples." if document.get("budget") else ""
    return [
        f"Sweep {space['name']} over {', '.join(sweep.keys)}, preset {space['preset']}: trains {trains}; {search}, "
        f"seeds {', '.join(map(str, space['seeds']))}"
        f"{'; trials that lag behind end early (ASHA)' if space['asha'] else ''}.{budget}",
        f"Judged by {sweep.metric} of {sweep.judged} on the select split ({less} is better). Figures are those of "
        "finished trials on the val split unless (select) is said.",
        f"{_ends(sweep)}. Made by {made}, {document['date']}: {document['command']}",
    ]


def sections(sweep: Sweep, baseline: Row | None, why: str) -> list[Section]:
    """All of the page."""
    return [
        Section("Result", list(_result(sweep, baseline, why))),
        Section("Parameters", list(_parameters(sweep))),
        Section("Learning curves", [Text(_CURVES), charts.curves(sweep), *_convergence(sweep)]),
        Section("By distance", list(_distance(sweep, baseline))),
        Section("By class", [*_classes(sweep), *_unseen(sweep)]),
        Section("Pictures", list(_pictures(sweep, baseline))),
        Section("Trials", list(_trials(sweep))),
        Section("Shared stages", list(_shared(sweep))),
        Section("Every row again", list(_commands(sweep))),
    ]


_CURVES = (
    "Scores of the kept checkpoints on the select split. Colors: rows, best first; gray: the others. "
    "Dashed: trials that were not trained to the end."
)


def _convergence(sweep: Sweep) -> Iterator[Block]:
    """Of teachers, whose queries differ in how soon they find their objects."""
    scores = [row.score.mean for row in sweep.rows if row.finished and row.score.mean is not None]
    if sweep.judged != "teacher" or not scores:
        return
    best = max(scores) if sweep.mode == "max" else min(scores)
    target = best * NEAR if sweep.mode == "max" else best / NEAR
    reached = [Spread.of(samples_to(sweep, row, target)) for row in sweep.rows]
    yield Text(
        f"Training samples until {sweep.metric} (select) first is {target:.3g} ({NEAR:g} of the best row's last score) "
        "at a kept checkpoint; means over the seeds that get there."
    )
    yield charts.convergence(sweep, reached)
    rows = [[r.name, number(s.mean, 0), f"{s.n}/{len(r.trials)}"] for r, s in zip(sweep.rows, reached, strict=True)]
    yield Table(["", "samples", "reached"], rows, folded=True)


def samples_to(sweep: Sweep, row: Row, target: float) -> list[int]:
    """Training samples at the first kept checkpoint as good as ``target``, of the row's trials that reach it."""
    sign = 1 if sweep.mode == "max" else -1
    good = [[p["samples"] for p in t["curve"] if sign * p[sweep.metric] >= sign * target] for t in row.trials]
    return [samples[0] for samples in good if samples]


def _ends(sweep: Sweep) -> str:
    """How the trials ended, in words."""
    counts = Counter(trial["status"] for trial in sweep.trials)
    said = [f"{counts[status]} {status}" for status in (*ENDS, *sorted(counts.keys() - ENDS.keys())) if counts[status]]
    return f"{len(sweep.trials)} trials: {', '.join(said) or 'none'}"


def figure_names(stage: str) -> tuple[str, ...]:
    """The final figures of a stage that tables show."""
    return TEACHER if stage == "teacher" else STUDENT


def _result(sweep: Sweep, baseline: Row | None, why: str) -> Iterator[Block]:
    if baseline is None:
        yield Text(f"No comparison: {why}.")
    else:
        compared = sum(row is not baseline and bool(sweep.figures(row)) for row in sweep.rows)
        yield Text(
            "Mean ± standard deviation over seeds; best (select) first. "
            f"Baseline: {baseline.name} ({why}). p: two-sided t test of {sweep.metric} (val) against the baseline, "
            "paired by seed where both have the same seeds, else Welch's; not corrected for the "
            f"{compared} comparisons of this table: of twenty without any effect, one is below 0.05 on average. "
            "Few seeds find only large differences."
        )
    extra = [(stage, key) for stage in sweep.stages for key in _also(sweep, stage)]
    headings = [*short_keys(sweep.keys).values(), f"{sweep.metric} (select)", f"{sweep.metric} (val)"]
    headings += ["to the baseline", "p", "test"]
    headings += [f"{stage.removeprefix('student_')} {key}" for stage, key in extra] + ["finished"]
    rows = []
    for row in sweep.rows:
        cells = [value_text(row.parameters[key]) for key in sweep.keys]
        cells += [str(row.score), str(row.spread(sweep.judged, sweep.metric)), *_against(sweep, row, baseline)]
        cells += [str(row.spread(stage, key)) for stage, key in extra]
        rows.append([*cells, f"{len(row.finished)}/{len(row.trials)}"])
    yield Table(headings, rows, marked=None if baseline is None else sweep.rows.index(baseline))


def _also(sweep: Sweep, stage: str) -> list[str]:
    """Figures beside the judged one."""
    names = list(dict.fromkeys((sweep.metric, *figure_names(stage))))
    return [key for key in names if (stage, key) != (sweep.judged, sweep.metric)]


def _against(sweep: Sweep, row: Row, baseline: Row | None) -> tuple[str, str, str]:
    if row is baseline:
        return "–", "–", "baseline"
    return difference(sweep.figures(row), {} if baseline is None else sweep.figures(baseline)).cells()


def _parameters(sweep: Sweep) -> Iterator[Block]:
    if not any(sweep.figures(row) for row in sweep.rows):
        yield Text("No trial is finished.")
        return
    grid = charts.is_grid_of_two(sweep)
    yield Text(f"Means over seeds{'' if grid else ', with their standard deviation'}.")
    yield charts.heat_map(sweep, "all objects", sweep.metric) if grid else charts.parameter_panels(sweep)
    shares, reason = importances(sweep)
    if reason:
        yield Text(f"Importance of parameters: none. {reason}")
    else:
        count = sum(len(row.finished) for row in sweep.rows)
        yield Text(
            f"Importance of parameters for {sweep.metric} (val), by fANOVA on {count} finished trials (seeds are noise "
            "to it): which share of the variance each explains within its range. With few trials a guess."
        )
        yield charts.bars(shares)


def _distance(sweep: Sweep, baseline: Row | None) -> Iterator[Block]:
    bins = _names(sweep, "by_distance")
    if not bins:
        yield Text("No figures by distance: no trial is finished.")
        return
    keys = _bin_keys(sweep)
    rows = list(sweep.lines(charts.SHOWN, baseline))
    yield Text(f"{sweep.judged} on the val split, by distance from the car [m]; up to {charts.SHOWN} rows, best first.")
    yield charts.distance_panels(sweep, keys, rows, bins)
    for name in bins if charts.is_grid_of_two(sweep) else ():
        path = ("by_distance", name, keys[0])
        if any(row.spread(sweep.judged, *path).n for row in sweep.rows):
            yield charts.heat_map(sweep, f"{name} m", *path)
    for key in keys:
        yield Table(
            ["", *bins],
            [[r.name, *(str(r.spread(sweep.judged, "by_distance", b, key)) for b in bins)] for r in _known(sweep)],
            f"{key} by distance [m]",
            folded=key != keys[0],
        )


def _bin_keys(sweep: Sweep) -> list[str]:
    """Figures of a distance bin, that of the judged metric first."""
    keys = TEACHER if sweep.judged == "teacher" else STUDENT_BINS
    first = sweep.metric.removeprefix("m") if sweep.metric.removeprefix("m") in keys else sweep.metric
    return [*(k for k in keys if k == first), *(k for k in keys if k != first)]


def _classes(sweep: Sweep) -> Iterator[Block]:
    classes, key = _names(sweep, "per_class"), "bev_iou" if sweep.judged == "teacher" else "AP"
    if not classes:
        yield Text("No figures by class: no trial is finished.")
        return
    yield Text(f"{key} of {sweep.judged} on the val split.")
    rows = [[r.name, *(str(r.spread(sweep.judged, "per_class", c, key)) for c in classes)] for r in _known(sweep)]
    yield Table(["", *(name.replace("_", " ") for name in classes)], rows)


def _unseen(sweep: Sweep) -> Iterator[Block]:
    """Of spaces that leave classes without boxes, which are clicked alone."""
    if UNSEEN not in sweep.keys or sweep.judged == "teacher":
        return
    classes = _names(sweep, "per_class")
    rows = []
    for row in _known(sweep):
        without = [name for name in classes if name in row.parameters[UNSEEN]]
        others = [name for name in classes if name not in without]
        rows.append([row.name, *(str(mean_ap(sweep, row, names)) for names in (without, others))])
    yield Table(["", "classes without boxes", "the others"], rows, f"Mean AP of {sweep.judged}: classes by {UNSEEN}")


def mean_ap(sweep: Sweep, row: Row, classes: Sequence[str]) -> Spread:
    """AP averaged over classes, spread over the seeds that have all of them."""
    found = [row.by_seed(sweep.judged, "per_class", name, "AP") for name in classes]
    seeds = set.intersection(*map(set, found)) if found else set()
    return Spread.of([sum(of_class[seed] for of_class in found) / len(found) for seed in sorted(seeds)])


def _names(sweep: Sweep, part: str) -> list[str]:
    """Bins or classes that the judged stage has figures of."""
    trials = [trial for row in sweep.rows for trial in row.finished]
    return list(dict.fromkeys(name for t in trials for name in value_at(t["final"], (sweep.judged, part)) or ()))


def _known(sweep: Sweep) -> list[Row]:
    return [row for row in sweep.rows if sweep.figures(row)]


def _pictures(sweep: Sweep, baseline: Row | None) -> Iterator[Block]:
    runs = {row.name: sweep.folder / row.finished[0]["run_dir"] for row in sweep.lines(RUNS, baseline)}
    found = galleries(runs)
    if found:
        yield Text(f"The same val samples, by one trial each of up to {RUNS} rows.")
    else:
        yield Text(f"None: no two run directories of rows hold {' or '.join(PLACES)} at one path.")
    yield from found


def _trials(sweep: Sweep) -> Iterator[Block]:
    there = dict.fromkeys(trial["status"] for trial in sweep.trials)
    yield Text(" ".join(f"{status}: {meaning}." for status, meaning in ENDS.items() if status in there))
    data = ("box_keyframes", "keyframes", "boxes", "clicks")
    headings = [
        "trial",
        *short_keys(sweep.keys).values(),
        SEED,
        "ended",
        "trained [%]",
        "samples",
        f"{sweep.metric} (select)",
        "time [s]",
    ]
    headings += ["box-labeled keyframes", "keyframes", "boxes", "clicks", "run directory"]
    rows = []
    for row in sweep.rows:
        for trial in row.trials:
            timing = trial["timing_s"]
            cells = [trial["name"], *(value_text(row.parameters[key]) for key in sweep.keys)]
            cells += [
                str(trial["parameters"][SEED]),
                trial["status"],
                f"{trial['progress']:.0f}",
                str(trial["samples"]),
            ]
            cells += [number(trial["score"]), number(sum(timing.values()) if timing else None, 0)]
            cells += [number(value_at(trial["data"], (key,))) for key in data]
            rows.append([*cells, trial["run_dir"]])
    yield Table(headings, rows)
    errors = [[trial["name"], trial["error"]] for trial in sweep.trials if trial["error"]]
    if errors:
        yield Table(["trial", "error"], errors, "Errors")


def _shared(sweep: Sweep) -> Iterator[Block]:
    names: Sequence[str] = sweep.document["shared"]
    if not names:
        yield Text("None: trials had no stage in common.")
        return
    yield Text("Trained once for all trials that need it. Quality of pseudo labels: of the teacher at the clicks.")
    rows = []
    for name in names:
        stages = sorted(file.parent.name for file in (sweep.folder / name).glob("*/done.json"))
        quality = _read(sweep.folder / name / "pseudo_labels" / "done.json")
        figures = [number(value_at(quality, ("teacher", key))) for key in TEACHER]
        rows.append([name, ", ".join(stages) or "nothing finished", number(value_at(quality, ("accepted",))), *figures])
    yield Table(["run directory", "finished stages", "accepted labels", *TEACHER], rows)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def _commands(sweep: Sweep) -> Iterator[Block]:
    commit = sweep.document["commit"]
    yield Text(
        "Each trains a row by itself, with the config, data, seeds and stages of its trials, and scores it on the val "
        "split. The data must lie where it lay. Trials that were stopped early are trained to the end."
    )
    if commit:
        unclean = " (the sweep's sources had uncommitted changes beyond it)" if commit.endswith("+") else ""
        yield Command(f"First, the sweep's code{unclean}", f"git checkout {commit.rstrip('+')}")
    for place, row in enumerate(sweep.rows, start=1):
        yield Command(f"{place}. {row.name}", command(sweep, row))
