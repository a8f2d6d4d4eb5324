"""Reads the results of a search from its folder: a row per trial, means over seeds. Imports no Ray."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pdetr3d.config import Config
from pdetr3d.evaluation.figures import in_searches
from pdetr3d.finished.report.search import SCORED, value_text
from pdetr3d.finished.report.spread import Spread
from pdetr3d.pseudo_labels import FLOORS
from pdetr3d.run_files import CONFIG, DONE, SEED
from ray_jobs.searches.space import SearchSpace

# Files and a folder in the run directory of a trial.
STATUS = "status.json"  # of an ended trial: {"status": "finished" | "stopped" | "failed", "error"}
ERROR = "error.json"  # of a failed trial: {"error"}
RESULT = "trial"  # the folder of a finished trial's figures
FILE = "trial.json"  # of every started trial: parameters, steps, curve
UNFINISHED = "unfinished"  # the status of a trial without STATUS


def trial_names(folder: Path) -> list[str]:
    """Names of the started trials of the search in ``folder``, sorted."""
    return sorted(file.parent.name for file in folder.glob(f"trials/*/{FILE}"))


def read_trial(folder: Path, name: str, space: SearchSpace) -> dict[str, Any]:
    """Read a trial, which may still run.

    Args:
        folder: of the search. name: of the trial. space: of the search.

    Returns:
        ``name``, ``run_dir`` (relative to ``folder``); ``status``, ``error``: of STATUS; ``parameters``, ``steps``,
        ``curve``: of FILE; ``score``: the judged metric of its newest scored checkpoint, or the final one if no
        checkpoint is scored, or None; ``samples``: trained at that checkpoint; ``progress``: of its training [%];
        ``final``, ``data``, ``timing_s`` and more of RESULT, None before it is finished.
    """
    place = folder / "trials" / name
    started = json.loads((place / FILE).read_text())
    ended, result = place / STATUS, place / RESULT / DONE
    curve = started["curve"]
    found = json.loads(result.read_text()) if result.exists() else {"final": None, "data": None, "timing_s": None}
    last = (found.get("final") or {}).get(space.judged, {}).get(space.metric)
    return {
        "name": name,
        "run_dir": str(place.relative_to(folder)),
        **(json.loads(ended.read_text()) if ended.exists() else {"status": UNFINISHED, "error": None}),
        "parameters": started["parameters"],
        "steps": started["steps"],
        "curve": curve,
        "score": curve[-1][space.metric] if curve else last,
        "samples": curve[-1]["samples"] if curve else 0,
        "progress": curve[-1]["progress"] if curve else 100.0 * (last is not None),
        **found,
    }


def collect(folder: Path, space: SearchSpace, base: Config) -> dict[str, Any]:
    """Collect the results of a search, which may still run.

    Args:
        folder: of the search. space: of the search. base: config that trials vary.

    Returns:
        ``trials``: of ``read_trial``. ``groups``: of ``groups``. ``shared``: run directories of shared stages, relative
        to ``folder``. ``metric``, ``mode``, ``judged``, ``measured_on``, ``scored_on``: see ``SearchSpace``; "final"
        for ``scored_on`` means that trials are compared by their final figures.
    """
    trials = [read_trial(folder, name, space) for name in trial_names(folder)]
    return {
        "metric": space.metric,
        "mode": space.mode,
        "judged": space.judged,
        "measured_on": space.measured_on,
        "scored_on": space.scored_on(base) or "final",
        "trials": trials,
        "groups": groups(trials, space),
        "shared": sorted(str(file.parent.relative_to(folder)) for file in folder.glob(f"shared/*/{CONFIG}")),
    }


def groups(trials: list[dict[str, Any]], space: SearchSpace) -> list[dict[str, Any]]:
    """Group trials that differ only in their seed.

    Args:
        trials: of ``read_trial``. space: of the search.

    Returns:
        ``parameters`` (without the seed), ``trials`` (names), ``finished`` (their number), ``score`` and ``final``
        (``spread`` over finished trials, or over all if none is). Groups with finished trials come first; of these,
        the group with the best score.
    """
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
            stage: {key: spread(t["final"][stage][key] for t in finished) for key in in_searches(stage)}
            for stage in (finished[0]["final"] if finished else ())
            if stage not in FLOORS
        },
    }


def spread(values: Iterable[float | None]) -> dict[str, Any]:
    """``{"mean", "std", "n"}`` of the values that are not None; see ``Spread``."""
    return asdict(Spread.of([value for value in values if value is not None]))


def label_efficiency(document: dict[str, Any]) -> list[tuple[int, dict[str, dict[str, float | None]]]]:
    """The SPNDS as a function of the number of box-labeled keyframes, for spaces that vary ``label.ratio``.

    Args:
        document: of ``search.json``.

    Returns:
        Per group with finished trials: box-labeled keyframes (mean over seeds), and ``{stage: {name: mean SPNDS}}``.
        The name contains the group's other parameters.
    """
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


def print_search(document: dict[str, Any]) -> None:
    """Print a table of the groups, best first, and how the trials ended.

    Args:
        document: of ``search.json``.
    """
    groups, metric = document["groups"], document["metric"]
    scored, measured = SCORED[document["scored_on"]], document["measured_on"]
    keys = list(groups[0]["parameters"]) if groups else []
    columns = [(stage, key) for stage in (groups[0]["final"] if groups else ()) for key in in_searches(stage)]
    table = Table(
        *keys, f"{metric} ({scored})", *(f"{s.removeprefix('student_')} {k} ({measured})" for s, k in columns), "trials"
    )
    for group in groups:
        cells = [value_text(group["parameters"][key]) for key in keys] + [str(Spread(**group["score"]))]
        cells += [str(Spread(**group["final"][s][k])) if group["final"] else "-" for s, k in columns]
        table.add_row(*cells, f"{group['finished']}/{len(group['trials'])}")
    Console(width=180).print(table)
    ends = [trial["status"] for trial in document["trials"]]
    print("trials: " + ", ".join(f"{ends.count(status)} {status}" for status in sorted(set(ends))))
    for trial in document["trials"]:
        if trial["error"]:
            print(f"{trial['name']} failed: {trial['error']}")
