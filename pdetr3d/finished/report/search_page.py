"""``pdetr3d report`` of a search: a page with its question, results, their significance, and commands to repeat it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pdetr3d.evaluation.figures import OF_TEACHERS, in_searches
from pdetr3d.finished.report import charts
from pdetr3d.finished.report.importance import importances
from pdetr3d.finished.report.page import Block, Command, Section, Table, Text, write_page
from pdetr3d.finished.report.pictures import PLACES, RUNS, galleries
from pdetr3d.finished.report.reproduce import command
from pdetr3d.finished.report.search import SCORED, Row, Search, short_keys, value_at, value_text
from pdetr3d.finished.report.spread import Spread, difference
from pdetr3d.finished.report.teacher_sections import convergence, corruptions, on_corrupted_input, quality
from pdetr3d.run_files import SEED, VARIANT, RunFiles
from pdetr3d.words import NONE, number

STUDENT_BINS = ("mAP", "ATE", "ASE", "AOE")  # figures of a student in a distance bin
UNSEEN = "label.no_boxes_of"
WHERE = {
    "select": "the select split",
    "val": "the val split",
    "point_labeled": "the clicks of the point-labeled samples",
    "final": "its final figures",
}
ENDS = {
    "finished": "trained to the end and measured",
    "stopped": "ended early: it lagged behind others (ASHA), or the budget was spent",
    "failed": "ended by an error; the search's command tries it again",
    "unfinished": "interrupted; the search's command continues it",
}


def write_report(folder: Path, out: Path | None = None, baseline: str | None = None) -> dict[str, object]:
    """Write the report of a search.

    Args:
        folder: the run directory, or a file of results. out: the page; by default report.html in the run directory, or
            results/SPACE.html for results/SPACE.json. An older page is replaced. baseline: see ``Search.baseline``.

    Returns:
        Title -> value of the lines to print: the page, the trials, the baseline, the best row.

    Raises:
        DataError: when there is no readable search.json, no finished row ``baseline``, or a picture is broken.
    """
    search = Search.open(folder)
    reference, why = search.baseline(baseline)
    default = folder.with_suffix(".html") if folder.is_file() else folder / "report.html"
    file = write_page(out or default, title(search), lead(search), sections(search, reference, why))
    said: dict[str, object] = {"report": file, "trials": _ends(search)}
    if reference is not None:
        said["baseline"] = f"{reference.name} ({why})"
        best = search.rows[0]
        figure = best.spread(search.judged, search.metric)
        said["best"] = f"{best.name}: {search.metric} {figure} ({search.measured_on})"
    return said


def title(search: Search) -> str:
    """The search's question, which is the page's title."""
    return str(search.document["space"]["question"])


def lead(search: Search) -> list[str]:
    """Paragraphs about the search: parameters, trials, judgment, commit and command."""
    space, document = search.document["space"], search.document
    arms = [v["trains"] for v in search.variants.values() if v["trains"]] or space["trains"]
    trains = "the teacher" if space["trains"] == "teacher" else f"students ({', '.join(dict.fromkeys(arms))})"
    drawn = f"{space['trials']} trials (search: {space['search']})"
    kind = "every combination" if space["search"] == "grid" else drawn
    less = "less" if search.mode == "min" else "more"
    unclean = " with uncommitted changes" if document["commit"].endswith("+") else ""
    made = f"commit {document['commit'].rstrip('+')}{unclean}" if document["commit"] else "unknown commit"
    budget = f" Budget: {document['budget']} training samples." if document.get("budget") else ""
    return [
        f"Search {space['name']} over {', '.join(search.keys)}, preset {space['preset']}: trains {trains}; {kind}, "
        f"seeds {', '.join(map(str, space['seeds']))}"
        f"{'; trials that lag behind end early (ASHA)' if space['asha'] else ''}.{budget}",
        f"Judged by {search.metric} of {search.judged} on {WHERE[search.scored_on]} ({less} is better). Figures are "
        f"those of finished trials on {WHERE[search.measured_on]}, unless ({SCORED[search.scored_on]}) is said.",
        f"{_ends(search)}. Made by {made}, {document['date']}: {document['command']}",
    ]


def sections(search: Search, baseline: Row | None, why: str) -> list[Section]:
    """All sections of the page."""
    of_teachers = search.judged == "teacher" and any(search.figures(row) for row in search.rows)
    return [
        Section("Result", list(_result(search, baseline, why))),
        *([Section("Variants", list(_variants(search)))] if search.variants else []),
        *([Section("Boxes at the clicks", list(quality(search)))] if of_teachers else []),
        Section("Parameters", list(_parameters(search))),
        Section("Learning curves", list(_curves(search))),
        *([Section("Corrupted input", list(on_corrupted_input(search)))] if corruptions(search) else []),
        Section("By distance", list(_distance(search, baseline))),
        Section("By class", [*_classes(search), *_unseen(search)]),
        Section("Pictures", list(_pictures(search, baseline))),
        Section("Trials", list(_trials(search))),
        Section("Shared stages", list(_shared(search))),
        Section("Every row again", list(_commands(search))),
    ]


def _curves(search: Search) -> Iterator[Block]:
    if not any(trial["curve"] for trial in search.trials):
        yield Text("None: no checkpoint was scored while trials were trained.")
        return
    yield Text(
        f"Scores of the kept checkpoints on {WHERE[search.scored_on]}; step 0 is before training. Colors: rows, best "
        "first; gray: the others. Dashed: trials that were not trained to the end."
    )
    yield charts.curves(search)
    yield from convergence(search)


def _variants(search: Search) -> Iterator[Block]:
    rows = [
        [name, (variant["trains"] or "").replace("_", " "), " ".join(variant["overrides"]) or "as the preset"]
        for name, variant in search.variants.items()
    ]
    yield Table([VARIANT, "student", "settings"], rows, folded=True)


def _ends(search: Search) -> str:
    """The numbers of trials by status, in words."""
    counts = Counter(trial["status"] for trial in search.trials)
    said = [f"{counts[status]} {status}" for status in (*ENDS, *sorted(counts.keys() - ENDS.keys())) if counts[status]]
    return f"{len(search.trials)} trials: {', '.join(said) or 'none'}"


def _result(search: Search, baseline: Row | None, why: str) -> Iterator[Block]:
    if baseline is None:
        yield Text(f"No comparison: {why}.")
    else:
        compared = sum(row is not baseline and bool(search.figures(row)) for row in search.rows)
        yield Text(
            f"Mean ± standard deviation over seeds; best ({SCORED[search.scored_on]}) first. "
            f"Baseline: {baseline.name} ({why}). p: two-sided t test of {search.metric} ({search.measured_on}) "
            "against the baseline, "
            "paired by seed where both have the same seeds, else Welch's; not corrected for the "
            f"{compared} comparisons of this table: of twenty without any effect, one is below 0.05 on average. "
            "Few seeds find only large differences."
        )
    extra = [(stage, key) for stage in search.stages for key in _also(search, stage)]
    headings = [*short_keys(search.keys).values(), search.score_name]
    headings += [f"{search.metric} ({search.measured_on})"]
    headings += ["to the baseline", "p", "test"]
    headings += [f"{stage.removeprefix('student_')} {key}" for stage, key in extra] + ["finished"]
    rows = []
    for row in search.rows:
        cells = [value_text(row.parameters[key]) for key in search.keys]
        cells += [str(row.score), str(row.spread(search.judged, search.metric)), *_against(search, row, baseline)]
        cells += [str(row.spread(stage, key)) for stage, key in extra]
        rows.append([*cells, f"{len(row.finished)}/{len(row.trials)}"])
    yield Table(headings, rows, marked=None if baseline is None else search.rows.index(baseline))


def _also(search: Search, stage: str) -> list[str]:
    """The figures of a stage that the result's table shows beside the judged one."""
    names = list(dict.fromkeys((search.metric, *in_searches(stage))))
    return [key for key in names if (stage, key) != (search.judged, search.metric)]


def _against(search: Search, row: Row, baseline: Row | None) -> tuple[str, str, str]:
    if row is baseline:
        return NONE, NONE, "baseline"
    return difference(search.figures(row), {} if baseline is None else search.figures(baseline)).cells()


def _parameters(search: Search) -> Iterator[Block]:
    if not any(search.figures(row) for row in search.rows):
        yield Text("No trial is finished.")
        return
    grid = charts.is_grid_of_two(search)
    yield Text(f"Means over seeds{'' if grid else ', with their standard deviation'}.")
    yield charts.heat_map(search, "all objects", search.metric) if grid else charts.parameter_panels(search)
    shares, reason = importances(search)
    if reason:
        yield Text(f"Importance of parameters: none. {reason}")
    else:
        count = sum(len(row.finished) for row in search.rows)
        yield Text(
            f"Importance of parameters for {search.metric} ({search.measured_on}), by fANOVA on {count} finished "
            "trials (seeds are noise "
            "to it): which share of the variance each explains within its range. With few trials a guess."
        )
        yield charts.bars(shares)


def _distance(search: Search, baseline: Row | None) -> Iterator[Block]:
    bins = _names(search, "by_distance")
    if not bins:
        yield Text("No figures by distance: no trial is finished.")
        return
    keys = _bin_keys(search)
    rows = list(search.lines(charts.SHOWN, baseline))
    yield Text(
        f"{search.judged} on {WHERE[search.measured_on]}, by distance [m]; up to {charts.SHOWN} rows, best first."
    )
    yield charts.distance_panels(search, keys, rows, bins)
    for name in bins if charts.is_grid_of_two(search) else ():
        path = ("by_distance", name, keys[0])
        if any(row.spread(search.judged, *path).n for row in search.rows):
            yield charts.heat_map(search, f"{name} m", *path)
    for key in keys:
        yield Table(
            ["", *bins],
            [[r.name, *(str(r.spread(search.judged, "by_distance", b, key)) for b in bins)] for r in _known(search)],
            f"{key} by distance [m]",
            folded=key != keys[0],
        )


def _bin_keys(search: Search) -> list[str]:
    """The figures that are shown by distance, the judged metric first."""
    keys = OF_TEACHERS if search.judged == "teacher" else STUDENT_BINS
    first = search.metric.removeprefix("m") if search.metric.removeprefix("m") in keys else search.metric
    return [*(k for k in keys if k == first), *(k for k in keys if k != first)]


def _classes(search: Search) -> Iterator[Block]:
    classes, key = _names(search, "per_class"), "bev_iou" if search.judged == "teacher" else "AP"
    if not classes:
        yield Text("No figures by class: no trial is finished.")
        return
    yield Text(f"{key} of {search.judged} on {WHERE[search.measured_on]}.")
    rows = [[r.name, *(str(r.spread(search.judged, "per_class", c, key)) for c in classes)] for r in _known(search)]
    yield Table(["", *(name.replace("_", " ") for name in classes)], rows)


def _unseen(search: Search) -> Iterator[Block]:
    """Mean AP of classes with and without boxes, for searches that vary ``label.no_boxes_of``."""
    if UNSEEN not in search.keys or search.judged == "teacher":
        return
    classes = _names(search, "per_class")
    rows = []
    for row in _known(search):
        without = [name for name in classes if name in row.parameters[UNSEEN]]
        others = [name for name in classes if name not in without]
        rows.append([row.name, *(str(mean_ap(search, row, names)) for names in (without, others))])
    yield Table(["", "classes without boxes", "the others"], rows, f"Mean AP of {search.judged}: classes by {UNSEEN}")


def mean_ap(search: Search, row: Row, classes: Sequence[str]) -> Spread:
    """Mean and deviation, over the seeds that have all these classes, of the AP averaged over the classes."""
    found = [row.by_seed(search.judged, "per_class", name, "AP") for name in classes]
    seeds = set.intersection(*map(set, found)) if found else set()
    return Spread.of([sum(of_class[seed] for of_class in found) / len(found) for seed in sorted(seeds)])


def _names(search: Search, part: str) -> list[str]:
    """The distance bins or classes of which the judged stage has figures."""
    trials = [trial for row in search.rows for trial in row.finished]
    return list(dict.fromkeys(name for t in trials for name in value_at(t["final"], (search.judged, part)) or ()))


def _known(search: Search) -> list[Row]:
    return [row for row in search.rows if search.figures(row)]


def _pictures(search: Search, baseline: Row | None) -> Iterator[Block]:
    runs = {row.name: search.folder / row.finished[0]["run_dir"] for row in search.lines(RUNS, baseline)}
    found = galleries(runs)
    if found:
        yield Text(f"The same val samples, by one trial each of up to {RUNS} rows.")
    else:
        yield Text(f"None: no two run directories of rows hold {' or '.join(PLACES)} at one path.")
    yield from found


def _trials(search: Search) -> Iterator[Block]:
    there = dict.fromkeys(trial["status"] for trial in search.trials)
    yield Text(" ".join(f"{status}: {meaning}." for status, meaning in ENDS.items() if status in there))
    data = ("box_keyframes", "keyframes", "boxes", "clicks", "label_bev_iou")
    headings = [
        "trial",
        *short_keys(search.keys).values(),
        SEED,
        "ended",
        "trained [%]",
        "samples",
        search.score_name,
        "time [s]",
    ]
    headings += ["box-labeled keyframes", "keyframes", "boxes", "clicks", "labels' BEV IoU", "run directory"]
    rows = []
    for row in search.rows:
        for trial in row.trials:
            timing = trial["timing_s"]
            cells = [trial["name"], *(value_text(row.parameters[key]) for key in search.keys)]
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
    errors = [[trial["name"], trial["error"]] for trial in search.trials if trial["error"]]
    if errors:
        yield Table(["trial", "error"], errors, "Errors")


def _shared(search: Search) -> Iterator[Block]:
    names: Sequence[str] = search.document["shared"]
    if not names:
        yield Text("None: trials had no stage in common.")
        return
    yield Text("Trained once for all trials that need it. Quality of pseudo labels: of the teacher at the clicks.")
    rows = []
    for name in names:
        run = RunFiles(search.folder / name)
        quality = run.stage("pseudo_labels")
        figures = [
            number(value_at(quality, path)) for path in (("accepted",), *(("teacher", key) for key in OF_TEACHERS))
        ]
        rows.append([name, ", ".join(run.finished) or "nothing finished", *figures])
    yield Table(["run directory", "finished stages", "accepted labels", *OF_TEACHERS], rows)


def _commands(search: Search) -> Iterator[Block]:
    commit = search.document["commit"]
    yield Text(
        "Each trains a row by itself, with the config, data, seeds and stages of its trials, and scores it on the val "
        "split. The data must lie where it lay. Trials that were stopped early are trained to the end."
    )
    if commit:
        unclean = " (the search's sources had uncommitted changes beyond it)" if commit.endswith("+") else ""
        yield Command(f"First, the search's code{unclean}", f"git checkout {commit.rstrip('+')}")
    for place, row in enumerate(search.rows, start=1):
        yield Command(f"{place}. {row.name}", command(search, row))
