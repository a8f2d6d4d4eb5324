"""Moving average of a model's weights and buffers over the training steps: torch's ``AveragedModel``, warmed up."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

WARM_UP = 9.0  # w below: the average reaches over about a tenth of the steps so far, until ``decay`` is reached


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The moving average (``.module``) of a model, in evaluation mode; ``update_parameters(model)`` after each step.

    It equals the model until the first step and after it. Step s = 1, 2, ... after that one gives
    ``average = d * average + (1 - d) * model``, d = min(decay, 1 - (1 + w) / (s + 1 + w)) (method.md 5.2): a constant d
    of 0.999 would hold the first weights of a short training to its end. Whole-number buffers are copied.

    Args:
        decay: in (0, 1), ``optim.ema_decay``.
    """

    def update(
        average: tuple[Tensor, ...] | list[Tensor], now: tuple[Tensor, ...] | list[Tensor], count: object
    ) -> None:
        if not average[0].is_floating_point():  # torch would cut 0.1 * 9 + 0.9 * 9 = 8.99... to 8
            for mine, models in zip(average, now, strict=True):
                mine.copy_(models)
            return
        step = int(count)  # type: ignore[call-overload]  # a tensor: of the steps before this one
        get_ema_multi_avg_fn(min(decay, 1 - (1 + WARM_UP) / (step + 1 + WARM_UP)))(average, now, count)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True).eval()
