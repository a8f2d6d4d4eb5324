"""Selects, in inference, the query whose box is the answer to each click."""

from __future__ import annotations

import torch
from torch import Tensor

from pdetr3d.batch import Batch, TeacherOutput


@torch.no_grad()
def answers(output: TeacherOutput, batch: Batch, sample: int) -> Tensor:
    """(K,) int64: the query that answers each valid click of a sample, in the order of the clicks.

    If queries belong to clicks, it is the click's first query, which has no jitter. Learned queries are assigned one to
    one to clicks, with the least total ``assignment_cost``. If there are more clicks than queries, queries answer
    several clicks.
    """
    valid = torch.nonzero(batch.click_valid[sample])[:, 0]
    if batch.click.shape[1] == 0 or bool((output.click[sample] >= 0).all()):
        return valid  # the first K queries are the clicks' own, in their order
    from scipy.optimize import linear_sum_assignment  # imported here: only learned queries need it

    cost = assignment_cost(output, batch, sample, valid)
    repeats = -(-len(valid) // cost.shape[1])
    _, column = linear_sum_assignment(cost.repeat(1, max(1, repeats)).cpu().numpy())
    return torch.from_numpy(column).to(valid.device) % cost.shape[1]


def assignment_cost(output: TeacherOutput, batch: Batch, sample: int, clicks: Tensor) -> Tensor:
    """(K, Q) costs of assigning queries to clicks.

    The cost is the distance from click to box center, divided by the diagonal of the predicted footprint (at least
    1 m), plus 1 - probability of the click's class. So a wrong class costs as much as a distance of one diagonal.
    """
    box = output.box[-1][sample].float()
    distance = (batch.click[sample, clicks][:, None] - box[None, :, :3]).norm(dim=-1)
    diagonal = box[:, 3:5].norm(dim=-1).clamp(min=1.0)
    probability = output.logit[-1][sample].float().sigmoid()[:, batch.click_label[sample, clicks]].T
    return torch.nan_to_num(distance / diagonal, nan=1e6, posinf=1e6) + 1 - probability
