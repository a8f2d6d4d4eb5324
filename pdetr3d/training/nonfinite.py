"""Handles steps whose loss or gradients are not finite: records each, then stops training or skips the step."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdetr3d.config import OptimConfig
from pdetr3d.training.context import TrainContext

FOLDER = "nonfinite"  # folder of the records, within the stage's folder of checkpoints
SHOWN = 20  # a record names this many of the parameters whose gradients are not finite


class NonFiniteError(FloatingPointError):
    """A loss or gradient is not finite. Every rank of the step raises it, before the weights change.

    Attributes:
        terms: this rank's loss terms. norm: the norm of the gradients, averaged over the ranks.
        tokens: sample tokens of this rank's batch.
        here: whether this rank's own loss is not finite. (The gradients do not tell, since they are averaged.)
    """

    def __init__(self, terms: dict[str, float], norm: float, tokens: list[str], here: bool) -> None:
        self.terms, self.norm, self.tokens, self.here = terms, norm, tokens, here
        super().__init__(f"loss {terms} with gradient norm {norm} is not finite; samples {tokens}")


class Guard:
    """Applies ``optim.on_nonfinite`` during one training.

    Args:
        optim: the stage's optimizer settings. context: writes the records.
        model: the model whose gradients are examined and whose running statistics are restored.
    """

    def __init__(self, optim: OptimConfig, context: TrainContext, model: nn.Module) -> None:
        self.optim, self.context, self.model = optim, context, model
        self.skipped = 0
        self.buffers: list[Tensor] = []

    def step_begins(self) -> None:
        """Copy the buffers that the forward pass changes: running statistics of norms would keep a NaN forever."""
        if self.optim.on_nonfinite == "skip":
            self.buffers = [buffer.detach().clone() for buffer in self.model.buffers()]

    def handle(
        self,
        error: NonFiniteError,
        step: int,
        arrays: dict[str, NDArray],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        """Record the step, then raise, or restore the state before the step so that training continues without it.

        Args:
            error: of ``train_step``. step: from 0. arrays: the rank's batch.

        Raises:
            FloatingPointError: with ``optim.on_nonfinite=raise``, and when more steps than ``optim.nonfinite_limit``
                were skipped since this training was started or resumed.
        """
        place = self.context.keep_record(
            f"{FOLDER}/step_{step:07d}_rank_{self.context.rank}.json",
            json.dumps(self._record(error, step, arrays), indent=1),
        )
        if self.optim.on_nonfinite == "raise":
            raise FloatingPointError(
                f"step {step}: {error}; put on record: {place}. The weights are those of the step before. A lower "
                "optim.lr, or optim.amp=fp32, may help; optim.on_nonfinite=skip leaves such steps out"
            ) from error
        self.skipped += 1
        if self.skipped > self.optim.nonfinite_limit:
            raise FloatingPointError(
                f"step {step}: {error}; {self.skipped} such steps are more than optim.nonfinite_limit "
                f"{self.optim.nonfinite_limit}; the last is on record: {place}"
            ) from error
        with torch.no_grad():
            for buffer, before in zip(self.model.buffers(), self.buffers, strict=True):
                buffer.copy_(before)
        optimizer.zero_grad(set_to_none=True)
        scaler.update()  # resets the scaler, which has unscaled these gradients already
        if error.here or self.context.rank == 0:
            print(f"step {step} is skipped: {error}; put on record: {place}", flush=True)

    def _record(self, error: NonFiniteError, step: int, arrays: dict[str, NDArray]) -> dict[str, Any]:
        """The facts that help to find the cause: samples, loss terms, parameters, whether the inputs are finite."""
        bad = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ]
        inputs = {k: bool(np.isfinite(v).all()) for k, v in arrays.items() if v.dtype.kind == "f"}
        return {
            "step": step,
            "rank": self.context.rank,
            "world_size": self.context.world_size,
            "sample_tokens": error.tokens,
            "terms": {name: _json(value) for name, value in error.terms.items()},
            "gradient_norm": _json(error.norm),
            "this_ranks_loss_is_finite": not error.here,
            "parameters_with_such_gradients": {"count": len(bad), "first": bad[:SHOWN]},
            "inputs_are_finite": inputs,
        }


def _json(value: float) -> float | str:
    """The value, or its name if it is not finite: JSON has neither NaN nor infinity."""
    return value if math.isfinite(value) else str(value)
