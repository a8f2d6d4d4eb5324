"""Checkpoints: one file of tensors and plain types, written atomically, read weights-only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pdetr3d.data.storage.files import atomic_path
from pdetr3d.schema import DataError

FILE = "checkpoint.pt"


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    step: int,
    config_json: str,
    scaler: torch.amp.GradScaler | None = None,
    average: AveragedModel | None = None,
) -> Path:
    """Write ``folder/checkpoint.pt`` (folder is made): model, optimizer, scaler and average, finished steps, config."""
    state: dict[str, Any] = {"model": model.state_dict(), "step": step, "config": config_json}
    if optimizer is not None:
        state["optimizer"] = optimizer.state_dict()
    if scaler is not None and scaler.is_enabled():
        state["scaler"] = scaler.state_dict()
    if average is not None:
        state["average"] = average.state_dict()
    with atomic_path(folder / FILE) as temporary:
        torch.save(state, temporary)
    return folder / FILE


def load(file: Path) -> dict[str, Any]:
    """Read what ``save`` wrote, on the CPU.

    Raises:
        DataError: when the file is missing, truncated, or holds anything but tensors and plain types (a pickled object
            would run code: it is refused, never loaded).
    """
    state = read_weights_only(file, "checkpoint", "run the training job first")
    if not isinstance(state, dict) or not {"model", "step", "config"} <= state.keys():
        raise DataError(f"checkpoint {file} lacks the keys model, step, config: it was not written by pdetr3d")
    return state


def best_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """The weights that predict: the moving average's where ``load``'s state has one (``optim.ema_decay``)."""
    if "average" not in state:
        return state["model"]
    return {k.removeprefix("module."): v for k, v in state["average"].items() if k.startswith("module.")}


def read_weights_only(file: Path, what: str, remedy: str) -> Any:
    """What ``torch.save`` wrote of tensors and plain types, on the CPU.

    Raises:
        DataError: as ``load``; ``what`` names the file in the message, ``remedy`` says what to do when it is missing.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{what} {file} does not exist: {remedy}") from error
    except Exception as error:  # cut and foreign files: UnpicklingError, RuntimeError, EOFError, OSError, ...
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{what} {file} cannot be read as weights only: {reason}") from error
