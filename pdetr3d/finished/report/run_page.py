"""``pdetr3d report`` of a run: a page with scores, quality of labels, examples, curves, pictures and commands."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pdetr3d.data.loading.records import inspection_records, prior_size_m
from pdetr3d.evaluation.figures import ARM_NAMES, FLOOR_NAMES, QUALITY_NAMES
from pdetr3d.evaluation.pseudo_label_quality import bev_iou
from pdetr3d.finished.labels.measure import MeasuredLabels
from pdetr3d.finished.labels.report import draw_label
from pdetr3d.finished.labels.run_labels import RunLabels
from pdetr3d.finished.report import charts
from pdetr3d.finished.report.compare import CURVES, SCORES
from pdetr3d.finished.report.page import Block, Chart, Command, Gallery, Section, Table, Text, write_page
from pdetr3d.finished.report.pictures import SAMPLES, embed
from pdetr3d.finished.report.reproduce import run_command
from pdetr3d.finished.report.runs import Run, open_run
from pdetr3d.finished.report.search import value_at
from pdetr3d.pseudo_labels import FLOORS, class_mean_boxes
from pdetr3d.schema import Boxes3D, DataError
from pdetr3d.tracking.history import read_histories
from pdetr3d.words import number

FILE = "report.html"
EXAMPLES = 3  # number of good examples, and of bad examples
MOST = 100_000  # with more clicks, measuring each would take minutes and gigabytes, so it is left out
BINS = np.linspace(0, 1, 21).tolist()  # edges of the histogram of BEV IoU


def write_run_page(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page of a run directory, replacing an older one; returns its path. Unfinished stages are left out.

    Raises:
        DataError: when ``run_dir`` is no run directory, or one of its files cannot be read.
    """
    run, file = open_run(run_dir), out or run_dir / FILE
    sections = [
        Section("Students", _students(run)),
        Section("Boxes at the clicks", _labels(run)),
        Section("Learning curves", _curves(run)),
        Section("Predictions", _pictures(run)),
        Section("Commands", _commands(run)),
    ]
    return write_page(file, f"Run {run.name}", [str(run.path)], [section for section in sections if section.blocks])


def _students(run: Run) -> list[Block]:
    arms = {arm: run.scores(arm) for arm in sorted(run.students, key=lambda arm: ARM_NAMES.get(arm, arm))}
    if not arms:
        return [Text("No student is scored yet.")]
    names = [ARM_NAMES.get(arm, arm) for arm in arms]
    rows = [[name, *(number(report.get(name)) for report in arms.values())] for name in SCORES]
    classes = list(next(iter(arms.values())).get("per_class", ()))
    by_class = [
        [name, *(number(value_at(report, ("per_class", name, "AP"))) for report in arms.values())] for name in classes
    ]
    return [
        Table(["", *names], rows, "Devkit scores, val split"),
        Table(["AP", *names], by_class, "By class", folded=True),
    ]


def _labels(run: Run) -> list[Block]:
    stage = run.stage("pseudo_labels")
    measured = {name: stage[name] for name in ("teacher", *FLOORS) if value_at(stage, (name, "n"))}
    if "teacher" not in measured:
        return []
    rows = [
        [FLOOR_NAMES.get(name, name), *(number(report.get(key)) for key in QUALITY_NAMES)]
        for name, report in measured.items()
    ]
    title = "Mean quality of the boxes at clicks whose true box is known"
    made: list[Block] = [Table(["boxes", *QUALITY_NAMES.values()], rows, title)]
    if measured["teacher"]["n"] > MOST:
        return [*made, Text(f"More than {MOST:,} clicks: pdetr3d report-labels {run.path} draws and measures each.")]
    try:
        labels = RunLabels.open(run.path)
    except DataError as error:
        return [*made, Text(f"The labels themselves cannot be read: {error}")]
    found = MeasuredLabels(labels)
    known = found.table["known"].to_numpy(bool)
    if known.any():
        floor = _floor(labels, found)
        made.append(
            _histogram({"teacher": found.table["bev_iou"].to_numpy(float)[known], FLOOR_NAMES[FLOORS[0]]: floor})
        )
        made += _examples(labels, found)
    return made


def _floor(labels: RunLabels, found: MeasuredLabels) -> NDArray[np.float64]:
    """(N,) BEV IoU of the class-mean boxes at the clicks whose true box is known."""
    everyone = inspection_records(labels.index, list(labels.manifest.roles), labels.manifest)
    prior, _ = prior_size_m(everyone, classes=found.classes)  # it uses only the box-labeled records
    boxes, truth = [], []
    for record in found.records.values():
        own = record.clicks.box_index
        boxes.append(class_mean_boxes(record.clicks[own >= 0], prior))
        truth.append(record.boxes[own[own >= 0]])
    return bev_iou(Boxes3D.concatenate(boxes), Boxes3D.concatenate(truth))


def _histogram(values: dict[str, NDArray[np.float64]]) -> Chart:
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="BEV IoU with the true box", ylabel="share of the clicks")
        for place, (name, ious) in enumerate(values.items()):
            weights, color = np.full(len(ious), 1 / len(ious)), charts.COLORS[place]
            axes.hist(ious, BINS, weights=weights, histtype="stepfilled" if place == 0 else "step", color=color,
                alpha=0.45 if place == 0 else 1, label=f"{name}, mean {ious.mean():.3f}")  # fmt: skip
        axes.legend(frameon=False)

    return charts.chart("How good the boxes at the clicks are, beside the floor", (10, 3.6), draw)


def _examples(labels: RunLabels, found: MeasuredLabels) -> list[Block]:
    table = found.table[found.table["known"] & found.table["accepted"].astype(bool)]
    best = [int(row) for row in table["bev_iou"].sort_values(ascending=False, kind="stable").index[:EXAMPLES]]
    made: list[Block] = []
    with tempfile.TemporaryDirectory() as scratch:
        for title, rows in (("Good labels", best), ("Bad labels", found.worst(EXAMPLES))):
            pictures = []
            for place, row in enumerate(rows, start=1):
                name, caption = draw_label(labels, found, row, place, Path(scratch))
                pictures.append((caption, embed(Path(scratch) / name)))
            made += [Gallery(title, pictures)] if pictures else []
    return made


def _curves(run: Run) -> list[Block]:
    histories, problems = read_histories(run.path, CURVES)
    made: list[Block] = []
    for key in CURVES:
        lines = {stage: history.curves[key] for stage, history in histories.items() if key in history.curves}
        made += [charts.histories(key, lines)] if lines else []
    return [*made, *(Text(f"{name}: {problem}") for name, problem in problems.items())]


def _pictures(run: Run) -> list[Block]:
    """The first frame of the val split, then some frames with the boxes of all models side by side."""
    first = [("First frame of the val split", [("", file)]) for file in sorted(run.path.glob("*.png"))]
    frames: dict[str, list[tuple[str, Path]]] = {}
    for file in sorted(run.path.glob("*/images/*/bev_cameras.png")):
        stage, token = file.parents[2].name, file.parent.name
        arm = stage.removeprefix("student_")
        frames.setdefault(token, []).append((ARM_NAMES.get(arm, stage), file))
    shown = [*first, *((f"Frame {token}", sorted(files)) for token, files in sorted(frames.items()))][:SAMPLES]
    lead = Text("Solid boxes: truth. Dashed boxes: predictions, with their scores. Crosses: clicks.")
    galleries = [Gallery(title, [(name, embed(file)) for name, file in files]) for title, files in shown]
    return [lead, *galleries] if galleries else []


def _commands(run: Run) -> list[Block]:
    lines: Sequence[tuple[str, str]] = [
        ("What is wrong, what to try", f"pdetr3d doctor {run.path}"),
        ("All labels, by class and distance", f"pdetr3d report-labels {run.path}"),
        ("The student for other tools", f"pdetr3d export {run.path} --out detector"),
    ]
    try:
        again: list[Block] = [Command("The run again", run_command(run))]
    except DataError as error:
        again = [Text(str(error))]
    return [*again, *(Command(*line) for line in lines)]
