"""The command that trains a row of a sweep again, by itself: what its trials trained, under the same config."""

from __future__ import annotations

import json
import shlex

from pdetr3d.report.sweep import SEED, Row, Sweep


def command(sweep: Sweep, row: Row) -> str:
    """Shell lines for one row: a job with the space's settings, the sweep's overrides and the row's parameters as
    key=value words, for each of the row's seeds.

    Teachers: train_teacher. Students that need pseudo labels: pipeline, which makes these first. Others: train_student
    and evaluate, since the pipeline would train a teacher that they do not need.
    """
    space, place = sweep.document["space"], f"runs/{sweep.document['space']['name']}-row{sweep.rows.index(row) + 1}"
    arms = [] if space["trains"] == "teacher" else [f"run.arms={json.dumps(space['trains'])}"]
    chosen = [f"{key}={json.dumps(value)}" for key, value in row.parameters.items()]
    words = shlex.join([*space["settings"], *space["overrides"], *chosen, *arms])
    seeds = list(dict.fromkeys(trial["parameters"][SEED] for trial in row.trials))
    seed = str(seeds[0]) if len(seeds) == 1 else "$seed"
    rest = f"--preset {shlex.quote(space['preset'])} --run-dir {shlex.quote(place)}/seed{seed}"
    rest += f" {words} run.seed={seed} label.seed={seed}"
    line = " && ".join(f"python -m ray_jobs.{job} {rest}" for job in jobs(space["trains"]))
    return line if len(seeds) == 1 else f"for seed in {' '.join(map(str, seeds))}; do {line}; done"


def jobs(trains: str | list[str]) -> tuple[str, ...]:
    """Jobs that together train and score what a trial does."""
    if trains == "teacher":
        return ("train_teacher",)
    return ("pipeline",) if "ours" in trains else ("train_student", "evaluate")
