"""The tables of searches of students: what clicks are worth, KITTI's students, objects that nobody clicked."""

from __future__ import annotations

from typing import Any

from pdetr3d.evaluation.figures import SCORES
from pdetr3d.finished.report.markdown import search_text, seeds_text
from pdetr3d.finished.report.search import Row, Search
from pdetr3d.finished.report.spread import Spread, difference
from pdetr3d.markdown import markdown_table
from tools.measurements import ROOT, STUDENTS


def unclicked(found: dict[str, Any]) -> str:
    """The section of docs/results.md about objects that nobody clicked."""
    search = Search(ROOT, found)
    lines = []
    for share in search.domains["label.click_share"]["values"]:
        one, other = (
            next(
                row for row in search.rows if row.parameters == {"label.click_share": share, "student.unclicked": what}
            )
            for what in ("ignore", "background")
        )
        mean, p, _ = difference(search.figures(one), search.figures(other)).cells()
        lines.append(f"With {share:.0%} of the objects clicked, `ignore` changes {search.metric} by {mean} (p = {p}).")
    return "\n".join([search_text(search, {}), "", *lines])


def kitti_students(found: dict[str, Any]) -> str:
    """The section of docs/results.md about students of KITTI's frames; of five classes they find one."""
    search = Search(ROOT, found)
    rows = {row.name: row for row in search.rows}
    cars = ", ".join(f"{name} {rows[name].spread('student', 'per_class', 'Car', 'AP')}" for name in search.variants)
    return "\n".join([search_text(search, {}), "", f"AP of cars: {cars}."])


def students(found: dict[str, Any]) -> tuple[Row, Row, Row]:
    """The rows of the variants STUDENTS."""
    few, ours, full = (next(row for row in Search(ROOT, found).rows if row.name == name) for name in STUDENTS)
    return few, ours, full


def headline_summary(found: dict[str, Any]) -> str:
    """The table of README.md of students of preset headline."""
    rows = [
        [name, *(str(row.spread("student", s)) for s in SCORES)]
        for name, row in zip(STUDENTS, students(found), strict=True)
    ]
    lead = f"{headline_ratios(found)} ({seeds_text(found['seeds'])}):"
    return "\n".join([lead, "", *markdown_table(["labels of the student", *SCORES], rows)])


def headline_ratios(found: dict[str, Any]) -> str:
    """A sentence with the scores of students of clicks, divided by those of the other students."""
    few, ours, full = students(found)

    def ratio(row: Row, metric: str) -> str:
        others = row.by_seed("student", metric)
        return str(Spread.of([value / others[seed] for seed, value in ours.by_seed("student", metric).items()]))

    said = [f"{ratio(row, 'mAP')} and {ratio(row, 'SPNDS')} times those of `{row.name}`" for row in (few, full)]
    return f"mAP and SPNDS of `{ours.name}` are {' and '.join(said)}"


def headline_students(found: dict[str, Any]) -> str:
    """The section of docs/results.md about students of preset headline."""
    rows = students(found)
    labels = Spread.of(rows[1].values("data", "label_bev_iou").values())
    metrics = {"AP": "AP", "AOE": "AOE [rad]"}
    header = ["class", *(f"{metric}, {row.name}" for metric in metrics.values() for row in rows)]
    classes = [name for name, scores in rows[1].finished[0]["final"]["student"]["per_class"].items() if scores["n_gt"]]
    parts = [
        [name, *(str(row.spread("student", "per_class", name, metric)) for metric in metrics for row in rows)]
        for name in classes
    ]
    return "\n".join(
        [
            search_text(Search(ROOT, found), {}),
            "",
            f"{headline_ratios(found)}. "
            f"The teacher's boxes at the clicks, from which `ours` learns, have a mean BEV IoU of {labels}.",
            "",
            *markdown_table(header, parts),
        ]
    )
