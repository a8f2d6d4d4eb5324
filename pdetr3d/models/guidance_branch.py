"""The training-only parts of point guidance: projector and predictor, an averaged copy of the student's features."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pdetr3d.batch import Batch
from pdetr3d.config import Config
from pdetr3d.models.lidar import StudentFeatures
from pdetr3d.models.norm import norm2d, statistics_held

EARLY_STEPS = 10  # before step s the average's momentum is at most s / (s + 10): its first weights are soon forgotten


def perceptron(channels: int, hidden: int, norm: str) -> nn.Sequential:
    """1x1 convolution, norm, ReLU, 1x1 convolution: the same two-layer perceptron in every cell."""
    first = nn.Conv2d(channels, hidden, 1, bias=False)
    return nn.Sequential(first, norm2d(norm, hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1))


class GuidanceBranch(nn.Module):
    """Both views' features on their way to ``losses/point_guided.py``; inference neither has nor loads it.

    By ``student.guidance_head`` and ``student.guidance_branch``: none, self: the features themselves, the weak ones
    without gradients (method.md 5.2) · predictor, self: SimSiam (arXiv 2011.10566) · predictor, ema: BYOL (2006.07733).

    Args:
        config: head, branch, momentum. student: freshly initialized; its features are what ``ema`` averages.
    """

    def __init__(self, config: Config, student: StudentFeatures) -> None:
        super().__init__()
        channels, norm = student.neck.channels, config.model.norm
        self.momentum = config.student.guidance_momentum
        self.projector: nn.Module = nn.Identity()
        self.predictor: nn.Module = nn.Identity()
        if config.student.guidance_head == "predictor":
            self.projector = perceptron(channels, channels, norm)
            self.predictor = perceptron(channels, max(1, channels // 4), norm)  # narrow, as SimSiam's
        self.average: StudentFeatures | None = None
        if config.student.guidance_branch == "ema":
            self.average = StudentFeatures(config).requires_grad_(False)
            self.average_projector = copy.deepcopy(self.projector).requires_grad_(False)
            self.follow(student, 0)

    @torch.no_grad()
    def follow(self, student: StudentFeatures, step: int) -> None:
        """Before step 0, 1, ...: move the average towards the student's weights (at step 0: onto them)."""
        if self.average is None:
            return
        momentum = min(self.momentum, step / (step + EARLY_STEPS))
        for average, latest in ((self.average, student), (self.average_projector, self.projector)):
            values = latest.state_dict()
            for name, value in average.state_dict().items():
                if value.is_floating_point():  # not the counts of batches
                    value.lerp_(values[name], 1 - momentum)

    def forward(self, student: StudentFeatures, strong: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """(student, its features of the strong view (B, C, H, W), batch) -> what to compare: strong, and weak without
        gradients, both (B, C, H, W). A batch without a single point has no weak view.

        Batch norms normalize the weak view by its own batch, also in the average, and keep their statistics: those must
        not leak into inference.
        """
        strong = self.predictor(self.projector(strong))
        if not len(batch.weak_points):
            return strong, None
        features, projector = student, self.projector
        if self.average is not None:
            features, projector = self.average, self.average_projector
        with torch.no_grad(), statistics_held(student):
            return strong, projector(features.features(batch.weak_points, batch.weak_point_sample, len(batch)))
