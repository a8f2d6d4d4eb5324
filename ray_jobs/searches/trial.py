"""Runs one trial of a search in its own run directory: trains it, reports its scores, measures it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdetr3d.config import OptimConfig
from pdetr3d.data.storage.files import write_json
from pdetr3d.exits import find_data_error
from pdetr3d.finished.report.search import row_names
from pdetr3d.pipeline.execute import SHARED, execute
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.scoring import evaluate
from pdetr3d.pipeline.trainings import crop_steps
from pdetr3d.run_files import SEED
from pdetr3d.schema import DataError
from pdetr3d.tracking.runs import Tracker
from pdetr3d.tracking.summary import headline
from pdetr3d.training.plan import total_steps
from ray_jobs.searches.evaluations import measured_teacher
from ray_jobs.searches.folder import SearchFolder
from ray_jobs.searches.results import ERROR, FILE, RESULT
from ray_jobs.searches.space import SearchSpace
from ray_jobs.searches.space_files import trial_config
from ray_jobs.stages.tracked import Tracked

PROGRESS = "progress"  # name of the reported percentage of the trial's training; ASHA compares trials at equal ones
TRAINED = 100.0  # the PROGRESS of a trial whose training is finished

# A function that receives the newest row of a trial's curve (``Curve``).
Report = Callable[[dict[str, float]], object]


@dataclass(frozen=True)
class Job:
    """The arguments that all trials of a search have in common.

    Attributes:
        search: its folder. space: its space. preset: name. overrides: the user's ``key=value`` words.
    """

    search: SearchFolder
    space: SearchSpace
    preset: str
    overrides: tuple[str, ...]


def run(name: str, chosen: dict[str, Any], job: Job, report: Report) -> None:
    """Run a trial: train, report the score of each kept checkpoint, write the figures to the run directory.

    Args:
        name: of the trial. chosen: its parameters. job: of the search. report: called with each score.
    """
    folder = job.search.path / "trials" / name
    (folder / ERROR).unlink(missing_ok=True)
    try:
        _run(name, folder, chosen, job, report)
    except Exception as error:
        # In a restored search Tune finds its own record of an error only after the search ends.
        write_json(folder / ERROR, {"error": reason(error)})
        raise


def reason(error: Exception) -> str:
    """The text of a trial's error: the message of a DataError, or the last line of another error.

    Errors from Ray's tasks begin with a traceback.
    """
    known = find_data_error(error)
    if known is not None:
        return str(known)
    return (f"{type(error).__name__}: {error}".strip().splitlines() or ["unknown"])[-1]


def _run(name: str, folder: Path, chosen: dict[str, Any], job: Job, report: Report) -> None:
    if not (folder / FILE).exists():  # written first, so that results list a trial that fails at its start
        write_json(folder / FILE, {"parameters": chosen, "steps": None, "curve": []})
    config = trial_config(job.space, job.preset, [*job.overrides, f"run.name={json.dumps(name)}"], chosen)
    with job.search.opened(folder, config, f"trial {name}", title(name, chosen)) as run:
        curve = Curve(folder, job.space, chosen, judged_steps(run, job.space), job.space.optim(config), report)
        told = run.observer
        assert isinstance(told, Tracked)
        if job.space.scored_on(config) == "select":
            told.observe = curve.add
        if run.result(RESULT) is None:
            run.dir.finish(RESULT, train(run, job, told.parent, curve))
        curve.report()  # also for a trial that was finished before


def title(name: str, chosen: Mapping[str, Any]) -> str:
    """The name of a trial's MLflow run: its parameters, then the name by which Tune knows the trial."""
    (row,) = row_names([{key: value for key, value in chosen.items() if key != SEED}])
    return f"{row}, seed {chosen[SEED]} ({name})".removeprefix(", ")


def train(run: Run, job: Job, tracker: Tracker, curve: Curve) -> dict[str, Any]:
    """Train and measure the models of the trial.

    Returns:
        ``final``: stage -> figures. ``data``: of the labels. ``timing_s``: of the stages [s]. Those of teachers also
        have ``corruption`` and ``costs`` (``measured_teacher``).
    """
    space, store = job.space, job.search.store
    if space.trains == "teacher":
        figures = measured_teacher(run, space, curve.add, store)
        shown = headline({}, figures["final"]["teacher"])
    else:
        arms = space.arms_of(curve.chosen)
        # Each trial trains the judged student itself, because it is scored during training.
        shared = [stage for stage in SHARED if stage != f"student_{arms[0]}"]
        execute([f"student_{arm}" for arm in arms], run, store=store, shared=shared)
        scores = evaluate(run, arms)
        own = {"student": scores[arms[0]]} if space.own_arms else {f"student_{arm}": s for arm, s in scores.items()}
        figures = {"final": own}
        shown = headline(scores, (run.result("pseudo_labels") or {}).get("teacher", {}))
    tracker.log_metrics({"final": figures["final"], **shown})
    manifest = run.data.manifest
    boxed = [record for record in run.records if record.role == "box"]
    labels = run.result("pseudo_labels")
    return {
        **figures,
        "timing_s": run.timing,
        "data": {
            **run.lineage(),
            "achieved_label_ratio": manifest.achieved_ratio,
            "keyframes": len(run.records),
            "box_keyframes": len(boxed),
            "boxes": sum(len(record.boxes) for record in boxed),
            "clicks": sum(len(record.clicks) for record in run.records if record.role == "point"),
            "label_bev_iou": None if labels is None else labels["teacher"]["bev_iou"],
            # Share of turned headings in each fifth of the labels, from the least to the surest direction.
            "label_turned": {}
            if labels is None
            else {str(i): part["turned"] for i, part in enumerate(labels["teacher"]["directions"])},
        },
    }


def judged_steps(run: Run, space: SearchSpace) -> int:
    """The number of optimizer steps of the judged stage."""
    optim = space.optim(run.config)
    if space.trains == "teacher" and run.config.teacher.model == "crop":
        return crop_steps(run, run.records.select(run.records.boxed))
    samples = int(run.records.boxed.sum()) if space.trains == "teacher" else run.labeled
    return total_steps(optim.epochs, samples, optim.batch_size)


class Curve:
    """The scores of the judged stage by step. They are stored in ``trial.json`` and reported.

    Args:
        folder: of the trial; a stored curve is continued. space: of the search. chosen: the trial's parameters.
        steps: of the judged stage. optim: its optimizer's section. report: called with the newest row.
    """

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        chosen: dict[str, Any],
        steps: int,
        optim: OptimConfig,
        report: Report,
    ) -> None:
        self.file, self.space, self.chosen, self.steps = folder / FILE, space, chosen, steps
        self.batch, self._report = optim.batch_size, report
        before = json.loads(self.file.read_text())["curve"] if self.file.exists() else []
        self.rows: dict[int, dict[str, float]] = {row["step"]: row for row in before}
        self._write()

    def add(self, stage: str, step: int, scores: Mapping[str, Any]) -> None:
        """Add and report the scores of a checkpoint; those of other stages than the judged one are ignored.

        Raises:
            DataError: when the metric is unknown, because no object there has a value of it.
        """
        if stage != self.space.judged_stage(self.chosen):
            return
        value = scores[self.space.metric]
        if value is None:
            where = "data.select_split" if self.space.measured_on == "val" else "the point-labeled samples"
            raise DataError(f"{self.space.metric} cannot be measured on {where}: no object there has a value of it")
        share = 100 * step / self.steps
        figures = {PROGRESS: share, "samples": step * self.batch, self.space.metric: float(value)}
        self.rows[step] = {"step": step, **figures}
        self._write()
        self.report()

    def report(self) -> None:
        """Report the newest score, if there is one."""
        if self.rows:
            self._report(self.rows[max(self.rows)])

    def _write(self) -> None:
        rows = [self.rows[step] for step in sorted(self.rows)]
        write_json(self.file, {"parameters": self.chosen, "steps": self.steps, "curve": rows})
