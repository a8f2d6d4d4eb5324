"""Limits on host-device synchronizations in a training step: operators whose result's size or value the host needs."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pdetr3d
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train_step
from pdetr3d.training.optim import make_optimizer
from pdetr3d.training.plan import Plan
from tests.model_cases import make_batch, tiny_config

PACKAGE = Path(pdetr3d.__file__).parent  # the folder of the clone may have the same name
# .item(), int(), bool() and if; the others return as many elements as they find.
WAITING = {
    f"aten::{name}"
    for name in "_local_scalar_dense nonzero masked_select unique_dim _unique2 unique_consecutive bincount".split()
}


class Waits(TorchDispatchMode):
    """Counts such operators by the calling line of pdetr3d/ ("backward" if there is none)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in WAITING:
            files = [(Path(frame.filename), frame.line) for frame in traceback.extract_stack()]
            inside = [(file.relative_to(PACKAGE), line) for file, line in files if file.is_relative_to(PACKAGE)]
            where = f"{inside[-1][0]}: {inside[-1][1]}" if inside else "backward"
            self.found[where] += 1
        return func(*args, **(kwargs or {}))


def waits(kind: str, folder: Path) -> Counter[str]:
    """The counts of one training step of a tiny model on two samples."""
    task = build(kind, tiny_config(), FALLBACK_SIZE_M)
    model = task.model.train()
    optimizer, context = make_optimizer(model, task.optim), LocalContext([], Plan(1, 1, 1, 0), task.loader, folder)
    with Waits() as counted:
        train_step(model, optimizer, task, make_batch(), context, 1e-3)
    return counted.found


@pytest.mark.parametrize(("kind", "most"), [("student", 17), ("teacher", 14)])
def test_a_step_waits_no_oftener_than_it_did(kind: str, most: int, tmp_path: Path) -> None:
    """A step waits for the numbers of points in range, filled pillars and clicks, and once for the check for NaN."""
    found = waits(kind, tmp_path)
    assert sum(found.values()) <= most, "\n".join(f"{count} x {line}" for line, count in found.most_common())
    assert sum(count for line, count in found.items() if line.startswith("training/")) == 1


def test_waits_are_seen() -> None:
    with Waits() as counted:
        assert torch.ones(2).sum().item() == 2
        torch.nonzero(torch.ones(3))
    assert counted.found == {"backward": 2}
