"""The stages of a run: what each one needs, and its digest, which is equal for runs that may share its result.

Dataset and labels lie outside of the graph: a stage that needs "tables" or "labels" is told their digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pdetr3d.config import Config
from pdetr3d.config_keys import seen_by
from pdetr3d.config_sections import BOXES_ONLY, EVERY, INDEX, PSEUDO_LABELS, TEACHER
from pdetr3d.training.label_source import labels_digest
from pdetr3d.training.run_dir import tables_digest
from pdetr3d.training.stage_versions import STAGE_VERSIONS

Needs = Callable[[Config], tuple[str, ...]]
DATA = ("index", "labels")


@dataclass(frozen=True)
class Stage:
    """A stage as declared.

    Attributes:
        kind: names the config fields that it ignores (``pdetr3d.config_sections.IgnoredBy``).
        versions: entries of STAGE_VERSIONS; with another version it gives other numbers or files.
        needs: config -> the stages whose results it reads, and what it reads from outside of the graph.
    """

    kind: str
    versions: tuple[str, ...]
    needs: Needs


def _data(config: Config) -> tuple[str, ...]:
    return DATA


def _start(config: Config) -> tuple[str, ...]:
    return (*DATA, BOXES_ONLY) if config.teacher.lidar_init == "boxes_only" else DATA


def _teacher(config: Config) -> tuple[str, ...]:
    crops = config.teacher.has_crops and config.teacher.model != "crop"
    return (*_start(config), "crops") if crops else _start(config)


_TRAINED = ("label", "load", "student")
GRAPH: dict[str, Stage] = {
    "index": Stage(INDEX, ("simulate", "index"), lambda _: ("tables",)),
    BOXES_ONLY: Stage(BOXES_ONLY, _TRAINED, _data),
    "crops": Stage(TEACHER, ("label", "load", "teacher"), _data),
    "teacher": Stage(TEACHER, ("label", "load", "teacher"), _teacher),
    "pseudo_labels": Stage(PSEUDO_LABELS, ("label", "load", "teacher", "pseudo_labels"), lambda _: (*DATA, "teacher")),
    "self_training": Stage(EVERY, _TRAINED, lambda _: (*DATA, BOXES_ONLY)),
    "student_full": Stage(EVERY, _TRAINED, _data),
    "student_mean_teacher": Stage(EVERY, _TRAINED, _data),
    "student_self_training": Stage(EVERY, _TRAINED, lambda _: (*DATA, "self_training")),
    "student_ours": Stage(EVERY, _TRAINED, lambda _: (*DATA, "pseudo_labels")),
}


def outside(config: Config) -> dict[str, str]:
    """Digests of what stages read and no stage makes: the dataset's tables, the manifest of people's labels ("" where
    the config determines them)."""
    return {"tables": tables_digest(config), "labels": labels_digest(config)}


def stage_digest(name: str, config: Config, needs: Mapping[str, str]) -> str:
    """16 hex digits of a stage's result: of its name, its format versions, the config fields that it sees, and the
    digests of what it needs (``needs``: name -> digest)."""
    stage = GRAPH[name]
    versions = {version: STAGE_VERSIONS[version] for version in stage.versions}
    identity: list[Any] = [name, versions, seen_by(config, stage.kind), dict(needs)]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def digest_of(name: str, config: Config, given: Mapping[str, str]) -> str:
    """``stage_digest`` of a stage in the graph. ``given``: of ``outside``."""
    needs = GRAPH[name].needs(config)
    return stage_digest(name, config, {n: given[n] if n in given else digest_of(n, config, given) for n in needs})


def ancestors(name: str, config: Config) -> tuple[str, ...]:
    """The stage and all that it descends from, each after what it needs."""
    found: dict[str, None] = {}
    for need in GRAPH[name].needs(config):
        if need in GRAPH:
            found |= dict.fromkeys(ancestors(need, config))
    return (*found, name)


def keys_of(name: str, config: Config) -> dict[str, Any]:
    """Dotted key -> value of all config fields that a stage or what it descends from sees."""
    return {key: value for one in ancestors(name, config) for key, value in seen_by(config, GRAPH[one].kind).items()}
