"""Runs an exported student, TorchScript or ONNX, as a function from points to boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pdetr3d.config import Config
from pdetr3d.data.storage.files import sha256
from pdetr3d.finished.deploy import torchscript
from pdetr3d.finished.deploy.contract import INFO_FILE, refuse_no_ages
from pdetr3d.finished.deploy.maps import config_of, decode, read_info
from pdetr3d.finished.deploy.onnx_export import MODEL_FILE as ONNX_FILE
from pdetr3d.finished.deploy.onnx_export import OnnxRunner
from pdetr3d.schema import Boxes3D, DataError

MODEL_FILES = (torchscript.MODEL_FILE, ONNX_FILE)


@dataclass(frozen=True)
class ExportedDetector:
    """An exported student with post-processing: ``detector(points (P, 5))`` is a Boxes3D.

    Attributes:
        model: points -> (heatmaps, peak, regression), see ``contract.OUTPUTS``. config: of the student.
        device: that the model runs on.
    """

    model: Callable[[Tensor], Any]
    config: Config
    device: torch.device

    @staticmethod
    def load(folder: Path) -> ExportedDetector:
        """Load a folder that ``export_torchscript`` or ``export_onnx`` wrote.

        Raises:
            DataError: when a file is missing, has another format, or does not belong to its export.json; for an ONNX
                file without onnxruntime.
        """
        info = read_info(folder / INFO_FILE)
        file = folder / (ONNX_FILE if "opset" in info else torchscript.MODEL_FILE)
        if not file.is_file():
            raise DataError(f"{file} does not exist: pdetr3d export writes it")
        if sha256(file) != info["sha256"]:
            raise DataError(f"{file} is not the file that {INFO_FILE} describes: export it again")
        device = torch.device(info["device"])
        model = OnnxRunner(file) if file.name == ONNX_FILE else torchscript.read(file, device)
        return ExportedDetector(model, config_of(info), device)

    @torch.no_grad()
    def __call__(self, points: Tensor) -> Boxes3D:
        """Boxes of one sample in descending score, in the frame of its points.

        Args:
            points: (P, 5) float32 x, y, z [m], intensity [0..255], age [s].

        Raises:
            DataError: when the fifth column of the points cannot be ages.
        """
        try:
            refuse_no_ages(points)
        except ValueError as error:
            raise DataError(str(error)) from error
        return decode(self.config, *self.model(points.to(self.device)))
