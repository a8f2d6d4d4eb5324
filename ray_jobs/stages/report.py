"""A run's report: the document ``report.json``, and the tables on the screen."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pdetr3d.evaluation.figures import ARM_NAMES, SCORES
from pdetr3d.pipeline.run import Run
from pdetr3d.pseudo_labels import FLOORS
from pdetr3d.words import number
from ray_jobs.stages.tracked import seen_objects
from ray_jobs.terminal.phases import PHASES

# Name of a figure -> heading of its column. Tables fit into 80 characters.
KIND_FIGURES = {
    "n_gt": "objects",
    "matched": "found",
    "mAP": "mAP",
    "ASE": "ASE",
    "AOE": "AOE",
    "yaw_error_rad": "yaw",
    "axis_error_rad": "axis",
    "reversed": "turned",
}
QUALITY = {
    "n": "clicks",
    "bev_iou": "BEV IoU",
    "iou_3d": "3D IoU",
    "center_error_m": "center",
    "size_error": "size",
    "yaw_error_rad": "yaw",
    "axis_error_rad": "axis",
    "reversed": "turned",
}
BOXES = {"teacher": "teacher", "class_mean": "class-mean box", "class_mean_pca": "along points (PCA)"}
WIDTH = 80
UNKNOWN = "no click's true box is in the tables; label.holdout=0.2 in another --run-dir measures it on held-out scenes"
MEASURED = "no click's true box is in the tables; what a teacher reaches on the scenes held out follows"


def build_report(
    run: Run, arms: dict[str, dict[str, Any]], quality: dict[str, Any], peak_bytes: int, wall_s: float
) -> dict[str, Any]:
    """Collect the document ``report.json``.

    Args:
        arms: arm -> scores on the val split. quality: of the pseudo labels, and of the boxes of each floor.
        peak_bytes: of ``PeakMemory``. wall_s: time of all stages [s].
    """
    return {
        "arms": arms,
        "ratios": ratios(arms),
        "pseudo_labels": {**quality["teacher"], **{key: quality.get(key) for key in ("clicks", "accepted", *FLOORS)}},
        "holdout": run.result("holdout"),
        "timing": {"wall_s": wall_s, **run.timing},
        "phases_s": PHASES.seconds(),
        "memory": {"peak_rss_bytes": peak_bytes, "measure": "sum of PSS of driver and descendants"},
        "config": run.config.flat(),
        "data": {
            "index": run.data.digest,
            "manifest": run.data.manifest.digest,
            "achieved_label_ratio": run.data.manifest.achieved_ratio,
            "size_prior_fallback": run.absent_classes,
            "skipped_samples": [asdict(skipped) for skipped in run.data.skipped],
        },
        "lineage": run.lineage(),
    }


def ratios(arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Divide the mAP and SPNDS of arm "ours" by those of each other arm; None if the other score is zero.

    Returns:
        ``{"ours_to_ARM": {"mAP": ratio, "SPNDS": ratio}}`` of the arms that were run.
    """
    result = {}
    for other in ("full", "boxes_only", "self_training", "mean_teacher"):
        name = f"ours_to_{other}"
        if "ours" in arms and other in arms:
            pairs = {m: (arms["ours"][m], arms[other][m]) for m in ("mAP", "SPNDS")}
            result[name] = {m: mine / theirs if theirs else None for m, (mine, theirs) in pairs.items()}
    return result


def print_arms(arms: dict[str, dict[str, Any]], ratio: dict[str, dict[str, float | None]] | None = None) -> None:
    """Print the arms' scores on the val split and their ratios; a single line if that split has no object.

    Args:
        arms: arm -> scores. ratio: of ``ratios``.
    """
    if not any(seen_objects(metrics) for metrics in arms.values()):
        print(f"devkit scores of {', '.join(arms)} on the val split: unknown, since no object there is in the tables")
        return
    first = next((name for metrics in arms.values() for name in metrics["per_class"]), "car")
    table = _table("labels of the student", [*SCORES, f"{first} AP"], "the devkit's scores on the val split")
    for arm, metrics in arms.items():
        cells = [metrics[m] for m in SCORES] + [metrics["per_class"][first]["AP"]]
        table.add_row(ARM_NAMES.get(arm, arm), *(number(c) for c in cells))
    _show(table)
    for arm in ["ours"] if "ours" in arms else arms:  # ``report.json`` has those of all arms
        _show(_kinds(ARM_NAMES.get(arm, arm), arms[arm]["by_group"]))
    for arm, metrics in arms.items():
        if "kitti" in metrics:  # if pdetr3d import kitti wrote the dataset
            from pdetr3d.evaluation.kitti_score import show_kitti

            show_kitti(metrics["kitti"], ARM_NAMES.get(arm, arm))
    parts = [
        f"{name.replace('_', ' ')} " + ", ".join(f"{m} {number(v)}" for m, v in values.items())
        for name, values in (ratio or {}).items()
    ]
    if parts:
        print("; ".join(parts))


def _kinds(name: str, groups: dict[str, dict[str, Any]]) -> Table:
    """A student's scores by kind of object, with the errors of its headings."""
    title = f"{name}, by kind of object: heading errors [rad]"
    table = _table("kind", list(KIND_FIGURES.values()), title)
    for kind, figures in groups.items():
        cells = [number(figures.get(key)) for key in KIND_FIGURES]
        table.add_row(escape(kind.replace("_", ", ")), *cells)
    return table


def print_quality(
    quality: dict[str, Any], title: str = "pseudo labels of point-labeled train samples", unknown: str = UNKNOWN
) -> None:
    """Print the quality of boxes at clicks, the calibration of their scores, and the IoU with true parts.

    The table shows the teacher's boxes also by kind and by distance. ``report.json`` has these figures of other boxes.

    Args:
        quality: of the boxes of the teacher and of each floor. title: of the table. unknown: printed instead of the
            table if no click's true box is known.
    """
    known, clicks = quality["teacher"]["n"], quality.get("clicks")
    if not known:
        print(f"{title}: {f'{clicks} clicks, ' if clicks is not None else ''}quality unknown: {unknown}")
        return
    if clicks is not None and clicks > known:
        title += f" ({known} of {clicks} clicks have a known box)"
    table = _table("boxes at the clicks", list(QUALITY.values()), f"{title} [m, rad]")
    for name, shown in BOXES.items():
        parts = {**quality[name]["by_group"], **quality[name]["by_distance"]} if name == "teacher" else {}
        rows = {shown: quality[name], **{_part(part): values for part, values in parts.items()}}
        for row, values in rows.items():
            table.add_row(escape(row), *(number(values[q]) for q in QUALITY))
    _show(table)
    oracles = ", ".join(
        f"{name.removeprefix('true_').replace('_', ' ')} {number(value)}"
        for name, value in quality["teacher"]["oracles"].items()
    )
    print(f"the teacher's BEV IoU if parts of its boxes were true:\n  {oracles}")
    calibration = quality["teacher"]["calibration"]
    print(
        f"scores: expected calibration error {number(calibration['ece'])}, "
        f"rank correlation with the BEV IoU {number(calibration['rank_correlation'])}"
    )


def print_labels(quality: dict[str, Any], holdout: dict[str, Any] | None) -> None:
    """Print the quality of a run's pseudo labels, and that of its first teacher if ``label.holdout`` is set.

    Args:
        quality: result of stage "pseudo_labels". holdout: result of stage "holdout"; None: there is none.
    """
    print_quality(quality, unknown=UNKNOWN if holdout is None else MEASURED)
    print_holdout(holdout)


def print_holdout(holdout: dict[str, Any] | None) -> None:
    """Print the quality of the first teacher's boxes on the held-out box-labeled scenes; None: print nothing."""
    if holdout is not None:
        title = f"boxes of a teacher of {holdout['trained_on']} box-labeled samples, on {holdout['samples']} held out"
        print_quality(holdout, title, "no held-out sample has an object")


def _part(name: str) -> str:
    """The name of a table's row: of a group of classes ("vehicles") or of a distance ("0-10")."""
    return f"  {name} m" if name[0].isdigit() else f"  {name.replace('_', ' ')}"


def _table(first: str, columns: list[str], title: str) -> Table:
    table = Table(first, title=escape(title), box=None, padding=(0, 1, 0, 0), title_justify="left")
    for column in columns:
        table.add_column(escape(column), justify="right")
    return table


def _show(table: Table) -> None:
    """Print a table. Cells that are too wide are wrapped, not cut."""
    Console(width=WIDTH).print(table)
