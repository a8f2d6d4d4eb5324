"""A training as the pipeline gives it to a runner: samples, schedule, initial weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import Config, OptimConfig, TeacherConfig
from pdetr3d.data.loading.crops import CropLoader, Crops
from pdetr3d.data.loading.record_list import boxed
from pdetr3d.schema import SampleRecord
from pdetr3d.training.build import Task, build, image_weights, initialize_crops, initialize_images, initialize_lidar
from pdetr3d.training.checkpoint import best_weights, load
from pdetr3d.training.plan import BatchLoader, Plan
from pdetr3d.training.start_weights import initialize_start, start_weights

CROPS = "crops"  # name and kind of the stage that trains the teacher's crop branch before the teacher
AGAIN = "crops_again"  # name of the stage of the branch's second training (``teacher.crop_self_labels``), also of CROPS


def last_crops(teacher: TeacherConfig) -> str:
    """The stage whose crop branch a teacher starts from. A ``teacher.model=crop`` is itself the second training."""
    return AGAIN if teacher.crop_self_labels and teacher.model != "crop" else CROPS


@dataclass(frozen=True)
class Training:
    """The description of a training.

    Attributes:
        name: of its stage and folder ("teacher", "student_ours", ...). kind: "teacher", "crops" or "student", see
            ``build``.
        config: of the run. records: its samples. prior_size_m: (C, 3) class sizes [m]. steps: optimizer steps.
        guidance, mean_teacher: see ``build``. tracking: (URI, MLflow run id), or None.
        identity: digest of the run; the name of its folder in a shared ``storage.path``.
        lidar_init: checkpoint of a student whose LiDAR weights a teacher starts from, or None.
        crop_init: checkpoint of the crop branch that a teacher, or the branch's second training, starts from, or None.
        crops: the samples of a training of kind "crops", or None. Its workers hold them; there is no stream.
        gt_database: file of objects to paste (GT sampling of a student), or None. Loading tasks on all nodes read it.
    """

    name: str
    kind: str
    config: Config
    records: Sequence[SampleRecord]
    prior_size_m: NDArray[np.float32]
    steps: int
    guidance: bool
    tracking: tuple[str, str] | None = None
    lidar_init: Path | None = None
    identity: str = ""
    gt_database: Path | None = None
    mean_teacher: bool = False
    crop_init: Path | None = None
    crops: Crops | None = None

    @property
    def plan(self) -> Plan:
        """The order of its samples, or of its crops."""
        if self.crops is not None:
            return Plan(len(self.crops), self.optim.batch_size, self.steps, self.config.run.seed)
        repeats = self.kind == "student" and (self.config.student.cbgs or self.mean_teacher)
        whole = int(boxed(self.records).sum())
        # Trainings on box-labeled samples alone have nothing to mix; mean teacher's records are half and half already.
        mixes = self.kind == "student" and whole < len(self.records) and not self.mean_teacher
        order = (self.steps, self.config.run.seed, repeats, whole, self.config.box_slots if mixes else 0)
        return Plan(len(self.records), self.optim.batch_size, *order)

    @property
    def choices(self) -> dict[str, bool]:
        """Further arguments of ``build``."""
        return {"guidance": self.guidance, "mean_teacher": self.mean_teacher}

    @property
    def optim(self) -> OptimConfig:
        """The optimizer's section of its kind."""
        teacher = self.config.teacher
        return {"teacher": teacher.optim, "crops": teacher.crop_optim, "student": self.config.optim}[self.kind]

    @property
    def streamed(self) -> bool:
        """Whether Ray Data loads its batches; else its workers do."""
        return self.crops is None and self.config.data.loader == "ray"

    @property
    def loader(self) -> BatchLoader:
        """The function that reads its batches."""
        loader = build(self.kind, self.config, self.prior_size_m, **self.choices).loader.for_records(self.records)
        if self.gt_database is None:
            return loader
        # A mean teacher's boxes take the place of all that a point-labeled sample has: those of pasted objects, too.
        return loader.pasting(self.gt_database, self.steps, everywhere=not self.mean_teacher)

    def weights(self) -> dict[str, Any]:
        """Weights that replace those drawn by ``run.seed``: part -> state dict, read from the files that the config and
        earlier stages name, in the order of ``started``."""
        found = {
            "start": start_weights(self.config) if self.kind in ("teacher", "crops") else None,
            "lidar": None if self.lidar_init is None else best_weights(load(self.lidar_init)),
            "crops": None if self.crop_init is None else best_weights(load(self.crop_init)),
            "images": image_weights(self.config) if self.kind == "teacher" else None,
        }
        return {part: state for part, state in found.items() if state is not None}


def started(
    kind: str,
    config: Config,
    prior_size_m: NDArray[np.float32],
    choices: Mapping[str, bool],
    weights: Mapping[str, Any],
) -> Task:
    """Build the task of a training, and give its model the first weights.

    Args:
        kind, config, prior_size_m, choices: of the ``Training``. weights: of ``Training.weights``.
    """
    task = build(kind, config, prior_size_m, **choices)
    if "start" in weights:
        initialize_start(task.model, weights["start"], kind, config)
    if "lidar" in weights:
        initialize_lidar(task.model, weights["lidar"])
    if "crops" in weights and kind == CROPS:
        task.model.load_state_dict(weights["crops"])
    elif "crops" in weights:
        initialize_crops(task.model, weights["crops"])
    if "images" in weights:
        initialize_images(task.model, weights["images"])
    return task


def crop_batches(
    crops: Crops, plan: Plan, config: Config, rank: int, world_size: int, first: int
) -> Iterator[dict[str, NDArray]]:
    """The batches of crops of a rank, from step ``first`` on."""
    load = CropLoader(crops, config.run.seed, config.label.redraw_clicks)
    shares = (plan.at(step, rank, world_size) for step in range(first, plan.steps))
    return (load([i for i, _ in share], [number for _, number in share]) for share in shares)
