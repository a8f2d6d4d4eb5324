"""Composes the contents of MLflow's run list and run page: headline metrics, a view of the list, a description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pdetr3d.evaluation.figures import SCORES
from pdetr3d.markdown import markdown_table
from pdetr3d.words import number

NOTE = "mlflow.note.content"  # the tag that MLflow's UI shows as a run's description, in Markdown
VIEW = "scores"  # key of the saved view of the run list
COLUMNS = ("ours/SPNDS", "ours/mAP", "boxes_only/SPNDS", "full/SPNDS", "teacher/bev_iou", "teacher/held_out_bev_iou")


def saved_view() -> str:
    """The saved view "Scores" of MLflow's run list, as a value of the tag by which the UI stores it.

    By default the run list shows no metrics, and the columns of all config keys are as many as the keys.
    """
    columns = [*(f"metrics.`{name}`" for name in COLUMNS), "tags.`changed`"]
    return json.dumps({"name": "Scores", "createdAt": 0, "state": json.dumps({"selectedColumns": columns})})


def headline(
    arms: Mapping[str, Mapping[str, Any]], teacher: Mapping[str, Any], held_out: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """The metrics of the parent run, by which MLflow's run list compares runs: ``ours/SPNDS``, ``teacher/bev_iou``.

    Args:
        arms: name -> an evaluation's report.
        teacher: the quality of the teacher's boxes at the clicks (``pseudo_label_quality``).
        held_out: the same of a first teacher on the scenes that ``label.holdout`` holds out; None without them.
    """
    scores = {arm: {name: report.get(name) for name in SCORES} for arm, report in arms.items()}
    return {
        **scores,
        "teacher": {"bev_iou": teacher.get("bev_iou"), "held_out_bev_iou": (held_out or {}).get("bev_iou")},
    }


def description(
    arms: Mapping[str, Mapping[str, Any]],
    teacher: Mapping[str, Any],
    held_out: Mapping[str, Any] | None,
    changed: str,
    picture: str,
    run_id: str,
    children: Mapping[str, str],
    experiment_id: str,
) -> str:
    """The description of a pipeline's run in Markdown: a table of students, the teacher, a picture, links to stages.

    Args:
        arms, teacher, held_out: as ``headline``.
        changed: the keys that differ from the preset, as ``key=value`` words; may be empty.
        picture: name of an artifact of the run.
        run_id: of the pipeline's run.
        children: name of a stage -> id of its run.
        experiment_id: of all these runs.
    """
    rows = [[arm, *(number(report.get(name)) for name in SCORES)] for arm, report in arms.items()]
    links = [f"[{name}](#/experiments/{experiment_id}/runs/{child})" for name, child in sorted(children.items())]
    known = teacher.get("bev_iou")
    parts = [
        f"Changed from the preset: `{changed}`" if changed else "The preset as it is.",
        "\n".join(markdown_table(["student", *SCORES], rows)),
        f"The teacher's boxes at the clicks: mean BEV IoU {number(known) if known is not None else 'unknown'}."
        + (f" On held-out scenes: {number(held_out.get('bev_iou'))} (a first teacher)." if held_out else ""),
        f"![True boxes (solid) and the student's (dashed)](get-artifact?path={picture}&run_uuid={run_id})",
        f"Stages: {', '.join(links)}",
    ]
    return "\n\n".join(parts)
