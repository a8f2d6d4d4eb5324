"""Measures a trial's teacher: final figures, learning curve, floors, figures on corrupted input, costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pdetr3d.config import Config, override
from pdetr3d.config_sections import BOXES_ONLY
from pdetr3d.pipeline.execute import execute, teacher_goals
from pdetr3d.pipeline.lineage import step_of
from pdetr3d.pipeline.quality import KnownClicks, floors
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.scoring import clicked_records, teacher_scores
from pdetr3d.pipeline.store import Store
from pdetr3d.pipeline.training import Training, started
from pdetr3d.schema import DataError, SampleRecord
from pdetr3d.tracking.runs import Tracker
from pdetr3d.tracking.scores import score_metrics
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build
from ray_jobs.searches.space import SearchSpace
from ray_jobs.stages.tracked import Observe, Tracked

FOLDER = "untrained"  # folder, in a trial's run directory, of the checkpoint of step 0


def measured_teacher(run: Run, space: SearchSpace, observe: Observe, store: Store) -> dict[str, Any]:
    """Train the teacher and measure it as the space describes.

    Args:
        run: of the trial. space: of the search. store: of the stages that trials share.
        observe: called with the scores of each checkpoint, in the order of steps; also of step 0 if the space has
            ``evaluations.start``.

    Returns:
        ``final``: name -> ``pseudo_label_quality`` of "teacher", and of each floor if the space has
        ``evaluations.floors``. ``corruption``: see ``on_corrupted_input``. ``costs``: see ``costs``. ``measured_on``,
        ``final_samples``: as in the space.

    Raises:
        DataError: as the stages and ``clicked``.
    """
    config, asked = run.config, space.evaluations
    on_val = space.measured_on == "val"
    if on_val and asked.start and config.data.select_split:
        observe("teacher", 0, teacher_scores(run, untrained(run), config.data.select_split))
    execute(teacher_goals(config), run, store=store, shared=(BOXES_ONLY,))
    files = run.checkpoints("teacher")
    if on_val:
        records: Sequence[SampleRecord] = clicked_records(run, config.data.val_split)
        known = KnownClicks(records, classes=config.classes)
        few = KnownClicks(records[: space.samples], classes=config.classes)
        final = teacher_scores(run, files[-1], config.data.val_split)
    else:
        records = clicked(run)[: space.final_samples or None]
        known = run.known_clicks(records)
        few = run.known_clicks(with_boxes(run, clicked(run)[: space.samples]))
        learning_curve(run, files, space, observe)
        final = known.quality(run.runner.predict("teacher", config, run.prior, files[-1:], records)[0])
        with tracker_of(run) as tracker:
            tracker.log_metrics(score_metrics(space.measured_on, final))
    return {
        "final": {"teacher": final, **(floors(known, config, run.prior, run.runner) if asked.floors else {})},
        "corruption": on_corrupted_input(run, asked.corruption, files[-1], few),
        "costs": costs(run),
        "measured_on": space.measured_on,
        "final_samples": space.final_samples,
    }


def clicked(run: Run) -> list[SampleRecord]:
    """The point-labeled samples that have clicks.

    Raises:
        DataError: when there are none.
    """
    records = [r for r in run.records if r.role == "point" and len(r.clicks)]
    if not records:
        raise DataError(f"{run.path}: no point-labeled sample has clicks; label.ratio must leave some")
    return records


def with_boxes(run: Run, records: Sequence[SampleRecord]) -> list[SampleRecord]:
    """The same samples with all boxes of the tables. ``corruption.click_noise_factor`` draws clicks from these."""
    boxed = {record.sample_token: record for record in run.known_records}
    return [boxed[record.sample_token] for record in records]


def check_known(run: Run) -> None:
    """Check that teachers can be measured at the clicks of point-labeled samples.

    Raises:
        DataError: when no click of a point-labeled sample has a known true box.
    """
    if not run.known_clicks(clicked(run)):
        raise DataError(
            f"{run.path}: the true box of no click is in the tables, so teachers cannot be compared; "
            "set label.source=simulate to compare teachers on the box-labeled scenes alone"
        )


def learning_curve(run: Run, files: Sequence[Path], space: SearchSpace, observe: Observe) -> None:
    """Score a trained teacher's checkpoints on the first ``space.samples`` point-labeled samples, which are read once.

    Args:
        files: the checkpoints, by ascending steps. observe: as in ``measured_teacher``.
    """
    records = clicked(run)[: space.samples]
    known, scored = run.known_clicks(records), [*([untrained(run)] if space.evaluations.start else []), *files]
    found = run.runner.predict("teacher", run.config, run.prior, scored, records)
    for file, boxes in zip(scored, found, strict=True):
        observe("teacher", step_of(file), known.quality(boxes))


def untrained(run: Run) -> Path:
    """The checkpoint of step 0: the teacher before its training. It is written once, in the run directory.

    Its LiDAR encoder has random weights, also if training starts with those of a student (``teacher.lidar_init``).
    """
    target = run.path / FOLDER / "step_0000000.pt"
    if not target.exists():
        first = Training(FOLDER, "teacher", run.config, [], run.prior, 0, guidance=False)
        model = started(first.kind, run.config, run.prior, first.choices, first.weights()).model
        checkpoint.save(target.parent, model, None, 0, run.config.to_json()).rename(target)
    return target


def on_corrupted_input(
    run: Run, corruption: dict[str, tuple[float, ...]], file: Path, known: KnownClicks
) -> dict[str, dict[str, Any]]:
    """Measure a checkpoint on corrupted input.

    Args:
        corruption: config key -> values. file: the checkpoint. known: clicks of samples with all their boxes.

    Returns:
        Config key -> value as text -> quality.
    """
    done: dict[Config, dict[str, Any]] = {}

    def quality(config: Config) -> dict[str, Any]:
        if config not in done:  # several keys have a value that changes nothing, and then give the same config
            done[config] = known.quality(run.runner.predict("teacher", config, run.prior, [file], known.records)[0])
        return done[config]

    return {
        key: {f"{value:g}": quality(override(run.config, [f"{key}={value:g}"])) for value in values}
        for key, values in corruption.items()
    }


def costs(run: Run) -> dict[str, Any]:
    """The costs of the teacher's training.

    Returns:
        ``parameters``: number of trainable parameters. ``step_s``: median time of a step [s]. ``peak_memory_bytes``: of
        the worker of rank 0. The last two are None if MLflow has no such curve.
    """
    model = build("teacher", run.config, run.prior).model
    with tracker_of(run) as tracker:
        step_s, memory = tracker.history("step_s"), tracker.history("peak_memory_bytes")
    return {
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "step_s": float(np.median(step_s)) if step_s else None,
        "peak_memory_bytes": max(memory) if memory else None,
    }


def tracker_of(run: Run) -> Tracker:
    """The MLflow run of the teacher."""
    assert isinstance(run.observer, Tracked)
    return run.observer.tracker(run, "teacher", {})
