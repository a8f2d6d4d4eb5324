"""The teacher's losses: box code, and localization quality (method.md 2.8, 7.2 no. 22).

The released code also has a focal class term. It is left out here: the class is an input, so that term is trivial, and
its score says nothing about the box. The quality head replaces it: it predicts the BEV IoU of the predicted box with
the true one, which is the score of a pseudo label. Learned queries do not get a class as input, so they keep the focal
term.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pdetr3d.batch import Batch, RankMean, TeacherOutput
from pdetr3d.config import Config
from pdetr3d.geometry.boxes import bev_iou_aligned
from pdetr3d.losses.center_criterion import DIRECTION_WEIGHT
from pdetr3d.losses.matching import Pairs, focal_loss, match_direct, match_hungarian
from pdetr3d.schema import SOURCE_HUMAN

DIRECTION = slice(6, 8)  # sin and cos of yaw in the code (models.box_code)
Encode = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class TeacherCriterion:
    """``(output, batch) -> {"box": ..., "quality": ...}``, with learned queries also "class".

    Terms are weighted means over the assigned queries of all ranks, summed over layers. A query's target is the code of
    its click's box relative to the query's anchor in that layer (``Decoder``): the click, or a reference. The first
    reference of a learned query is a parameter and gets a gradient through the target; later references are detached.

    Args:
        config: weights and matching.
        encode: (box (N, 7), anchor (N, 3), prior size (N, 3), frame (N, 2)) -> code (N, 10), the inverse of the model's
            decoding.
        rank_mean: mean of a scalar over ranks.
    """

    def __init__(self, config: Config, encode: Encode, rank_mean: RankMean) -> None:
        self.config, self.encode, self.rank_mean = config, encode, rank_mean
        self.undirected = config.classes.labels("axis", "none")

    def __call__(self, output: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        layers = range(len(output.box))
        pairs = self._match(output, batch)
        # Layers may have different pairs, but each has the same number of pairs.
        count = self.rank_mean(batch.box.new_tensor(float(len(pairs[0][0])))).clamp(min=1)
        # Zero clicks give a zero loss that is connected to the parameters: DDP needs every gradient on every rank.
        box_loss = sum((0 * code.sum() for code in output.code), batch.box.new_zeros(()))
        quality_loss = sum((0 * quality.sum() for quality in output.quality), batch.box.new_zeros(()))
        for layer in layers:
            sample, query, click = pairs[layer]
            box_loss = box_loss + self._box_loss(output, batch, layer, *pairs[layer]).sum()
            reached = box_quality(output.box[layer][sample, query], _truth(batch, sample, click))
            # A model's own box does not tell how good the model's boxes are.
            human = batch.box_source[sample, batch.click_box[sample, click]] == SOURCE_HUMAN
            quality_loss = quality_loss + F.binary_cross_entropy_with_logits(
                output.quality[layer][sample, query], reached, weight=human.float(), reduction="sum"
            )
        weights = self.config.teacher
        terms = {"box": weights.box_weight * box_loss / count, "quality": weights.quality_weight * quality_loss / count}
        if output.logit:
            class_loss = torch.stack([_class_loss(output.logit[i], batch, pairs[i]) for i in layers]).sum()
            terms["class"] = weights.class_weight * class_loss / count
        return terms

    def _match(self, output: TeacherOutput, batch: Batch) -> list[Pairs]:
        """The pairs of each layer."""
        if self.config.teacher.matching == "direct":
            return [match_direct(output, batch)] * len(output.box)
        box_loss = partial(self._box_loss, output, batch)
        weights = self.config.teacher.box_weight, self.config.teacher.class_weight
        return [match_hungarian(output, layer, batch, box_loss, *weights) for layer in range(len(output.box))]

    def _box_loss(
        self, output: TeacherOutput, batch: Batch, layer: int, sample: Tensor, query: Tensor, click: Tensor
    ) -> Tensor:
        """(N,) for N queries: L1 on the code without its direction, and a logistic loss on the direction.

        With L1, the better of two opposite guesses is one of the two headings, however unsure. The logistic loss gives
        the odds between them.
        """
        anchor, frame = output.anchor[layer][sample, query], output.frame[layer][sample, query]
        truth = self.encode(_truth(batch, sample, click), anchor, output.prior_size[sample, query], frame)
        said = output.code[layer][sample, query]
        odds = (said[:, DIRECTION] * truth[:, DIRECTION].detach()).sum(1)
        label = batch.click_label[sample, click]
        undirected = torch.isin(label, label.new_tensor(self.undirected))
        known = 2 * batch.box_direction[sample, batch.click_box[sample, click]] - 1  # 0: only the axis is known
        turned = torch.where(undirected, 0.0, DIRECTION_WEIGHT * known * -F.logsigmoid(odds))
        error = (said - truth).abs()
        return error[:, : DIRECTION.start].sum(1) + error[:, DIRECTION.stop :].sum(1) + turned


def _truth(batch: Batch, sample: Tensor, click: Tensor) -> Tensor:
    """(N, 7) boxes of N clicks."""
    return batch.box[sample, batch.click_box[sample, click]]


def _class_loss(logit: Tensor, batch: Batch, pairs: Pairs) -> Tensor:
    """Summed focal loss of logits (B, Q, C): an assigned query's target is its click's class, the others' is none."""
    sample, query, click = pairs
    target = torch.zeros_like(logit)
    target[sample, query, batch.click_label[sample, click]] = 1
    return focal_loss(logit, target).sum()


@torch.no_grad()
def box_quality(predicted: Tensor, truth: Tensor) -> Tensor:
    """(N,) BEV IoU in [0, 1] of row-parallel (N, 7) boxes: the target of the quality head."""
    iou = bev_iou_aligned(predicted.double().cpu().numpy(), truth.double().cpu().numpy())
    return torch.from_numpy(iou.astype(np.float32)).to(predicted.device)
