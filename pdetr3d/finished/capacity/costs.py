"""The input of the capacity plan: the measured costs of each stage (from ``measure.py``), and a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from pdetr3d.config import Config
from pdetr3d.config_sections import Positive, Section
from pdetr3d.schema import DataError

STAGES = ("teacher", "pseudo_labels", "student")
# Keys that determine the costs of a sample, a step and a checkpoint ...
COSTLY = ("model.", "teacher.", "student.", "data.num_sweeps", "data.image_size_px", "optim.ema_decay")
CHEAP = "teacher.optim."  # ... except for these
Cost = Annotated[float, Field(ge=0)]
More = Annotated[float, Field(gt=0)]


class StageCost(Section):
    """The costs of a stage, per sample unless stated otherwise.

    Attributes:
        cpu_s: core seconds of loading, by part; the parts add up to the whole.
        disk_bytes: size of the files that are read.
        batch_bytes: size of the arrays in the object store, which are also sent to the training worker.
        record_bytes: size of the sample's row in ``Records``; the object store of the driver's node holds all rows.
        flops: of all passes of a training step, or of a prediction.
        parameters: of the model.
        gradient_bytes: all-reduced in every step.
        checkpoint_bytes: of a checkpoint file. checkpoint_s: seconds to write it to a local disk.
    """

    cpu_s: dict[str, Cost]
    disk_bytes: More
    batch_bytes: More
    record_bytes: More
    flops: More
    parameters: Positive
    gradient_bytes: Cost = 0  # this and the following are 0 for a stage without training
    checkpoint_bytes: Cost = 0
    checkpoint_s: Cost = 0


class Measurement(Section):
    """The file of ``pdetr3d plan --measure``: the costs of ``stages`` by name, and how they were measured."""

    preset: str
    depends_on: dict[str, Any]  # the config's values of ``depends_on``
    train_samples: Positive  # of the dataset's train split
    measured_samples: Positive
    sweeps: Positive  # LiDAR sweeps of a measured sample
    stand_in_sweeps: Cost  # mean number of these that the dataset lacks; the keyframe was read instead
    cpu: str
    cores: Positive
    load_average: Cost  # of the machine during the measurement
    stages: dict[str, StageCost]


class Cluster(Section):
    """The assumed cluster; every field is an option of ``pdetr3d plan``.

    Attributes:
        gpus: number of training workers, one GPU each. gpus_per_node, cores_per_node: of a GPU node.
        object_store_gb: of a GPU node. head_object_store_gb: of the driver's node [1e9 bytes].
        network_gbit_s: of a node, in each direction. storage_gb_s: of the whole shared storage, reading or writing.
        tflops: dense peak of a GPU in the training's precision. mfu: the share of it that training reaches.
    """

    gpus: Positive
    gpus_per_node: Positive
    cores_per_node: More
    object_store_gb: More
    head_object_store_gb: More
    network_gbit_s: More
    storage_gb_s: More
    tflops: More
    mfu: Annotated[float, Field(gt=0, le=1)]

    @property
    def nodes(self) -> int:
        """The number of GPU nodes."""
        return -(-self.gpus // self.gpus_per_node)


Checked = TypeVar("Checked", bound=Section)


def checked(kind: type[Checked], values: dict[str, Any], named: Callable[[str], str]) -> Checked:
    """Validate values as a ``kind``.

    Args:
        named: key -> its name in messages.

    Raises:
        DataError: has a line for each value that is not allowed, which begins with the key's name.
    """
    try:
        return kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            value = "" if problem["type"] == "missing" else f" = {problem['input']!r}"
            lines.append(f"{named('.'.join(map(str, problem['loc'])))}{value}: {problem['msg']}")
        raise DataError("\n".join(lines)) from error


def make_cluster(**options: float) -> Cluster:
    """Make a Cluster from the options of ``pdetr3d plan``.

    Raises:
        DataError: names the option, its value and what is allowed.
    """
    return checked(Cluster, options, lambda key: "--workers" if key == "gpus" else f"--{key.replace('_', '-')}")


def depends_on(config: Config) -> dict[str, Any]:
    """The config entries (flat key -> value) on which measured costs depend."""
    flat = config.flat()
    return {k: v for k, v in flat.items() if k.startswith(COSTLY) and not k.startswith(CHEAP)} | {
        "teacher.optim.ema_decay": flat["teacher.optim.ema_decay"]
    }


def same_costs(mine: dict[str, Any], theirs: dict[str, Any], where: str, remedy: str) -> None:
    """Refuse costs that were measured with another config than the plan's.

    Args:
        mine: ``depends_on`` of the plan. theirs: the same of the measurement. where: its file, for the message.
        remedy: last line of the message.

    Raises:
        DataError: names the keys that differ.
    """
    differing = [f"  {k}: {theirs.get(k)} there, {mine[k]} now" for k in mine if theirs.get(k) != mine[k]]
    if differing:
        raise DataError("\n".join([f"{where} is of another model or other samples; it differs in", *differing, remedy]))


def read_measurement(path: Path, config: Config) -> Measurement:
    """Read a file that ``pdetr3d plan --measure`` wrote.

    Raises:
        DataError: when the file is missing or broken, or belongs to a config with other costs (names the keys).
    """
    again = f"write it anew: pdetr3d plan --preset {config.preset} --measure {path} data.dataroot=FOLDER"
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no measurement here ({error}); {again}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: no measurement here; {again}")
    made = checked(Measurement, values, lambda key: f"{path}: {key}")
    if missing := [stage for stage in STAGES if stage not in made.stages]:
        raise DataError(f"{path}: the stages {', '.join(missing)} are missing; {again}")
    same_costs(depends_on(config), made.depends_on, str(path), again)
    return made
