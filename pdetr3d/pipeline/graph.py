"""The stages of a run: what each one needs, and its digest, which is equal for runs that may share its result.

The index of the dataset and people's labels are made with the run directory, outside of the graph.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pdetr3d.config import Config
from pdetr3d.config_sections import BOXES_ONLY, EVERY, INDEX, PSEUDO_LABELS, TEACHER
from pdetr3d.config_seen import seen_by
from pdetr3d.data.storage.files import text_digest
from pdetr3d.pipeline.labels import make_pseudo_labels, make_self_labels, measure_holdout
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.training import CROPS, last_crops
from pdetr3d.pipeline.trainings import (
    SUFFIX,
    train_crops,
    train_crops_again,
    train_first_student,
    train_student,
    train_teacher,
)
from pdetr3d.training.label_source import labels_digest
from pdetr3d.training.run_dir import tables_digest
from pdetr3d.training.stage_versions import STAGE_VERSIONS

Make = Callable[[Run], dict[str, Any]]
DATA = ("index", "labels")
TEACH, STUDY = ("label", "load", "teacher"), ("label", "load", "student")


@dataclass(frozen=True)
class Stage:
    """A stage as declared.

    Attributes:
        kind: names the config fields that it ignores (``pdetr3d.config_sections.IgnoredBy``).
        versions: entries of STAGE_VERSIONS; a stage with another version gives other numbers or files.
        needs: config -> the stages whose results it reads, and the inputs from outside of the graph.
        make: runs the stage in a run in which its needs are finished, and returns the result to store.
    """

    kind: str
    versions: tuple[str, ...]
    needs: Callable[[Config], tuple[str, ...]]
    make: Make


def _on(*needs: str) -> Callable[[Config], tuple[str, ...]]:
    return lambda config: (*DATA, *needs)


def _teacher(student: str, suffix: str = "") -> Callable[[Config], tuple[str, ...]]:
    """The needs of a teacher: the student and the crop branch that it starts from."""

    def needs(config: Config) -> tuple[str, ...]:
        teacher = config.teacher
        first = (student,) if teacher.lidar_init == "boxes_only" else ()
        if teacher.model == "crop":  # the teacher is the crop branch after its last training
            return (*DATA, f"{CROPS}{suffix}") if teacher.crop_self_labels else DATA
        return (*DATA, *first, f"{last_crops(teacher)}{suffix}") if teacher.has_crops else (*DATA, *first)

    return needs


GRAPH: dict[str, Stage] = {
    "student_holdout": Stage(EVERY, STUDY, _on(), train_first_student),
    "crops_holdout": Stage(EVERY, TEACH, _on(), partial(train_crops, suffix=SUFFIX)),
    "crops_again_holdout": Stage(EVERY, TEACH, _on("crops_holdout"), partial(train_crops_again, suffix=SUFFIX)),
    "teacher_holdout": Stage(EVERY, TEACH, _teacher("student_holdout", SUFFIX), partial(train_teacher, suffix=SUFFIX)),
    "holdout": Stage(EVERY, TEACH, _on("teacher_holdout"), measure_holdout),
    BOXES_ONLY: Stage(BOXES_ONLY, STUDY, _on(), partial(train_student, arm="boxes_only")),
    "crops": Stage(TEACHER, TEACH, _on(), train_crops),
    "crops_again": Stage(PSEUDO_LABELS, TEACH, _on("crops"), train_crops_again),  # it sees the clicks
    "teacher": Stage(TEACHER, TEACH, _teacher(BOXES_ONLY), train_teacher),
    PSEUDO_LABELS: Stage(PSEUDO_LABELS, (*TEACH, "pseudo_labels"), _on("teacher"), make_pseudo_labels),
    "self_training": Stage(EVERY, STUDY, _on(BOXES_ONLY), make_self_labels),
    "student_full": Stage(EVERY, STUDY, _on(), partial(train_student, arm="full")),
    "student_mean_teacher": Stage(EVERY, STUDY, _on(), partial(train_student, arm="mean_teacher")),
    "student_self_training": Stage(EVERY, STUDY, _on("self_training"), partial(train_student, arm="self_training")),
    "student_ours": Stage(EVERY, STUDY, _on(PSEUDO_LABELS), partial(train_student, arm="ours")),
}


def outside(config: Config) -> dict[str, str]:
    """Digests of the inputs that no stage makes: the index of the dataset, and the manifest of people's labels (""
    where the config determines them)."""
    tables = {"tables": tables_digest(config)}
    return {"index": _digest("index", INDEX, ("simulate", "index"), config, tables), "labels": labels_digest(config)}


def stage_digest(name: str, config: Config, needs: Mapping[str, str]) -> str:
    """16 hex digits of a stage's result: of its name, its format versions, the config fields that it sees, and the
    digests of what it needs (``needs``: name -> digest)."""
    return _digest(name, GRAPH[name].kind, GRAPH[name].versions, config, needs)


def _digest(name: str, kind: str, versions: tuple[str, ...], config: Config, needs: Mapping[str, str]) -> str:
    formats = {version: STAGE_VERSIONS[version] for version in versions}
    identity: list[Any] = [name, formats, seen_by(config, kind), dict(needs)]
    return text_digest(json.dumps(identity, sort_keys=True))


def digest_of(name: str, config: Config, given: Mapping[str, str]) -> str:
    """``stage_digest`` of a stage in the graph. ``given``: of ``outside``."""
    needs = GRAPH[name].needs(config)
    return stage_digest(name, config, {n: given[n] if n in given else digest_of(n, config, given) for n in needs})


def ancestors(name: str, config: Config) -> tuple[str, ...]:
    """The stage and all stages that it depends on, each after its own needs."""
    found: dict[str, None] = {}
    for need in GRAPH[name].needs(config):
        if need in GRAPH:
            found |= dict.fromkeys(ancestors(need, config))
    return (*found, name)


def keys_of(name: str, config: Config) -> dict[str, Any]:
    """Dotted key -> value of all config fields that a stage, or a stage that it depends on, sees."""
    return {key: value for one in ancestors(name, config) for key, value in seen_by(config, GRAPH[one].kind).items()}
