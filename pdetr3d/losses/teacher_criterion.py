"""The teacher's losses: L1 on the box code, and localization quality (method.md 2.8, 7.2 no. 22).

The released focal class term is left out: the class is an input, so the term is trivial and its score says nothing
about the box. The quality head takes its place: it predicts the BEV IoU that the box reaches, which is what a pseudo
label's score means.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pdetr3d.batch import Batch, RankMean, TeacherOutput
from pdetr3d.config import Config
from pdetr3d.geometry.boxes import bev_iou_aligned
from pdetr3d.losses.matching import match_direct

Encode = Callable[[Tensor, Tensor, Tensor], Tensor]


class TeacherCriterion:
    """``(output, batch) -> {"box": ..., "quality": ...}``: weighted, summed over layers, mean over all ranks' clicks.

    Args:
        config: weights.
        encode: (box (N, 7), click (N, 3), prior size (N, 3)) -> code (N, 10), the inverse of the model's decoding.
        prior_size_m: (10, 3).
        rank_mean: mean of a scalar over ranks.
    """

    def __init__(self, config: Config, encode: Encode, prior_size_m: Tensor, rank_mean: RankMean) -> None:
        self.config, self.encode, self.prior_size_m, self.rank_mean = config, encode, prior_size_m, rank_mean

    def __call__(self, output: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        sample, click, index = match_direct(batch)
        truth = batch.box[sample, index]
        prior = self.prior_size_m.to(truth.device)[batch.click_label[sample, click]]
        target = self.encode(truth, batch.click[sample, click], prior)
        count = self.rank_mean(truth.new_tensor(float(len(truth)))).clamp(min=1)
        # Zero clicks give a zero loss that is connected to the parameters: DDP needs every gradient on every rank.
        box_loss = sum((0 * code.sum() for code in output.code), truth.new_zeros(()))
        quality_loss = sum((0 * quality.sum() for quality in output.quality), truth.new_zeros(()))
        for box, code, quality in zip(output.box, output.code, output.quality, strict=True):
            box_loss = box_loss + (code[sample, click] - target).abs().sum()
            reached = box_quality(box[sample, click], truth)
            quality_loss = quality_loss + F.binary_cross_entropy_with_logits(
                quality[sample, click], reached, reduction="sum"
            )
        weights = self.config.teacher
        return {"box": weights.box_weight * box_loss / count, "quality": weights.quality_weight * quality_loss / count}


@torch.no_grad()
def box_quality(predicted: Tensor, truth: Tensor) -> Tensor:
    """(N,) BEV IoU in [0, 1] of row-parallel (N, 7) boxes: the target of the quality head."""
    iou = bev_iou_aligned(predicted.double().cpu().numpy(), truth.double().cpu().numpy())
    return torch.from_numpy(iou.astype(np.float32)).to(predicted.device)
