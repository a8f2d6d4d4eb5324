"""Assigns queries to clicks for the teacher's losses, by ``teacher.matching``.

"direct": a click's queries get the click's own box (method.md 2.8, corrected). "hungarian": the assignment of least
total cost, per sample and decoder layer, as in DETR. Then queries of clicks may swap boxes with other clicks of their
class, and learned queries may get any click.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pdetr3d.batch import Batch, TeacherOutput

# (sample, query, click), each (N,) int64: the click's box is the query's target.
Pairs = tuple[Tensor, Tensor, Tensor]
# (layer, sample (N,), query (N,), click (N,)) -> (N,): the box loss of the query's code for the click's box.
BoxLoss = Callable[[int, Tensor, Tensor, Tensor], Tensor]

FORBIDDEN = 1e6  # the cost of a query with a box of another class
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss (method.md 2.8)


def match_direct(output: TeacherOutput, batch: Batch) -> Pairs:
    """Pair every query with its own click, if the click is valid and its box is known."""
    click = output.click.clamp(min=0)
    known = (batch.click_valid & (batch.click_box >= 0)).gather(1, click) & (output.click >= 0)
    sample, query = torch.nonzero(known, as_tuple=True)
    return sample, query, click[sample, query]


@torch.no_grad()
def match_hungarian(
    output: TeacherOutput, layer: int, batch: Batch, box_loss: BoxLoss, box_weight: float, class_weight: float
) -> Pairs:
    """The cheapest one-to-one assignment of queries to valid clicks whose box is known.

    The cost is ``box_weight * box_loss``, plus ``class_weight`` times the focal class cost if queries predict a class
    (method.md 2.8). With several copies per click, each set of copies is assigned on its
    own. With fewer learned queries than clicks, the most expensive clicks get no query.
    """
    from scipy.optimize import linear_sum_assignment  # imported here: only teacher.matching=hungarian needs it

    known = batch.click_valid & (batch.click_box >= 0)
    pairs = [torch.zeros(3, 0, dtype=torch.long, device=known.device)]
    for b in range(len(batch)):
        clicks = torch.nonzero(known[b])[:, 0]
        for queries in _sets(output.click[b], clicks):
            shape = (len(queries), len(clicks))
            query = queries[:, None].expand(shape).flatten()
            click = clicks.expand(shape).flatten()
            sample = torch.full_like(query, b)
            cost = box_weight * box_loss(layer, sample, query, click)
            label = batch.click_label[b, click]
            if output.logit:
                cost = cost + class_weight * focal_cost(output.logit[layer][b, query, label])
            else:
                cost = cost + FORBIDDEN * (batch.click_label[b, output.click[b, query]] != label)
            # A diverged model gives NaN here; the training loop's check reports it with the loss terms.
            table = torch.nan_to_num(cost, nan=FORBIDDEN, posinf=FORBIDDEN, neginf=-FORBIDDEN).view(shape)
            row, column = (torch.from_numpy(i).to(known.device) for i in linear_sum_assignment(table.cpu().numpy()))
            pairs.append(torch.stack([torch.full_like(row, b), queries[row], clicks[column]]))
    sample, query, click = torch.cat(pairs, 1)
    return sample, query, click


def _sets(click: Tensor, clicks: Tensor) -> list[Tensor]:
    """Sets of query indices that are assigned together: all learned queries, or one copy of each of ``clicks``."""
    if len(clicks) == 0:
        return []
    if bool((click < 0).all()):
        return [torch.arange(len(click), device=click.device)]
    return list(torch.nonzero(torch.isin(click, clicks))[:, 0].view(-1, len(clicks)))


def focal_cost(logit: Tensor) -> Tensor:
    """Elementwise focal loss with target 1 minus the loss with target 0, as in Deformable DETR's matching."""
    p = logit.sigmoid()
    present = -ALPHA * (1 - p) ** GAMMA * F.logsigmoid(logit)
    return present + (1 - ALPHA) * p**GAMMA * F.logsigmoid(-logit)


def focal_loss(logit: Tensor, target: Tensor) -> Tensor:
    """Elementwise sigmoid focal loss with targets 0 or 1."""
    p = logit.sigmoid()
    wrong = torch.where(target > 0, 1 - p, p)
    weight = torch.where(target > 0, ALPHA, 1 - ALPHA)
    return weight * wrong**GAMMA * F.binary_cross_entropy_with_logits(logit, target, reduction="none")
