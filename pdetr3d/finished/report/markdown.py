"""A search as a Markdown table: a row for each variant, mean ± standard deviation over seeds (docs/results.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pdetr3d.evaluation.figures import FLOOR_NAMES, QUALITIES, QUALITY_NAMES, SCORES
from pdetr3d.finished.report.search import Row, Search
from pdetr3d.finished.report.spread import difference
from pdetr3d.markdown import markdown_table
from pdetr3d.schema import DataError
from pdetr3d.words import NONE

ERRORS = QUALITIES[2:]


def search_text(search: Search, about: Mapping[str, str]) -> str:
    """A paragraph about the setup of a search, and its table.

    Args:
        about: variant -> its words in the table. Other variants keep their names.

    Raises:
        DataError: when trials are not finished, because a table of half a search would mislead.
    """
    unfinished = [trial["name"] for trial in search.trials if trial["status"] != "finished"]
    if unfinished:
        raise DataError(f"trials {', '.join(unfinished)} are not finished: run the search's command again")
    seeds = sorted({trial["parameters"]["seed"] for trial in search.trials})
    hours = sum(sum((trial["timing_s"] or {}).values()) for trial in search.trials) / 3600
    where = {"val": "the val split", "point_labeled": "the clicks of the point-labeled samples"}[search.measured_on]
    lead = (
        f"`{search.document['command']}` at commit {search.document['commit'][:7]}, "
        f"{seeds_text(seeds)}, "
        f"{hours:.1f} hours of training{_parts(search)}. "
        f"Figures are of {where}{'; mean ± standard deviation over the seeds' if len(seeds) > 1 else ''}."
    )
    lines = _teachers(search, about) if search.judged == "teacher" else _students(search, about)
    return "\n".join([lead, "", *lines])


def seeds_text(seeds: Sequence[int]) -> str:
    """The words ``seed 0`` or ``seeds 0, 1``."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _parts(search: Search) -> str:
    """A remark on a search that several processes ran: commit and hours leave out what earlier ones trained."""
    parts = search.document.get("sessions", 1)
    return (
        f" (in {parts} parts: the commit is the last one's, a trial's hours are those of its own last part)"
        if parts > 1
        else ""
    )


def _teachers(search: Search, about: Mapping[str, str]) -> list[str]:
    rows = _declared(search)
    first = rows[0].finished[0]["final"][search.judged]
    bins = [name for name, part in first["by_distance"].items() if part["n"]]
    floors = [name for name in search.floors if name in FLOOR_NAMES]
    lines = [[FLOOR_NAMES[floor], *_teacher_cells(rows[0], floor, bins), ""] for floor in floors]
    for row in rows:
        lines.append([about.get(row.name, row.name), *_teacher_cells(row, search.judged, bins), _against(search, row)])
    errors = [QUALITY_NAMES[key] for key in ERRORS]
    header = ["mean BEV IoU", "all", *(f"{name} m" for name in bins), *errors, "to the reference"]
    return markdown_table(header, lines)


def _teacher_cells(row: Row, stage: str, bins: Sequence[str]) -> list[str]:
    parts = [("bev_iou",), *(("by_distance", name, "bev_iou") for name in bins), *((key,) for key in ERRORS)]
    return [str(row.spread(stage, *path)) for path in parts]


def _students(search: Search, about: Mapping[str, str]) -> list[str]:
    lines = []
    for row in _declared(search):
        stage = next(stage for stage in row.finished[0]["final"] if stage.startswith("student"))
        cells = [str(row.spread(stage, key)) for key in SCORES]
        lines.append([about.get(row.name, row.name), *cells, _against(search, row)])
    return markdown_table(["labels of the student", *SCORES, f"{search.metric} to the reference"], lines)


def _declared(search: Search) -> list[Row]:
    """Rows in the order of the space's variants; of other spaces the best one first."""
    order = list(search.variants)
    return sorted(search.rows, key=lambda row: order.index(row.name)) if order else search.rows


def _against(search: Search, row: Row) -> str:
    """Difference to the reference, and p of the paired test."""
    reference = search.baseline()[0]
    if row is reference:
        return "reference"
    mean, p, _ = difference(search.figures(row), {} if reference is None else search.figures(reference)).cells()
    return mean if p == NONE else f"{mean} (p = {p})"
