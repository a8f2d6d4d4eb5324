"""Keeps a moving average of a model's weights and buffers over training: torch's ``AveragedModel`` with a warm-up."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

WARM_UP = 9.0  # w below: until ``decay`` is reached, the average covers about the last tenth of the steps so far


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Make the moving average of a model; call its ``update_parameters(model)`` after each step.

    The average equals the model before and after the first step. Each later step s = 1, 2, ... sets
    ``average = d * average + (1 - d) * model`` with d = min(decay, 1 - (1 + w) / (s + 1 + w)) (method.md 5.2). With a
    constant d of 0.999, the first weights of a short training would dominate to its end. Integer buffers are copied.

    Args:
        decay: in (0, 1), ``optim.ema_decay``.

    Returns:
        The averaged model (its ``.module`` is the network), in evaluation mode.
    """

    def update(
        average: tuple[Tensor, ...] | list[Tensor], now: tuple[Tensor, ...] | list[Tensor], count: object
    ) -> None:
        if not average[0].is_floating_point():  # torch would truncate 0.1 * 9 + 0.9 * 9 = 8.99... to 8
            for mine, models in zip(average, now, strict=True):
                mine.copy_(models)
            return
        step = int(count)  # type: ignore[call-overload]  # a tensor: the number of updates before this one
        get_ema_multi_avg_fn(min(decay, 1 - (1 + WARM_UP) / (step + 1 + WARM_UP)))(average, now, count)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True).eval()
