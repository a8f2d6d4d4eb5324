"""From a sweep's folder to its figures: one row per trial, mean and standard deviation over seeds. Imports no Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ray_jobs.space import SEED, SearchSpace
from ray_jobs.study_report import plus_minus
from ray_jobs.study_results import spread

STATUS = "status.json"  # of a trial that has ended: {"status": "finished" | "stopped" | "failed", "error"}
ERROR = "error.json"  # of a trial that failed: {"error"}
RESULT = "trial"  # folder of the finished trial's figures in its run directory
FILE = "trial.json"  # of every trial, from its start on: parameters, steps, curve
UNFINISHED = "unfinished"


def trial_names(folder: Path) -> list[str]:
    """Names of a sweep's trials that have started, in order."""
    return sorted(file.parent.name for file in folder.glob(f"trials/*/{FILE}"))


def read_trial(folder: Path, name: str, space: SearchSpace) -> dict[str, Any]:
    """One trial, as far as it is: ``score`` is the judged metric of its newest checkpoint on the select split."""
    place = folder / "trials" / name
    started = json.loads((place / FILE).read_text())
    ended, result = place / STATUS, place / RESULT / "done.json"
    curve = started["curve"]
    return {
        "name": name,
        "run_dir": str(place.relative_to(folder)),
        **(json.loads(ended.read_text()) if ended.exists() else {"status": UNFINISHED, "error": None}),
        "parameters": started["parameters"],
        "steps": started["steps"],
        "curve": curve,
        "score": curve[-1][space.metric] if curve else None,
        "samples": curve[-1]["samples"] if curve else 0,
        "progress": curve[-1]["progress"] if curve else 0.0,
        **(json.loads(result.read_text()) if result.exists() else {"final": None, "data": None, "timing_s": None}),
    }


def collect(folder: Path, space: SearchSpace) -> dict[str, Any]:
    """``trials``, ``groups`` (trials that differ in their seed alone, best first) and ``shared`` run directories."""
    trials = [read_trial(folder, name, space) for name in trial_names(folder)]
    return {
        "metric": space.metric,
        "mode": space.mode,
        "judged": space.judged,
        "trials": trials,
        "groups": groups(trials, space),
        "shared": sorted(str(file.parent.relative_to(folder)) for file in folder.glob("shared/*/run.json")),
    }


def groups(trials: list[dict[str, Any]], space: SearchSpace) -> list[dict[str, Any]]:
    """Trials by their parameters without the seed; finished groups first, best score first."""
    by_parameters: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        chosen = {key: value for key, value in trial["parameters"].items() if key != SEED}
        by_parameters.setdefault(json.dumps(chosen, sort_keys=True), []).append(trial)
    made = [_group(json.loads(chosen), members, space) for chosen, members in by_parameters.items()]
    sign = 1 if space.mode == "min" else -1

    def order(group: dict[str, Any]) -> tuple[bool, float]:
        mean = group["score"]["mean"]
        return group["finished"] == 0, float("inf") if mean is None else sign * mean

    return sorted(made, key=order)


def _group(chosen: dict[str, Any], trials: list[dict[str, Any]], space: SearchSpace) -> dict[str, Any]:
    finished = [trial for trial in trials if trial["status"] == "finished"]
    judged = finished or trials
    return {
        "parameters": chosen,
        "trials": [trial["name"] for trial in trials],
        "finished": len(finished),
        "score": spread(trial["score"] for trial in judged),
        "final": {
            stage: {key: spread(t["final"][stage][key] for t in finished) for key in shown(stage)}
            for stage in (finished[0]["final"] if finished else ())
        },
    }


def shown(stage: str) -> tuple[str, ...]:
    """Which final figures of a stage are summarized."""
    return (
        ("bev_iou", "yaw_error_rad", "size_error", "center_error_m") if stage == "teacher" else ("mAP", "NDS", "SPNDS")
    )


def label_efficiency(document: dict[str, Any]) -> list[tuple[int, dict[str, dict[str, float | None]]]]:
    """What boxes buy, where the space varies ``label.ratio``: box-labeled keyframes (mean over the finished seeds) and
    mean SPNDS by stage; whatever else the space varies is part of that figure's name."""
    data = {trial["name"]: trial["data"] for trial in document["trials"]}
    points = []
    for group in document["groups"]:
        others = dict(group["parameters"])
        boxed = [data[name]["box_keyframes"] for name in group["trials"] if data[name] is not None]
        if others.pop("label.ratio", None) is None or not boxed:
            continue
        name = " ".join(["SPNDS", *(f"{key}={value_text(value)}" for key, value in others.items())])
        scores = {stage: {name: f["SPNDS"]["mean"]} for stage, f in group["final"].items() if "SPNDS" in f}
        points.append((round(sum(boxed) / len(boxed)), scores))
    return points


def print_sweep(document: dict[str, Any]) -> None:
    """Table of the groups, best first, and how the trials ended."""
    groups, metric = document["groups"], document["metric"]
    keys = list(groups[0]["parameters"]) if groups else []
    columns = [(stage, key) for stage in (groups[0]["final"] if groups else ()) for key in shown(stage)]
    table = Table(
        *keys, f"{metric} (select)", *(f"{s.removeprefix('student_')} {k} (val)" for s, k in columns), "trials"
    )
    for group in groups:
        cells = [value_text(group["parameters"][key]) for key in keys] + [plus_minus(group["score"])]
        cells += [plus_minus(group["final"][s][k]) if group["final"] else "-" for s, k in columns]
        table.add_row(*cells, f"{group['finished']}/{len(group['trials'])}")
    Console(width=180).print(table)
    ends = [trial["status"] for trial in document["trials"]]
    print("trials: " + ", ".join(f"{ends.count(status)} {status}" for status in sorted(set(ends))))
    for trial in document["trials"]:
        if trial["error"]:
            print(f"{trial['name']} failed: {trial['error']}")


def value_text(value: Any) -> str:
    """A parameter for people: numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
