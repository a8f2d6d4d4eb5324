"""Makes the shell commands that repeat a run, or a row of a search, with the same stages and the same config."""

from __future__ import annotations

import json
import shlex

from pdetr3d.finished.report.runs import Run
from pdetr3d.finished.report.search import Row, Search
from pdetr3d.presets import load
from pdetr3d.run_files import SEED, VARIANT


def command(search: Search, row: Row) -> str:
    """Shell lines that repeat a row of a search for each of its seeds.

    The ``key=value`` words are the space's settings, the search's overrides and the row's parameters. Teachers are
    repeated by train_teacher; students that need pseudo labels by pipeline, which makes these first; other students by
    train_student and evaluate, since the pipeline would train an unneeded teacher.
    """
    space, place = search.document["space"], f"runs/{search.document['space']['name']}-row{search.rows.index(row) + 1}"
    variant = search.variants.get(row.parameters.get(VARIANT, ""), {})
    trains = space["trains"] if variant.get("trains") is None else [variant["trains"]]
    arms = [] if trains == "teacher" else [f"run.arms={json.dumps(trains)}"]
    chosen = [f"{key}={json.dumps(value)}" for key, value in row.parameters.items() if key != VARIANT]
    named = variant.get("overrides", [])
    words = shlex.join([*space["settings"], *space["overrides"], *named, *chosen, *arms])
    seeds = list(dict.fromkeys(trial["parameters"][SEED] for trial in row.trials))
    seed = str(seeds[0]) if len(seeds) == 1 else "$seed"
    rest = f"--preset {shlex.quote(space['preset'])} --run-dir {shlex.quote(place)}/seed{seed}"
    rest += f" {words} run.seed={seed} label.seed={seed}"
    line = " && ".join(f"python -m ray_jobs.{job} {rest}" for job in jobs(trains))
    return line if len(seeds) == 1 else f"for seed in {' '.join(map(str, seeds))}; do {line}; done"


def run_command(run: Run) -> str:
    """Shell lines that repeat the finished stages of a run in another run directory.

    They name the run's preset, and the keys of ``run.json`` that differ from it.

    Raises:
        DataError: when the preset does not exist (any more).
    """
    preset = str(run.identity.get("preset"))
    known = json.loads(json.dumps(load(preset).flat()))
    words = [f"{k}={json.dumps(v)}" for k, v in run.identity.items() if k in known and k != "preset" and v != known[k]]
    arms, labels = [arm for arm in run.scored if arm != "teacher"], bool(run.stage("pseudo_labels"))
    if arms:
        words.append(f"run.arms={json.dumps(arms)}")
        names = ("pipeline",) if labels else ("train_student", "evaluate")
    else:
        names = ("train_teacher", "pseudo_label") if labels else ("train_teacher",)
    place = shlex.quote(f"runs/{run.name.replace('/', '-')}-again")
    rest = f"--preset {shlex.quote(preset)} --run-dir {place} {shlex.join(words)}".rstrip()
    return " && ".join(f"python -m ray_jobs.{name} {rest}" for name in names)


def jobs(trains: str | list[str]) -> tuple[str, ...]:
    """The jobs that together do the work of a trial: training and scoring."""
    if trains == "teacher":
        return ("train_teacher",)
    return ("pipeline",) if "ours" in trains else ("train_student", "evaluate")
