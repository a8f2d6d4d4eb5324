"""Builds a stage's model, loss and decoding from the config. No other module chooses parts by their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pdetr3d.batch import Batch, RankMean, StudentOutput, TeacherOutput
from pdetr3d.config import Config, OptimConfig, sigma_m
from pdetr3d.losses.center_criterion import CenterCriterion
from pdetr3d.losses.point_guided import PointGuidance, ramp_of
from pdetr3d.losses.teacher_criterion import TeacherCriterion
from pdetr3d.losses.unclicked import Unclicked
from pdetr3d.models.box_code import axis_and_odds, encode_click_box
from pdetr3d.models.click_answers import answers
from pdetr3d.models.crop_regressor import CropRegressor
from pdetr3d.models.image_backbone import image_stages
from pdetr3d.models.student import CenterDecoder, Student
from pdetr3d.models.teacher import Teacher
from pdetr3d.schema import SOURCE_PSEUDO, Boxes3D
from pdetr3d.training.image_weights import read_image_weights
from pdetr3d.training.mean_teacher import MeanTeacher
from pdetr3d.training.optim import lr_factors
from pdetr3d.training.plan import BatchLoader
from pdetr3d.training.start_weights import initialize_start, start_weights

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """One trainable detector: model, loss, decoding, schedule and loader.

    Attributes:
        model: on the CPU, freshly initialized.
        losses: (model output, batch, rank mean) -> weighted loss terms, scalars.
        predict: (model output, batch) -> one Boxes3D per sample, canonical frame (the teacher's row k answers click k).
        optim: optimizer settings and schedule.
        loader: reads the training batches.
        before_step: is called with (step, steps) before each training step 0 .. steps - 1.
        watch: model output -> scalars to log beside the loss terms, without gradients.
        seed: seeds the dropout masks.
        teach: (moving average of the model, batch) -> the batch to train on (``MeanTeacher``, ``Unclicked``). None: the
            batch is used as it was loaded.
    """

    model: nn.Module
    losses: Callable[[object, Batch, RankMean], Losses]
    predict: Callable[[object, Batch], list[Boxes3D]]
    optim: OptimConfig
    loader: BatchLoader
    before_step: Callable[[int, int], None] = lambda step, steps: None
    watch: Callable[[object], dict[str, Tensor]] = lambda output: {}
    seed: int = 0
    teach: Callable[[nn.Module, Batch], Batch] | None = None


def build(
    stage: str, config: Config, prior_size_m: np.ndarray, *, guidance: bool = True, mean_teacher: bool = False
) -> Task:
    """Build a stage's task; ``run.seed`` draws the initial weights.

    Args:
        stage: "teacher", "crops" (the teacher's crop branch alone) or "student".
        prior_size_m: (C, 3) mean l, w, h of each class in the box-labeled part, in ``config.classes`` order.
        guidance: False turns point guidance off (for arms without clicks).
        mean_teacher: True trains a student against its own moving average, without point guidance.

    Raises:
        ValueError: for another stage.
    """
    torch.manual_seed(config.run.seed)
    prior = torch.tensor(np.asarray(prior_size_m), dtype=torch.float32)
    if stage in ("teacher", "crops"):
        return replace(_teacher(config, prior, crops=stage == "crops"), seed=config.run.seed)
    if stage == "student":
        student = _student(config, prior, guidance and config.student.guidance != "none" and not mean_teacher)
        return replace(_mean_teacher(config, student) if mean_teacher else student, seed=config.run.seed)
    raise ValueError(f"stage {stage!r}: allowed teacher, crops, student")


def initialize_lidar(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy the LiDAR encoder and backbone of a student's weights into a teacher (method.md 2.10: CenterPoint first)."""
    own, lidar = model.state_dict(), ("pillars.", "voxels.", "backbone.")
    model.load_state_dict({**own, **{k: v for k, v in state.items() if k.startswith(lidar)}})


def initialize_crops(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy the crop branch of a ``CropRegressor``'s weights into a teacher."""
    model.load_state_dict({**model.state_dict(), **{k: v for k, v in state.items() if k.startswith("crops.")}})


def initialize_images(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy ``read_image_weights``'s tensors into a teacher's image backbone."""
    model.get_submodule("images.backbone").load_state_dict(weights, strict=False)  # batch counts stay at zero


def image_weights(config: Config) -> dict[str, Tensor] | None:
    """The weights that ``teacher.image_weights`` names; None when the key is empty or the teacher reads no images.

    Raises:
        DataError: as ``read_image_weights``.
    """
    if not config.teacher.image_weights or not config.teacher.cameras:
        return None
    return read_image_weights(Path(config.teacher.image_weights), image_stages(config))


def check_models(config: Config, prior_size_m: np.ndarray) -> None:
    """Check the keys that depend on the models' parameter names, by building the models before a cluster starts.

    The keys are ``teacher.image_weights``, ``teacher.start_from`` and ``optim.lr_multipliers``.

    Args:
        prior_size_m: (C, 3) mean l, w, h of each class.

    Raises:
        DataError: names the key and the parameters that do not match.
    """
    image_weights(config)
    start = start_weights(config)
    for stage in ("teacher", "crops", "student"):
        task = build(stage, config, prior_size_m)
        lr_factors(task.model, task.optim)
        if start is not None and stage != "student":
            initialize_start(task.model, start, stage, config)


def _teacher(config: Config, prior: Tensor, crops: bool) -> Task:
    def losses(output: object, batch: Batch, rank_mean: RankMean) -> Losses:
        assert isinstance(output, TeacherOutput)
        return TeacherCriterion(config, encode_click_box, rank_mean)(output, batch)

    def predict(output: object, batch: Batch) -> list[Boxes3D]:
        assert isinstance(output, TeacherOutput)
        return click_boxes(output, batch)

    loader = BatchLoader(config, "teacher", cameras=config.teacher.cameras)
    model = CropRegressor(config, prior) if crops or config.teacher.model == "crop" else Teacher(config, prior)
    return Task(model, losses, predict, config.teacher.crop_optim if crops else config.teacher.optim, loader)


@torch.no_grad()
def click_boxes(output: TeacherOutput, batch: Batch) -> list[Boxes3D]:
    """The last layer's box of every click, in click order; its class is the click's, its score the predicted IoU."""
    results = []
    for b in range(len(batch)):
        valid = batch.click_valid[b]
        row = answers(output, batch, b)
        box = output.box[-1][b, row].float().cpu().numpy()
        score = output.quality[-1][b, row].sigmoid().float().cpu().numpy()
        label = batch.click_label[b, valid].cpu().numpy()
        direction = axis_and_odds(output.code[-1][b, row].float())[1].abs().sigmoid().cpu().numpy()
        told = {"score": score, "direction": direction}
        results.append(Boxes3D.build(box[:, :3], box[:, 3:6], box[:, 6], label, **told, source=SOURCE_PSEUDO))
    return results


def _student(config: Config, prior: Tensor, guided: bool) -> Task:
    sigma = torch.as_tensor(sigma_m(config.student, prior.numpy()), dtype=torch.float32)
    model, decoder = Student(config, guided=guided), CenterDecoder(config)
    ramp = 1.0

    def before_step(step: int, steps: int) -> None:
        nonlocal ramp
        ramp = ramp_of(config.student.guidance_warmup, step / steps)
        if model.guidance is not None:
            model.guidance.follow(model, step)

    def losses(output: object, batch: Batch, rank_mean: RankMean) -> Losses:
        assert isinstance(output, StudentOutput)
        terms = CenterCriterion(config, rank_mean)(output.tasks, batch)
        if guided:
            # A batch without a single point has no weak view: its own features stand in and give no gradient.
            weak = output.strong.detach() if output.weak is None else output.weak
            terms["guidance"] = PointGuidance(config, sigma, rank_mean, ramp)(output.strong, weak, batch)
        return terms

    def predict(output: object, batch: Batch) -> list[Boxes3D]:
        assert isinstance(output, StudentOutput)
        return decoder(output.tasks)

    loader = BatchLoader(config, "student", cameras=False, weak_view=guided)
    task = Task(model, losses, predict, config.optim, loader, before_step, watch_features)
    return task if config.student.unclicked == "background" else _with_unclicked(config, task)


def _with_unclicked(config: Config, student: Task) -> Task:
    """The student's task with ``Unclicked``: objects that its moving average finds without click are no background."""

    def heatmaps(average: nn.Module, batch: Batch) -> list[Tensor]:
        assert isinstance(average, Student)
        features = average.features(batch.points, batch.point_sample, len(batch))
        return average.head(features)[1]

    unclicked = Unclicked(config, heatmaps)

    def watch(output: object) -> dict[str, Tensor]:
        return {**student.watch(output), "unclicked_share": unclicked.share}

    return replace(student, teach=unclicked, watch=watch)


@torch.no_grad()
def watch_features(output: object) -> dict[str, Tensor]:
    """Measure whether a student's features collapse, which a loss on the agreement of two views alone would reward.

    Returns:
        {"feature_std": scalar}: the standard deviation of each channel of the BEV features (B, C, H, W) over samples
        and cells, averaged over the channels. It falls towards 0 when features collapse.
    """
    assert isinstance(output, StudentOutput)
    features = output.strong.float()
    mean = features.mean((0, 2, 3))
    return {"feature_std": (features.square().mean((0, 2, 3)) - mean.square()).clamp(min=0).sqrt().mean()}


def _mean_teacher(config: Config, student: Task) -> Task:
    rival = MeanTeacher(config, student.predict)
    optim = config.optim.model_copy(update={"ema_decay": config.student.mean_teacher_decay})
    loader = replace(student.loader, weak_view=True)
    return replace(
        student,
        losses=rival.losses,
        optim=optim,
        loader=loader,
        before_step=rival.before_step,
        teach=rival.teach,
        watch=watch_features,
    )
