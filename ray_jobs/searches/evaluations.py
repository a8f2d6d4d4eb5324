"""What a trial's teacher is measured by: final figures, its curve from step 0, floors, under trouble, costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pdetr3d.config import Config, override
from pdetr3d.schema import DataError, SampleRecord
from pdetr3d.tracking.scores import score_metrics
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build, image_weights, initialize_images
from pdetr3d.training.start_weights import initialize_start, start_weights
from ray_jobs.plug.inference import predict
from ray_jobs.searches.space import SearchSpace
from ray_jobs.stages.quality import KnownClicks, floors
from ray_jobs.stages.scoring import clicked_records, teacher_scores
from ray_jobs.stages.stages import Stages
from ray_jobs.stages.tracked import step_of

FOLDER = "untrained"  # of the teacher before its training, in a trial's run directory

# Stage, step and scores of a checkpoint, as ``Stages.observe`` is told.
Observe = Callable[[str, int, dict[str, Any]], None]


def measured_teacher(stages: Stages, space: SearchSpace, observe: Observe) -> dict[str, Any]:
    """Train the teacher and measure it as the space says.

    Args:
        observe: told of each scored checkpoint, in the order of steps; of step 0 where the space asks for it.

    Returns:
        ``final``: name -> ``pseudo_label_quality``: of "teacher", and of each floor where the space asks for floors.
        ``trouble``: config key -> its value (as text) -> quality. ``costs``: see ``costs``. ``measured_on``,
        ``final_samples``: of the space.
    """
    config, asked = stages.config, space.evaluations
    on_val = space.measured_on == "val"
    if on_val and asked.start and config.data.select_split:
        observe("teacher", 0, teacher_scores(stages, untrained(stages), config.data.select_split))
    stages.teacher()
    files = stages.checkpoints("teacher")
    if on_val:
        records: Sequence[SampleRecord] = clicked_records(stages, config.data.val_split)
        known = KnownClicks(records, classes=config.classes)
        few = KnownClicks(records[: space.samples], classes=config.classes)
        final = teacher_scores(stages, files[-1], config.data.val_split)
    else:
        records = clicked(stages)[: space.final_samples or None]
        known = stages.known_clicks(records)
        few = stages.known_clicks(with_boxes(stages, clicked(stages)[: space.samples]))
        learning_curve(stages, files, space, observe)
        final = known.quality(predict("teacher", config, stages.prior, files[-1:], records)[0])
        with stages.tracker("teacher", {}) as tracker:
            tracker.log_metrics(score_metrics(space.measured_on, final))
    return {
        "final": {"teacher": final, **(floors(known, config, stages.prior) if asked.floors else {})},
        "trouble": under_trouble(stages, asked.trouble, files[-1], few),
        "costs": costs(stages),
        "measured_on": space.measured_on,
        "final_samples": space.final_samples,
    }


def clicked(stages: Stages) -> list[SampleRecord]:
    """The point-labeled samples with clicks.

    Raises:
        DataError: when there is none.
    """
    records = [r for r in stages.records if r.role == "point" and len(r.clicks)]
    if not records:
        raise DataError(f"{stages.run.path}: no point-labeled sample has clicks; label.ratio must leave some")
    return records


def with_boxes(stages: Stages, records: Sequence[SampleRecord]) -> list[SampleRecord]:
    """The same samples with all boxes of the tables: trouble moves clicks from the true boxes."""
    boxed = {record.sample_token: record for record in stages.known_records}
    return [boxed[record.sample_token] for record in records]


def check_known(stages: Stages) -> None:
    """Refuse a dataset on which no teacher can be measured at the clicks of point-labeled samples.

    Raises:
        DataError: when no click of a point-labeled sample has a known box.
    """
    if not stages.known_clicks(clicked(stages)):
        raise DataError(
            f"{stages.run.path}: the true box of no click is in the tables, so teachers cannot be compared; "
            "set label.source=simulate to compare teachers on the box-labeled scenes alone"
        )


def learning_curve(stages: Stages, files: Sequence[Path], space: SearchSpace, observe: Observe) -> None:
    """Score a trained teacher's checkpoints on the first point-labeled samples, all of them in one reading."""
    records = clicked(stages)[: space.samples]
    known, scored = stages.known_clicks(records), [*([untrained(stages)] if space.evaluations.start else []), *files]
    found = predict("teacher", stages.config, stages.prior, scored, records)
    for file, boxes in zip(scored, found, strict=True):
        observe("teacher", step_of(file), known.quality(boxes))


def untrained(stages: Stages) -> Path:
    """A checkpoint, of step 0, of the teacher that training begins with; made once, in the run directory.

    A LiDAR encoder that starts from a student (``teacher.lidar_init``) is as its draw is.
    """
    target = stages.run.path / FOLDER / "step_0000000.pt"
    if not target.exists():
        model, images = build("teacher", stages.config, stages.prior).model, image_weights(stages.config)
        if images is not None:
            initialize_images(model, images)
        start = start_weights(stages.config)
        if start is not None:
            initialize_start(model, start, "teacher", stages.config)
        checkpoint.save(target.parent, model, None, 0, stages.config.to_json()).rename(target)
    return target


def under_trouble(
    stages: Stages, trouble: dict[str, tuple[float, ...]], file: Path, known: KnownClicks
) -> dict[str, dict[str, Any]]:
    """Config key -> its value (as text) -> quality of a checkpoint. ``known``: of samples with all their boxes."""
    done: dict[Config, dict[str, Any]] = {}

    def quality(config: Config) -> dict[str, Any]:
        if config not in done:  # no trouble is no trouble, whichever key says so
            done[config] = known.quality(predict("teacher", config, stages.prior, [file], known.records)[0])
        return done[config]

    return {
        key: {f"{value:g}": quality(override(stages.config, [f"{key}={value:g}"])) for value in values}
        for key, values in trouble.items()
    }


def costs(stages: Stages) -> dict[str, Any]:
    """``parameters``: trainable numbers of the teacher; ``step_s``: median time of its steps [s], and
    ``peak_memory_bytes`` of its worker, None where MLflow has no such curve."""
    model = build("teacher", stages.config, stages.prior).model
    with stages.tracker("teacher", {}) as tracker:
        step_s, memory = tracker.history("step_s"), tracker.history("peak_memory_bytes")
    return {
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "step_s": float(np.median(step_s)) if step_s else None,
        "peak_memory_bytes": max(memory) if memory else None,
    }
