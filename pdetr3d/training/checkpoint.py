"""Writes and reads checkpoints: one file of tensors and plain types, written atomically, read weights-only."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pdetr3d.config import Config
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
    """Write ``folder/checkpoint.pt`` atomically; the folder is created.

    Args:
        model: its state dict is stored as "model".
        optimizer: stored as "optimizer" unless None.
        step: number of finished steps.
        config_json: the run's config as JSON text.
        scaler: stored as "scaler" when it is enabled (fp16).
        average: the moving average of the weights, stored as "average" unless None.

    Returns:
        The file.
    """
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
    """Read a file that ``save`` wrote; its tensors are on the CPU.

    Returns:
        The keys "model", "step", "config" and, where ``save`` stored them, "optimizer", "scaler", "average".

    Raises:
        DataError: when the file is missing, truncated, or holds anything but tensors and plain types. A pickled object
            could run code, so it is never loaded.
    """
    state = read_weights_only(file, "checkpoint", "run the training job first")
    if not isinstance(state, dict) or not {"model", "step", "config"} <= state.keys():
        raise DataError(f"checkpoint {file} lacks the keys model, step, config: it was not written by pdetr3d")
    return state


def config_of(state: dict[str, Any], file: Path) -> Config:
    """The config in a checkpoint. Args: state: from ``load`` of ``file``.

    Raises:
        DataError: when other code wrote it, whose keys or values this version does not know.
    """
    try:
        return Config.from_json(state["config"])
    except DataError as error:
        raise DataError(f"checkpoint {file}: {error}") from error


def best_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """The weights to predict with: the moving average's (``optim.ema_decay``) if ``state`` has one, else the model's.

    Args:
        state: from ``load``.
    """
    if "average" not in state:
        return state["model"]
    return {k.removeprefix("module."): v for k, v in state["average"].items() if k.startswith("module.")}


def read_weights_only(file: Path, what: str, remedy: str) -> Any:
    """Read a ``torch.save`` file that holds only tensors and plain types; the tensors are on the CPU.

    Args:
        what: the kind of file, for messages. remedy: advice for the case that the file is missing.

    Raises:
        DataError: as ``load``.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{what} {file} does not exist: {remedy}") from error
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, OSError, ... of truncated and foreign files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{what} {file} cannot be read as weights only: {_cut(file) or reason}") from error


def _cut(file: Path) -> str:
    """That a ``torch.save`` file was cut, in words; "" where it is whole, or of another kind.

    It is a zip archive, whose list of entries is at its end.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(4) != b"PK\x03\x04" or zipfile.is_zipfile(file):
                return ""
        return f"its end is missing (it has {file.stat().st_size} bytes); copy it again, or name another one"
    except OSError:
        return ""
