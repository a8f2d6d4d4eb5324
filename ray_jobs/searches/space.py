"""Search spaces (``tune_spaces/*.yaml``): the questions that searches answer. Imports no Ray."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pdetr3d.config import Config, OptimConfig

SEED = "seed"  # the parameter of a trial that sets run.seed and label.seed
VARIANT = "variant"  # the parameter of a trial that names the variant it trains

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


Arm = Literal["boxes_only", "ours", "full", "self_training", "mean_teacher"]


class Variant(_Strict):
    """Settings that have a name.

    Attributes:
        trains: the student arm that this variant trains; None: what the space trains. overrides: of the preset.
    """

    trains: Arm | None = None
    overrides: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_list(cls, given: Any) -> Any:
        """A list is a variant's overrides."""
        return {"overrides": given} if isinstance(given, list | tuple) else given


class Evaluations(_Strict):
    """What each teacher of a space is measured by beside its final figures.

    Attributes:
        start: the learning curve begins at step 0, with the teacher before its training.
        floors: the boxes that need no teacher (class-mean boxes) are measured at the same clicks.
        trouble: key of ``corruption.`` -> its values; the last checkpoint predicts under each.
    """

    start: bool = False
    floors: bool = False
    trouble: dict[str, Annotated[tuple[float, ...], Field(min_length=1)]] = {}

    @model_validator(mode="after")
    def _check(self) -> Evaluations:
        wrong = [key for key in self.trouble if not key.startswith("corruption.")]
        if wrong:
            raise ValueError(f"trouble {wrong[0]}: only keys of corruption. change predictions alone")
        return self


class SearchSpace(_Strict):
    """One question: what trials train, in which variants or over which keys, and by what they are judged.

    Attributes:
        name: of the file, without its ending. question: in a sentence.
        trains: "teacher", or student arms (``pdetr3d.pipeline.arms.ARMS``); the first one is judged.
        metric: see TEACHER_METRICS and STUDENT_METRICS.
        search: "grid": every combination; "random"; "optuna": TPE, which learns from finished trials.
        trials: of a random or Optuna search. seeds: every combination of a grid is trained with each.
        asha: ends trials early that lag behind others at the same share of their training (ASHA).
        settings: overrides of the preset for every trial.
        variants: name -> settings. space: config key -> where its values come from. Trials combine both.
        reference: the variant that others are compared with.
        measured_on: where final figures come from. "val": the val split (of teachers its clicks); checkpoints are
            scored on the select split while they are trained. "point_labeled": the clicks of the point-labeled
            samples, from which no teacher learns; checkpoints are scored after the training.
        evaluations: of teachers.
        samples: how many samples a learning curve on point-labeled samples, and trouble, are measured on.
        final_samples: how many point-labeled samples final figures are measured on; 0: all.
    """

    name: str
    question: str
    trains: Literal["teacher"] | tuple[Arm, ...]
    metric: str
    search: Literal["grid", "random", "optuna"] = "grid"
    trials: Annotated[int, Field(ge=1)] | None = None
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    asha: bool = False
    settings: tuple[str, ...] = ()
    variants: dict[str, Variant] = {}
    reference: str | None = None
    space: dict[str, Domain] = {}
    measured_on: Literal["val", "point_labeled"] = "val"
    evaluations: Evaluations = Evaluations()
    samples: Annotated[int, Field(ge=1)] = 100
    final_samples: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> SearchSpace:
        known = TEACHER_METRICS if self.trains == "teacher" else STUDENT_METRICS
        if self.metric not in known:
            raise ValueError(f"metric {self.metric!r} is none of {', '.join(known)}")
        if not self.domains:
            raise ValueError("needs variants: (name -> overrides) or space: (key -> values); has neither")
        self._check_variants()
        self._check_search()
        if self.trains != "teacher" and (self.measured_on != "val" or self.evaluations != Evaluations()):
            raise ValueError("measured_on: point_labeled and evaluations: are of teachers; students are scored on val")
        if self.measured_on != "val" and (self.asha or self.search != "grid"):
            raise ValueError(
                "measured_on: point_labeled needs search: grid without asha: trials are scored at their end"
            )
        return self

    def _check_variants(self) -> None:
        if self.reference is not None and self.reference not in self.variants:
            raise ValueError(
                f"reference {self.reference!r} is no variant; there are {', '.join(self.variants) or 'none'}"
            )
        own = [name for name, variant in self.variants.items() if variant.trains is not None]
        if not own:
            return
        if len(own) < len(self.variants):
            raise ValueError(f"{', '.join(own)} says what it trains: then every variant must")
        if self.trains == "teacher" or len(self.trains) > 1:
            raise ValueError("variants that train arms of their own train one each: give trains: one arm for the space")

    def _check_search(self) -> None:
        if self.search == "grid":
            ranges = [key for key, domain in self.space.items() if domain.values is None]
            if ranges or self.trials is not None:
                raise ValueError(
                    "search grid takes every combination of listed values"
                    + (f", but {', '.join(ranges)} is a range" if ranges else "; leave trials out")
                )
            return
        if self.trials is None:
            raise ValueError(f"search {self.search} needs trials: how many")
        if len(self.seeds) > 1:
            raise ValueError(f"search {self.search} takes one seed for all trials; several need search: grid")
        lists = [key for key, domain in self.space.items() if any(isinstance(v, list) for v in domain.values or ())]
        if lists and self.search == "optuna":
            raise ValueError(f"search optuna takes numbers, words and booleans, but {', '.join(lists)} has lists")

    @property
    def domains(self) -> dict[str, Domain]:
        """Where the parameters of trials come from: the variant's name, if there are variants, and config keys."""
        named = {VARIANT: Domain(values=tuple(self.variants))} if self.variants else {}
        return named | self.space

    @property
    def own_arms(self) -> bool:
        """Whether every variant trains a student arm of its own."""
        return any(variant.trains is not None for variant in self.variants.values())

    @property
    def judged(self) -> str:
        """The stage whose figures are compared: the folder in a run directory, or "student" where variants train arms
        of their own."""
        return "student" if self.own_arms else self.judged_stage({})

    def judged_stage(self, chosen: dict[str, Any]) -> str:
        """The folder, in a trial's run directory, of the stage whose checkpoints are scored."""
        return "teacher" if self.trains == "teacher" else f"student_{self.arms_of(chosen)[0]}"

    def arms_of(self, chosen: dict[str, Any]) -> tuple[str, ...]:
        """The students that the trial of these parameters trains."""
        variant = self.variants.get(chosen.get(VARIANT, ""))
        if variant is not None and variant.trains is not None:
            return (variant.trains,)
        return () if self.trains == "teacher" else self.trains

    @property
    def arms(self) -> tuple[str, ...]:
        """All students that trials train."""
        return tuple(dict.fromkeys(arm for name in [*self.variants] or [""] for arm in self.arms_of({VARIANT: name})))

    @property
    def mode(self) -> Literal["min", "max"]:
        """What the metric should become."""
        return "min" if (TEACHER_METRICS | STUDENT_METRICS)[self.metric] else "max"

    def optim(self, config: Config) -> OptimConfig:
        """The schedule of the stage that is judged."""
        if self.trains != "teacher":
            return config.optim
        return config.teacher.crop_optim if config.teacher.model == "crop" else config.teacher.optim

    def scored_on(self, config: Config) -> str:
        """Where checkpoints are scored: "select", "point_labeled", or "" where only final figures are known."""
        if self.measured_on != "val":
            return self.measured_on
        return "select" if config.data.select_split else ""

    def combinations(self) -> Iterator[dict[str, Any]]:
        """The parameters of a grid's trials, seeds innermost, in the order they are trained."""
        lists = [[(key, value) for value in domain.values or ()] for key, domain in self.domains.items()]
        for chosen in itertools.product(*lists, [(SEED, seed) for seed in self.seeds]):
            yield dict(chosen)

    @property
    def size(self) -> int:
        """How many trials."""
        lists = [len(domain.values or ()) for domain in self.domains.values()]
        return self.trials or math.prod(lists) * len(self.seeds)
