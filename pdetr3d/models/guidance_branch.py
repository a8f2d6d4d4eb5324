"""The parts of point guidance that exist only in training: projector, predictor, moving average of the features."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pdetr3d.batch import Batch
from pdetr3d.config import Config
from pdetr3d.models.lidar import StudentFeatures
from pdetr3d.models.norm import norm2d, statistics_held

EARLY_STEPS = 10  # at step s the average's momentum is at most s / (s + 10), so that it soon forgets initial weights


def perceptron(channels: int, hidden: int, norm: str) -> nn.Sequential:
    """A two-layer perceptron that is applied to every cell: 1x1 convolution, norm, ReLU, 1x1 convolution."""
    first = nn.Conv2d(channels, hidden, 1, bias=False)
    return nn.Sequential(first, norm2d(norm, hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1))


class GuidanceBranch(nn.Module):
    """Computes the features of both views for ``losses/point_guided.py``. A student in inference has no such branch.

    The values of ``student.guidance_head`` and ``student.guidance_branch`` mean: none, self: the plain features, the
    weak view's without gradients (method.md 5.2); predictor, self: SimSiam (arXiv 2011.10566); predictor, ema: BYOL
    (arXiv 2006.07733).

    Args:
        config: head, branch, momentum. student: with its initial weights; ``ema`` averages its features.
    """

    def __init__(self, config: Config, student: StudentFeatures) -> None:
        super().__init__()
        channels, norm = student.neck.channels, config.model.norm
        self.momentum = config.student.guidance_momentum
        self.projector: nn.Module = nn.Identity()
        self.predictor: nn.Module = nn.Identity()
        if config.student.guidance_head == "predictor":
            self.projector = perceptron(channels, channels, norm)
            self.predictor = perceptron(channels, max(1, channels // 4), norm)  # a bottleneck, as in SimSiam
        self.average: StudentFeatures | None = None
        if config.student.guidance_branch == "ema":
            self.average = StudentFeatures(config).requires_grad_(False)
            self.average_projector = copy.deepcopy(self.projector).requires_grad_(False)
            self.follow(student, 0)

    @torch.no_grad()
    def follow(self, student: StudentFeatures, step: int) -> None:
        """Move the average towards the student's weights; call it before each step. At step 0 it copies them."""
        if self.average is None:
            return
        momentum = min(self.momentum, step / (step + EARLY_STEPS))
        for average, latest in ((self.average, student), (self.average_projector, self.projector)):
            values = latest.state_dict()
            for name, value in average.state_dict().items():
                if value.is_floating_point():  # skips the batch norms' integer counters
                    value.lerp_(values[name], 1 - momentum)

    def forward(self, student: StudentFeatures, strong: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Compute the features to compare.

        Batch norms normalize the weak view by its own batch, also in the average. Their running statistics stay
        unchanged, because inference uses them.

        Args:
            student: the model. strong: (B, C, H, W) its features of the strong view. batch: holds the weak view.

        Returns:
            The strong view's features, and the weak view's without gradients, both (B, C, H, W); None for the weak view
            of a batch without points.
        """
        strong = self.predictor(self.projector(strong))
        if not len(batch.weak_points):
            return strong, None
        features, projector = student, self.projector
        if self.average is not None:
            features, projector = self.average, self.average_projector
        with torch.no_grad(), statistics_held(student):
            return strong, projector(features.features(batch.weak_points, batch.weak_point_sample, len(batch)))
