"""One trial of a sweep: a run directory of its own, scored on the select split while it trains, on val at the end."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from pdetr3d.config import OptimConfig
from pdetr3d.exits import find_data_error
from pdetr3d.schema import DataError
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training.plan import total_steps
from pdetr3d.training.run_dir import write_json
from ray_jobs.scoring import evaluate, teacher_scores
from ray_jobs.shared_stages import SweepFolder, open_shared
from ray_jobs.space import SearchSpace, trial_config
from ray_jobs.stage_keys import labels_key, pretraining_key
from ray_jobs.stages import Stages
from ray_jobs.stream import quiet_ray_data
from ray_jobs.sweep_results import ERROR, FILE, RESULT

PROGRESS = "progress"  # percent of the trial's own training: what ASHA compares trials at
TRAINED = 100.0


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep are told."""

    sweep: SweepFolder
    space: SearchSpace
    preset: str
    overrides: tuple[str, ...]


def run_trial(chosen: dict[str, Any], job: Job, shared: Any) -> None:
    """Body of a Tune trial: train, tell Tune of each kept checkpoint, keep the figures in the run directory.

    Args:
        chosen: the trial's parameters. shared: handle of the ``SharedStages`` actor.
    """
    quiet_ray_data()
    name = tune.get_context().get_trial_id()
    folder = job.sweep.path / "trials" / name
    (folder / ERROR).unlink(missing_ok=True)
    try:
        _run(name, folder, chosen, job, shared)
    except Exception as error:
        # Kept here: where a sweep was restored, Tune does not find its own record of an error before it ends.
        write_json(folder / ERROR, {"error": reason(error)})
        raise


def reason(error: Exception) -> str:
    """Why a trial failed: the message of bad input, or the error's last line (remote ones begin with a traceback)."""
    known = find_data_error(error)
    if known is not None:
        return str(known)
    return (f"{type(error).__name__}: {error}".strip().splitlines() or ["unknown"])[-1]


def _run(name: str, folder: Path, chosen: dict[str, Any], job: Job, shared: Any) -> None:
    if not (folder / FILE).exists():  # one that fails as it starts is a trial of the sweep, too
        write_json(folder / FILE, {"parameters": chosen, "steps": None, "curve": []})
    config = trial_config(job.space, job.preset, [*job.overrides, f"run.name={json.dumps(name)}"], chosen)
    with job.sweep.tracker(folder, config, f"trial {name}") as tracker:
        stages = job.sweep.stages(folder, config, tracker)
        with closing(stages.run):  # this process goes on with other trials
            curve = Curve(folder, job.space, chosen, judged_steps(stages, job.space), job.space.optim(config))
            stages.observe = curve.add
            if stages.run.result(RESULT) is None:
                stages.run.finish(RESULT, _train(stages, job, shared, tracker))
            curve.report()  # a trial that was finished before tells its score, too


def _train(stages: Stages, job: Job, shared: Any, tracker: Tracker) -> dict[str, Any]:
    """Train what the space says; returns the trial's figures: ``final`` by stage, ``data``."""
    config, space = stages.config, job.space
    if space.trains == "teacher":
        if config.teacher.lidar_init == "boxes_only":
            _adopt_pretraining(stages, job, shared)
        final = {"teacher": teacher_scores(stages, stages.teacher(), config.data.val_split)}
    else:
        # The judged student is scored while it trains, and is each trial's own.
        if space.arms[0] != "boxes_only" and {"boxes_only", "self_training"} & {*space.arms}:
            _adopt_pretraining(stages, job, shared)
        if "ours" in space.arms:
            made = ray.get(shared.labels.remote(config.to_json()))
            stages.adopt("pseudo_labels", open_shared(made, config, labels_key, job.sweep))
        for arm in space.arms:
            stages.student(arm)
        final = {f"student_{arm}": scores for arm, scores in evaluate(stages, space.arms).items()}
    tracker.log_metrics({"final": final})
    manifest = stages.data.manifest
    boxed = [record for record in stages.records if record.role == "box"]
    return {
        "final": final,
        "timing_s": stages.timing,
        "data": {
            **stages.lineage(),
            "achieved_label_ratio": manifest.achieved_ratio,
            "keyframes": len(stages.records),
            "box_keyframes": len(boxed),
            "boxes": sum(len(record.boxes) for record in boxed),
            "clicks": sum(len(record.clicks) for record in stages.records if record.role == "point"),
        },
    }


def _adopt_pretraining(stages: Stages, job: Job, shared: Any) -> None:
    """Take over the student of the boxes alone from the trials that share it."""
    made = ray.get(shared.pretraining.remote(stages.config.to_json()))
    stages.adopt("student_boxes_only", open_shared(made, stages.config, pretraining_key, job.sweep))


def judged_steps(stages: Stages, space: SearchSpace) -> int:
    """Optimizer steps of its whole training."""
    optim = space.optim(stages.config)
    samples = int(stages.records.boxed.sum()) if space.trains == "teacher" else stages.labeled
    return total_steps(optim.epochs, samples, optim.batch_size)


class Curve:
    """The judged stage's scores by step: kept in ``trial.json``, and told to Tune.

    Args:
        folder: of the trial; what is there of it is continued. chosen: its parameters. steps: of its whole training.
        optim: its schedule.
    """

    def __init__(
        self, folder: Path, space: SearchSpace, chosen: dict[str, Any], steps: int, optim: OptimConfig
    ) -> None:
        self.file, self.space, self.chosen, self.steps, self.batch = (
            folder / FILE,
            space,
            chosen,
            steps,
            optim.batch_size,
        )
        before = json.loads(self.file.read_text())["curve"] if self.file.exists() else []
        self.rows: dict[int, dict[str, float]] = {row["step"]: row for row in before}
        self._write()

    def add(self, stage: str, step: int, scores: dict[str, Any]) -> None:
        """See ``Stages.observe``."""
        if stage != self.space.judged:
            return
        value = scores[self.space.metric]
        if value is None:
            raise DataError(f"{self.space.metric} cannot be told from data.select_split: nothing there has it")
        share = 100 * step / self.steps
        figures = {PROGRESS: share, "samples": step * self.batch, self.space.metric: float(value)}
        self.rows[step] = {"step": step, **figures}
        self._write()
        self.report()

    def report(self) -> None:
        """Tell Tune the newest score."""
        if self.rows:
            tune.report(self.rows[max(self.rows)])

    def _write(self) -> None:
        rows = [self.rows[step] for step in sorted(self.rows)]
        write_json(self.file, {"parameters": self.chosen, "steps": self.steps, "curve": rows})
