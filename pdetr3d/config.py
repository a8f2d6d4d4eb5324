"""The configuration: a tree of frozen pydantic models that refuses unknown keys. It imports no torch.

Every field is a dotted key (``optim.lr``) on the command line, in ``tune_spaces`` and in MLflow. ``presets.py`` holds
the presets, ``config_sections.py`` and ``config_models.py`` the sections; other code imports the sections from here.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any

import yaml
from pydantic import ValidationError, model_validator

from pdetr3d.class_list import ClassList, read_classes
from pdetr3d.config_models import (
    BY_CLASS,
    ModelConfig,
    StudentConfig,
    TeacherConfig,
    sigma_m,
)
from pdetr3d.config_removed import REMOVED, without_removed
from pdetr3d.config_sections import (
    NO_NUMBERS,
    NOT_INDEXED,
    OF_MANIFEST,
    OF_STUDENTS,
    OF_TEACHERS,
    CorruptionConfig,
    DataConfig,
    EmptyName,
    LabelConfig,
    OptimConfig,
    RunSection,
    ScalingConfig,
    Section,
    SensorConfig,
    SimConfig,
    StorageConfig,
)
from pdetr3d.schema import DataError
from pdetr3d.words import close_to, misread

__all__ = [
    "OF_MANIFEST",
    "Config",
    "build",
    "override",
    "unknown_key",
    "CorruptionConfig",
    "DataConfig",
    "EmptyName",
    "LabelConfig",
    "ModelConfig",
    "OptimConfig",
    "RunSection",
    "ScalingConfig",
    "SensorConfig",
    "SimConfig",
    "StorageConfig",
    "StudentConfig",
    "TeacherConfig",
    "sigma_m",
]


class Config(Section):
    """All settings of a run."""

    preset: Annotated[str, NOT_INDEXED]
    sim: SimConfig = SimConfig()
    data: DataConfig = DataConfig()
    label: Annotated[LabelConfig, NOT_INDEXED] = LabelConfig()
    model: Annotated[ModelConfig, NOT_INDEXED] = ModelConfig()
    teacher: Annotated[TeacherConfig, OF_TEACHERS] = TeacherConfig()
    student: Annotated[StudentConfig, OF_STUDENTS] = StudentConfig()
    optim: Annotated[OptimConfig, OF_STUDENTS] = OptimConfig()  # of the student; teacher.optim is the teacher's
    corruption: Annotated[CorruptionConfig, NOT_INDEXED] = CorruptionConfig()
    scaling: Annotated[ScalingConfig, NO_NUMBERS] = ScalingConfig()
    run: Annotated[RunSection, NOT_INDEXED] = RunSection()
    storage: Annotated[StorageConfig, NO_NUMBERS] = StorageConfig()

    @model_validator(mode="after")
    def _check_workers(self) -> Config:
        sections = {
            "optim": self.optim,
            "teacher.optim": self.teacher.optim,
            "teacher.crop_optim": self.teacher.crop_optim,
        }
        for name, optim in sections.items():
            fewest, most = self.scaling.worker_range
            odd = [n for n in range(fewest, most + 1) if optim.batch_size % n]
            if odd and fewest < most:
                fits = math.lcm(*range(fewest, most + 1))
                raise ValueError(
                    f"{name}.batch_size {optim.batch_size} is global and must be a multiple of every number of workers "
                    f"in scaling.workers [{fewest},{most}], but is none of {odd[0]}: a multiple of {fits} is one of "
                    "all; or choose another range"
                )
            if odd:
                raise ValueError(
                    f"{name}.batch_size {optim.batch_size} is global and must be a multiple of scaling.workers "
                    f"{self.scaling.workers}: set {name}.batch_size={self.scaling.workers}, or fewer workers"
                )
        share, batch = self.student.box_share, self.optim.batch_size
        if share and not 0 < self.box_slots < batch:
            raise ValueError(
                f"student.box_share {share} of optim.batch_size {batch} is {self.box_slots} samples, but box-labeled "
                "and other samples must both have a place in each batch: "
                f"set student.box_share between {1 / batch:.3g} and {1 - 1 / batch:.3g}, or 0 to take them as they come"
            )
        if self.model.norm == "sync" and not self.scaling.use_gpu:
            raise ValueError(
                "model.norm=sync needs GPUs, but scaling.use_gpu is false: set scaling.use_gpu=true, "
                "or model.norm to batch, group or frozen"
            )
        return self

    @model_validator(mode="after")
    def _check_classes(self) -> Config:
        names, student = self.classes.names, self.student
        for name in self.label.no_boxes_of:
            if name not in names:
                raise ValueError(
                    f"label.no_boxes_of: {name!r} is no class{close_to(name, names)}; {self.classes.allowed}"
                )
        order = f"in the order of {'data.classes' if self.classes.own else 'pdetr3d.schema.CLASSES'} ({names[0]} first)"
        if sorted(label for task in self.tasks for label in task) != list(range(len(names))):
            raise ValueError(
                f"student.tasks {student.tasks} must hold each class index 0..{len(names) - 1} exactly once, {order}; "
                "student.tasks=[] makes a head for each group of classes"
            )
        if len(student.gt_sampling) not in (0, len(names)):
            raise ValueError(
                f"student.gt_sampling {student.gt_sampling} must hold {len(names)} counts, one for each class {order}, "
                "or be [] for off"
            )
        if len(student.circle_radius_m) != len(names) and (student.circle_radius_m or student.nms == "circle"):
            raise ValueError(
                f"student.circle_radius_m {student.circle_radius_m} has {len(student.circle_radius_m)} radii; it needs "
                f"{len(names)}, one for each class {order}"
            )
        return self

    @property
    def classes(self) -> ClassList:
        """The classes that are learned and scored."""
        return self.data.class_list

    @property
    def tasks(self) -> tuple[tuple[int, ...], ...]:
        """The labels of the classes of each of the student's detection heads."""
        return self.student.tasks or self.classes.tasks

    @property
    def box_slots(self) -> int:
        """The number of box-labeled samples in each global batch of the student; 0: samples are not chosen by role."""
        return round(self.student.box_share * self.optim.batch_size)

    @model_validator(mode="after")
    def _check_neck(self) -> Config:
        strides, necks = self.model.backbone_strides, self.student.neck_strides
        if not len(strides) == len(necks) == len(self.student.neck_channels):
            raise ValueError(
                f"student.neck_strides {necks} and student.neck_channels {self.student.neck_channels} need one entry "
                f"for each stage of model.backbone_strides {strides}"
            )
        cells = [math.prod(strides[: i + 1]) / neck if neck > 0 else 0 for i, neck in enumerate(necks)]
        if min(cells) <= 0 or not all(math.isclose(c, cells[0]) for c in cells):
            raise ValueError(
                f"student.neck_strides {necks} must bring all stages of model.backbone_strides {strides} to one grid: "
                f"positive, each proportional to the product of the strides up to its stage"
            )
        odd = [neck for neck in necks if not math.isclose(max(neck, 1 / neck), round(max(neck, 1 / neck)))]
        if odd:
            raise ValueError(
                f"student.neck_strides {necks}: {odd[0]} is neither whole (enlarges) nor one by a whole number"
            )
        return self

    @model_validator(mode="after")
    def _check_rivals(self) -> Config:
        if len(set(self.run.arms)) < len(self.run.arms):
            raise ValueError(f"run.arms {list(self.run.arms)} names a student twice; name each once")
        least = self.student.score_threshold
        for arm in ("self_training", "mean_teacher"):
            if arm in self.run.arms and (value := getattr(self.student, f"{arm}_threshold")) < least:
                raise ValueError(
                    f"student.{arm}_threshold {value} is below student.score_threshold {least}, under which no box is "
                    f"predicted: set student.{arm}_threshold={least} or higher, or lower student.score_threshold"
                )
        return self

    @model_validator(mode="after")
    def _check_patience(self) -> Config:
        for name, optim in (("optim", self.teacher.optim), ("crop_optim", self.teacher.crop_optim)):
            if optim.patience:
                raise ValueError(
                    f"teacher.{name}.patience {optim.patience}: checkpoints of the teacher are not scored while it "
                    "trains; leave it at 0 (optim.patience is the students')"
                )
        if self.optim.patience and not (self.data.select_split and self.optim.checkpoints > self.optim.patience):
            raise ValueError(
                f"optim.patience {self.optim.patience} needs data.select_split (now {self.data.select_split!r}) to "
                f"score checkpoints on, and more optim.checkpoints (now {self.optim.checkpoints}) than it: set both"
            )
        return self

    @model_validator(mode="after")
    def _check_unclicked(self) -> Config:
        if self.student.unclicked == "ignore" and not self.optim.ema_decay:
            raise ValueError(
                "student.unclicked=ignore asks the student's moving average, but optim.ema_decay is 0, so there is "
                "none: set optim.ema_decay (0.99 for some hundred steps, 0.999 for thousands)"
            )
        return self

    @property
    def student_cell_m(self) -> float:
        """Side of one cell of the student's head grid [m]."""
        return self.model.bev_cell_m * self.model.backbone_strides[0] / self.student.neck_strides[0]

    @property
    def student_grid(self) -> tuple[int, int]:
        """Rows (y) and columns (x) of the student's head grid."""
        x0, y0, x1, y1 = self.model.bev_range_m
        return round((y1 - y0) / self.student_cell_m), round((x1 - x0) / self.student_cell_m)

    def to_json(self) -> str:
        """JSON text from which ``from_json`` makes an equal Config."""
        return self.model_dump_json(indent=1)

    @staticmethod
    def from_json(text: str) -> Config:
        """Parse the text of ``to_json``, also of older code (``config_removed.py``).

        Raises:
            DataError: names each key with an error.
        """
        return _validated(without_removed(text))

    def flat(self) -> dict[str, Any]:
        """Dotted key -> value (lists for tuples), as in MLflow's params and in overrides."""
        return _flatten(self.model_dump(mode="json"))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def override(config: Config, dotlist: list[str]) -> Config:
    """Apply ``key=value`` overrides and validate the result.

    Values are YAML. The value of a text key is taken literally unless it is quoted, since a path or name may contain
    characters that YAML would read as a comment or a list. If ``data.classes`` changes, the keys BY_CLASS become empty
    unless they are overridden, too: a preset's values for nuScenes' ten classes do not fit other classes.

    Raises:
        DataError: for an unknown key (names the closest), a malformed item or a value that is not allowed.
    """
    from omegaconf import OmegaConf  # imported here, because only overrides need it
    from omegaconf.errors import OmegaConfBaseException

    known = config.flat()
    texts: dict[str, str] = {}
    for item in dotlist:
        key, separator, value = item.partition("=")
        if not separator:
            raise DataError(f"override {item!r} is not key=value; example: optim.lr=0.001")
        if key not in known or key == "preset":
            raise DataError(unknown_key(key, list(known)))
        if isinstance(known[key], str):
            texts[key] = _text(value)
        elif odd := misread(re.split(r"[\s\[\],]+", value)):
            raise DataError(f"override {item!r}: {odd}")
    try:
        changes = OmegaConf.from_dotlist([item for item in dotlist if item.partition("=")[0] not in texts])
    except (OmegaConfBaseException, yaml.YAMLError, RecursionError) as error:
        raise DataError(
            f"overrides {dotlist} cannot be read: {error}; values are YAML, e.g. sim.image_size_px=[256,144]"
        ) from error
    for key, value in texts.items():
        OmegaConf.update(changes, key, value)
    base = config.model_dump(mode="json")
    if "data.classes" in texts and read_classes(texts["data.classes"]) != config.classes:
        base["student"] |= dict.fromkeys(BY_CLASS, [])
    changed: Any = OmegaConf.to_container(changes)
    return build(base, changed)


def _text(value: str) -> str:
    """The value of a text key: the text inside the quotes if it is quoted as in YAML or JSON, else the whole text."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        try:
            return str(yaml.safe_load(value))
        except yaml.YAMLError:  # not quoted: the text itself begins and ends with quotes
            return value
    return value


def unknown_key(key: str, known: list[str]) -> str:
    """The message for an unknown dotted key: what became of a removed one, else the closest known one."""
    if key in REMOVED:
        return f"unknown config key {key!r}: {REMOVED[key][1]}; pdetr3d show-config shows all keys"
    same = [other for other in known if other.split(".")[-1] == key.split(".")[-1]]
    hint = close_to(key, known, cutoff=0.5) or close_to(key, same, cutoff=0)
    sections = ", ".join(sorted({other.split(".")[0] for other in known}))
    return f"unknown config key {key!r}{hint or f'; sections: {sections}'}; pdetr3d show-config shows all keys"


def build(base: dict[str, Any], changes: dict[str, Any]) -> Config:
    """Merge ``changes`` into ``base`` (nested dicts) and validate; every problem becomes one line of a DataError."""
    return _validated(json.dumps(_merged(base, changes)))


def _merged(base: Any, changes: Any) -> Any:
    """``changes`` in place of ``base``, or in place of its entries where both are dicts."""
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    return base | {key: _merged(base.get(key), value) for key, value in changes.items()}


def _validated(text: str) -> Config:
    try:
        # In JSON mode lists become tuples, and an int is accepted for a float, but "1" is not accepted for 1.
        return Config.model_validate_json(text)
    except ValidationError as error:
        raise DataError("\n".join(_explain(problem) for problem in error.errors())) from error


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_key(key, list(Config(preset="").flat()))
    message = problem["msg"].removeprefix("Value error, ")
    if not key or problem["type"] == "value_error":
        return message
    hint = f"; write {key}=[{problem['input']}]" if problem["type"] in ("list_type", "tuple_type") else ""
    return f"config key {key} = {problem['input']!r}: {message}{hint}"
