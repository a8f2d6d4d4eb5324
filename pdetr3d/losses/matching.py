"""Which box a query answers for. Direct: a click's query answers for the click's own box (method.md 2.8, corrected)."""

from __future__ import annotations

import torch
from torch import Tensor

from pdetr3d.batch import Batch


def match_direct(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs (sample, click, box), each (N,) int64: every valid click whose box is known."""
    sample, click = torch.nonzero(batch.click_valid & (batch.click_box >= 0), as_tuple=True)
    return sample, click, batch.click_box[sample, click]
