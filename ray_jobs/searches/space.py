"""``SearchSpace``: the model of the files ``tune_spaces/*.yaml``. Imports no Ray."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pdetr3d.config import Config, OptimConfig
from pdetr3d.config_sections import Arm
from pdetr3d.run_files import SEED, VARIANT

# Metric by which trials may be judged -> whether less is better. Those of teachers are of boxes at the clicks of the
# select split, those of students are devkit scores on it.
TEACHER_METRICS = {"bev_iou": False, "iou_3d": False, "center_error_m": True, "size_error": True, "yaw_error_rad": True}
STUDENT_METRICS = {"mAP": False, "NDS": False, "SPNDS": False, "mATE": True, "mASE": True, "mAOE": True}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Domain(_Strict):
    """The values of a config key in a space. Exactly one attribute is set.

    Attributes:
        values: a list; a grid takes all of them, a random search draws one of them. uniform, loguniform: (low, high),
            where high itself is never drawn. integers: (low, high), both included.
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
        """Values to check: the config allows all values of the domain if it allows these."""
        return self.values or self.uniform or self.loguniform or self.integers or ()


class Variant(_Strict):
    """Named settings that a space compares.

    Attributes:
        trains: the student arm that this variant trains; None: as the space. overrides: ``key=value`` words.
    """

    trains: Arm | None = None
    overrides: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_list(cls, given: Any) -> Any:
        """Accept a list, which is short for the overrides."""
        return {"overrides": given} if isinstance(given, list | tuple) else given


class Evaluations(_Strict):
    """Further measurements of each teacher of a space, beside its final figures.

    Attributes:
        start: the learning curve begins at step 0, with the teacher before its training.
        floors: boxes that need no teacher (class-mean boxes) are measured at the same clicks.
        corruption: key of ``corruption.`` -> values; the last checkpoint is measured on input with each corruption.
    """

    start: bool = False
    floors: bool = False
    corruption: dict[str, Annotated[tuple[float, ...], Field(min_length=1)]] = {}

    @model_validator(mode="after")
    def _check(self) -> Evaluations:
        wrong = [key for key in self.corruption if not key.startswith("corruption.")]
        if wrong:
            raise ValueError(f"corruption {wrong[0]}: allowed are only keys that begin with corruption.")
        return self


class SearchSpace(_Strict):
    """A search space: the models that its trials train, the settings that vary, and the metric that judges trials.

    Attributes:
        name: of the file, without its ending. question: the question that the search answers.
        trains: "teacher", or student arms (``pdetr3d.pipeline.arms.ARMS``); the first arm is judged.
        metric: a key of TEACHER_METRICS or STUDENT_METRICS.
        search: "grid": all combinations; "random": drawn values; "optuna": TPE, which learns from finished trials.
        trials: number of trials of a random or Optuna search. seeds: a grid trains each combination with each seed.
        asha: trials that are worse than others at the same share of their training end early.
        settings: ``key=value`` words for every trial.
        variants: name -> variant. space: config key -> domain. Trials combine both.
        reference: name of the variant with which the report compares others.
        measured_on: the samples of final figures. "val": the val split (of teachers its clicks); checkpoints are
            scored on the select split during training. "point_labeled": the clicks of the point-labeled samples, from
            which no teacher learns; checkpoints are scored after the training.
        evaluations: further measurements of teachers.
        samples: number of samples for learning curves on point-labeled samples, and for ``evaluations.corruption``.
        final_samples: number of point-labeled samples for final figures; 0: all.
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
            raise ValueError(
                "measured_on: point_labeled and evaluations: need trains: teacher; students are scored on the val split"
            )
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
            raise ValueError(f"variant {', '.join(own)} has trains:, so every other variant must have it, too")
        if self.trains == "teacher" or len(self.trains) > 1:
            raise ValueError("variants with trains: need a space whose trains: has one student arm")

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
            raise ValueError(f"search {self.search} needs trials: (the number of trials)")
        if len(self.seeds) > 1:
            raise ValueError(f"search {self.search} takes one seed for all trials; several need search: grid")
        lists = [key for key, domain in self.space.items() if any(isinstance(v, list) for v in domain.values or ())]
        if lists and self.search == "optuna":
            raise ValueError(f"search optuna takes numbers, words and booleans, but {', '.join(lists)} has lists")

    @property
    def domains(self) -> dict[str, Domain]:
        """Parameter of trials -> domain: config keys, and VARIANT if the space has variants."""
        named = {VARIANT: Domain(values=tuple(self.variants))} if self.variants else {}
        return named | self.space

    @property
    def own_arms(self) -> bool:
        """Whether every variant has its own student arm."""
        return any(variant.trains is not None for variant in self.variants.values())

    @property
    def judged(self) -> str:
        """The name, in results, of the stage that is judged: its folder's, or "student" if variants have own arms."""
        return "student" if self.own_arms else self.judged_stage({})

    def judged_stage(self, chosen: dict[str, Any]) -> str:
        """The name of the judged stage of the trial with the parameters ``chosen``; its folder has the same name."""
        return "teacher" if self.trains == "teacher" else f"student_{self.arms_of(chosen)[0]}"

    def arms_of(self, chosen: dict[str, Any]) -> tuple[str, ...]:
        """The student arms that the trial with the parameters ``chosen`` trains."""
        variant = self.variants.get(chosen.get(VARIANT, ""))
        if variant is not None and variant.trains is not None:
            return (variant.trains,)
        return () if self.trains == "teacher" else self.trains

    @property
    def arms(self) -> tuple[str, ...]:
        """The student arms that any trial trains."""
        return tuple(dict.fromkeys(arm for name in [*self.variants] or [""] for arm in self.arms_of({VARIANT: name})))

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether the least or the greatest value of the metric is best."""
        return "min" if (TEACHER_METRICS | STUDENT_METRICS)[self.metric] else "max"

    def optim(self, config: Config) -> OptimConfig:
        """The optimizer's section of the judged stage."""
        if self.trains != "teacher":
            return config.optim
        return config.teacher.crop_optim if config.teacher.model == "crop" else config.teacher.optim

    def scored_on(self, config: Config) -> str:
        """The samples on which checkpoints are scored: "select" or "point_labeled"; "": they are not scored."""
        if self.measured_on != "val":
            return self.measured_on
        return "select" if config.data.select_split else ""

    def combinations(self) -> Iterator[dict[str, Any]]:
        """The parameters of a grid's trials in the order of training; the seed changes fastest."""
        lists = [[(key, value) for value in domain.values or ()] for key, domain in self.domains.items()]
        for chosen in itertools.product(*lists, [(SEED, seed) for seed in self.seeds]):
            yield dict(chosen)

    @property
    def size(self) -> int:
        """The number of trials."""
        lists = [len(domain.values or ()) for domain in self.domains.values()]
        return self.trials or math.prod(lists) * len(self.seeds)
