"""Which query's box is the answer to a click: always exactly one, in click order."""

from __future__ import annotations

import torch
from torch import Tensor

from pdetr3d.batch import Batch, TeacherOutput


@torch.no_grad()
def answers(output: TeacherOutput, batch: Batch, sample: int) -> Tensor:
    """(K,) int64: for each valid click of the sample, the query that answers for it.

    A click's own query where there is one: the first, which is not jittered. Learned queries are assigned one to one
    by class and distance, at the least total ``assignment_cost``. Where clicks outnumber queries, a query may answer as
    often as it takes.
    """
    valid = torch.nonzero(batch.click_valid[sample])[:, 0]
    if batch.click.shape[1] == 0 or bool((output.click[sample] >= 0).all()):
        return valid  # the first K queries are the clicks' own, in their order
    from scipy.optimize import linear_sum_assignment  # only where queries are learned

    cost = assignment_cost(output, batch, sample, valid)
    repeats = -(-len(valid) // cost.shape[1])
    _, column = linear_sum_assignment(cost.repeat(1, max(1, repeats)).cpu().numpy())
    return torch.from_numpy(column).to(valid.device) % cost.shape[1]


def assignment_cost(output: TeacherOutput, batch: Batch, sample: int, clicks: Tensor) -> Tensor:
    """(K, Q): distance from click to box center in x, y, z [diagonals of the predicted box's footprint, at least 1 m]
    plus 1 - probability of the click's class: a wrong class costs as much as standing one box away."""
    box = output.box[-1][sample].float()
    distance = (batch.click[sample, clicks][:, None] - box[None, :, :3]).norm(dim=-1)
    diagonal = box[:, 3:5].norm(dim=-1).clamp(min=1.0)
    probability = output.logit[-1][sample].float().sigmoid()[:, batch.click_label[sample, clicks]].T
    return torch.nan_to_num(distance / diagonal, nan=1e6, posinf=1e6) + 1 - probability
