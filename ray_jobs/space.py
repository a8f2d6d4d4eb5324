"""Search spaces (``tune_spaces/*.yaml``): read, and checked against the preset they are applied to. Imports no Ray."""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import tune_spaces
from pdetr3d.config import Config, OptimConfig, override, unknown_key
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from pdetr3d.training.label_source import fixed_by_manifest
from ray_jobs.studies import seeded

FOLDER = Path(tune_spaces.__file__).parent
SEED = "seed"  # the parameter of a trial that sets run.seed and label.seed

# What a trial may be judged by, and whether less of it is better. Teachers: boxes at the clicks of the select split;
# students: devkit scores on it.
TEACHER_METRICS = {"bev_iou": False, "iou_3d": False, "center_error_m": True, "size_error": True, "yaw_error_rad": True}
STUDENT_METRICS = {"mAP": False, "NDS": False, "SPNDS": False, "mATE": True, "mASE": True, "mAOE": True}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Domain(_Strict):
    """Where a key's values come from: exactly one of these.

    Attributes:
        values: a list; a grid takes all of them, a random search one of them. uniform, loguniform: [low, high).
        integers: [low, high], both included.
    """

    values: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _check(self) -> Domain:
        given = self.model_dump(exclude_none=True)
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(Domain.model_fields)}; has {', '.join(given) or 'none'}")
        ((kind, bounds),) = given.items()
        if kind != "values" and not bounds[0] < bounds[1]:
            raise ValueError(f"{kind} {list(bounds)}: the first must be below the second")
        if kind == "loguniform" and bounds[0] <= 0:
            raise ValueError(f"loguniform {list(bounds)}: both must be above 0")
        return self

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Values that are allowed if all of the domain is."""
        return self.values or self.uniform or self.loguniform or self.integers or ()


class SearchSpace(_Strict):
    """One question: what trials train, which keys they vary, and by what they are judged.

    Attributes:
        name: of the file, without its ending. question: in a sentence.
        trains: "teacher", or student arms (``ray_jobs.stages.ARMS``); the first one is judged.
        metric: see TEACHER_METRICS and STUDENT_METRICS.
        search: "grid": every combination; "random"; "optuna": TPE, which learns from finished trials.
        trials: of a random or Optuna search. seeds: every combination of a grid is trained with each.
        asha: ends trials early that lag behind others at the same share of their training (ASHA).
        settings: overrides of the preset for every trial. space: config key -> where its values come from.
    """

    name: str
    question: str
    trains: Literal["teacher"] | tuple[Literal["boxes_only", "ours", "full", "self_training", "mean_teacher"], ...]
    metric: str
    search: Literal["grid", "random", "optuna"] = "grid"
    trials: Annotated[int, Field(ge=1)] | None = None
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    asha: bool = False
    settings: tuple[str, ...] = ()
    space: Annotated[dict[str, Domain], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> SearchSpace:
        known = TEACHER_METRICS if self.trains == "teacher" else STUDENT_METRICS
        if self.metric not in known:
            raise ValueError(f"metric {self.metric!r} is none of {', '.join(known)}")
        if self.search == "grid":
            ranges = [key for key, domain in self.space.items() if domain.values is None]
            if ranges or self.trials is not None:
                raise ValueError(
                    "search grid takes every combination of listed values"
                    + (f", but {', '.join(ranges)} is a range" if ranges else "; leave trials out")
                )
            return self
        if self.trials is None:
            raise ValueError(f"search {self.search} needs trials: how many")
        if len(self.seeds) > 1:
            raise ValueError(f"search {self.search} takes one seed for all trials; several need search: grid")
        lists = [key for key, domain in self.space.items() if any(isinstance(v, list) for v in domain.values or ())]
        if lists and self.search == "optuna":
            raise ValueError(f"search optuna takes numbers, words and booleans, but {', '.join(lists)} has lists")
        return self

    @property
    def judged(self) -> str:
        """The stage (folder in a run directory) whose checkpoints are scored."""
        return "teacher" if self.trains == "teacher" else f"student_{self.trains[0]}"

    @property
    def arms(self) -> tuple[str, ...]:
        """The students that a trial trains."""
        return () if self.trains == "teacher" else self.trains

    @property
    def mode(self) -> Literal["min", "max"]:
        """What the metric should become."""
        return "min" if (TEACHER_METRICS | STUDENT_METRICS)[self.metric] else "max"

    def optim(self, config: Config) -> OptimConfig:
        """The schedule of the stage that is judged."""
        return config.teacher.optim if self.trains == "teacher" else config.optim

    def combinations(self) -> Iterator[dict[str, Any]]:
        """The parameters of a grid's trials, seeds innermost, in the order they are trained."""
        lists = [[(key, value) for value in domain.values or ()] for key, domain in self.space.items()]
        for chosen in itertools.product(*lists, [(SEED, seed) for seed in self.seeds]):
            yield dict(chosen)

    @property
    def size(self) -> int:
        """How many trials."""
        lists = [len(domain.values or ()) for domain in self.space.values()]
        return self.trials or math.prod(lists) * len(self.seeds)


def names() -> list[str]:
    """The spaces in ``tune_spaces/``."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_space(name: str) -> SearchSpace:
    """The space ``tune_spaces/NAME.yaml``, or that of a path to a ``.yaml`` file.

    Raises:
        DataError: when there is none, or it cannot be understood (names file and key).
    """
    file = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not file.is_file():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise DataError(f"no search space {name!r}: {hint}there are {', '.join(names())}, or name a .yaml file")
    try:
        document = yaml.safe_load(file.read_text())
        if not isinstance(document, dict):
            raise DataError(f"{file}: a search space is a mapping (question, trains, metric, space); see its README")
        return SearchSpace(**document, name=file.stem)
    except yaml.YAMLError as error:
        raise DataError(f"{file} is not YAML: {error}") from error
    except ValidationError as error:
        lines = [f"{file}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise DataError("\n".join(lines)) from error


def check_space(space: SearchSpace, preset: str, overrides: list[str]) -> Config:
    """The config that all trials start from; every value that a trial may take is tried on it.

    Raises:
        DataError: for a key that the preset does not have (names the closest), a value that it does not allow, or a
            preset whose checkpoints cannot be scored while they are trained.
    """
    base = trial_config(space, preset, overrides, {})
    known = base.flat()
    fixed = {word.partition("=")[0] for word in overrides} & space.space.keys()
    if fixed:
        raise DataError(f"{', '.join(sorted(fixed))}: the space {space.name} varies this key; it cannot be set, too")
    seeded_keys = {word.partition("=")[0] for word in (*overrides, *space.settings)} & {"run.seed", "label.seed"}
    if seeded_keys:
        raise DataError(f"{', '.join(sorted(seeded_keys))}: trials are seeded by --seeds, or by seeds: in the space")
    if space.asha and space.optim(base).checkpoints == 1:
        raise DataError(
            f"search space {space.name}: asha compares trials at kept checkpoints before the last one, but "
            f"{'teacher.' if space.trains == 'teacher' else ''}optim.checkpoints is 1: set it to 2 or more"
        )
    fixed_by_manifest(base, [*space.space, *(word.partition("=")[0] for word in space.settings)])
    for key, domain in space.space.items():
        if key not in known:
            raise DataError(f"search space {space.name}: {unknown_key(key, list(known))}")
        if key.startswith(("sim.", "scaling.", "storage.", "data.dataroot", "run.", "label.seed")):
            how = "give seeds: instead" if key.endswith(".seed") else "set it for all of them"
            raise DataError(f"search space {space.name}: {key} is the sweep's, not a trial's: {how}")
        for value in domain.extremes:
            trial_config(space, preset, overrides, {key: value})
    for chosen in space.combinations() if space.search == "grid" else ():
        trial_config(space, preset, overrides, chosen)
    if not base.data.select_split:
        raise DataError(
            f"preset {preset} has no data.select_split, on which trials are compared: set it to a split that is "
            "neither trained on nor reported, e.g. data.select_split=mini_val"
        )
    return base


def trial_config(space: SearchSpace, preset: str, overrides: list[str], chosen: dict[str, Any]) -> Config:
    """The preset under the space's settings, the user's overrides and a trial's parameters (key -> value, and SEED)."""
    words = [f"{key}={json.dumps(value)}" for key, value in chosen.items() if key != SEED]
    seeds = seeded("trial", chosen[SEED])[:2] if SEED in chosen else ()
    arms = [f"run.arms={json.dumps(space.arms)}"] if space.arms else []
    return override(load(preset, [*space.settings, *overrides]), [*words, *arms, *seeds])
