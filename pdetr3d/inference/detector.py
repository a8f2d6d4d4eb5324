"""Loads a trained model that turns batches into boxes; Ray's actors, the command line and the click page use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdetr3d.batch import Batch
from pdetr3d.config import Config
from pdetr3d.schema import Boxes3D, DataError
from pdetr3d.training import checkpoint
from pdetr3d.training.build import Task, build


@dataclass(frozen=True)
class Detector:
    """A model for inference: ``detector(batch)`` is one Boxes3D per sample, in the frame of the batch's points.

    Attributes:
        kind: "teacher" (row k answers click k) or "student" (boxes in descending score).
        config: that of the model's training.
        task: its model is in evaluation mode on ``device``.
        device: where the model is.
    """

    kind: str
    config: Config
    task: Task
    device: torch.device

    @staticmethod
    def of(
        kind: str,
        config: Config,
        weights: Mapping[str, Tensor],
        device: torch.device,
        prior_size_m: NDArray[np.floating] | None = None,
    ) -> Detector:
        """Build a model with the given weights.

        Args:
            kind: "teacher" or "student". weights: the model's state dict. device: for the model.
            prior_size_m: (C, 3) mean l, w, h of each class. The weights of a teacher contain its class sizes, so that
                any values will do; default: typical sizes.

        Raises:
            RuntimeError: when the weights do not fit the model.
        """
        prior_size_m = config.classes.fallback_size_m if prior_size_m is None else prior_size_m
        task = build(kind, config, prior_size_m, guidance=False)
        task.model.load_state_dict(weights)
        task.model.to(device).eval()
        return Detector(kind, config, task, device)

    @staticmethod
    def load(kind: str, file: Path, device: torch.device) -> Detector:
        """Load the model of a checkpoint file, weights-only.

        Raises:
            DataError: when the file is no checkpoint, holds another kind of model, or was written by other code.
        """
        state = checkpoint.load(file)
        try:
            return Detector.of(kind, checkpoint.config_of(state, file), checkpoint.best_weights(state), device)
        except RuntimeError as error:
            folder = "teacher" if kind == "teacher" else "student_ours"
            raise DataError(
                f"checkpoint {file} does not hold a {kind}, or another version wrote it: name the run directory, or a "
                f"{kind}'s file, RUN_DIR/{folder}/step_....pt"
            ) from error

    @torch.no_grad()
    def __call__(self, batch: Batch) -> list[Boxes3D]:
        """Boxes of every sample of the batch, in order."""
        batch = batch.to(self.device)
        return self.task.predict(self.task.model(batch), batch)


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
