"""Serves the student as an MLflow model ("models from code"): MLflow runs a copy of this file beside the weights.

``predict`` takes a DataFrame with one row per sample, a list of such rows, or a single row as a dict. A row has
``points`` or ``sweeps`` (see ``sweeps.py``) and optionally ``sample``, a name that is returned with its boxes. The
model has no MLflow signature, because MLflow would enforce it by converting every number of a cloud to a Python object;
``to_sample`` checks the cloud as an array instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from pdetr3d.batch import Batch
from pdetr3d.data.loading.collate import collate
from pdetr3d.finished.deploy.box_rows import join_frames, to_frame
from pdetr3d.finished.deploy.source import TrainedStudent
from pdetr3d.finished.deploy.sweeps import to_sample
from pdetr3d.models.student import CenterDecoder

ARTIFACT = "checkpoint"


class StudentModel(PythonModel):
    """Predicts boxes from points or sweeps, sample by sample, on the GPU if there is one."""

    def load_context(self, context: Any) -> None:
        """Load the checkpoint, weights-only; MLflow calls this once."""
        self.trained = TrainedStudent.load(Path(context.artifacts[ARTIFACT]))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.trained.model.to(self.device)
        self.decoder = CenterDecoder(self.trained.config)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict the samples of a request.

        Returns:
            One row of ``box_rows.COLUMNS`` per box, by sample and descending score, in the keyframe's LIDAR_TOP frame;
            m, rad (yaw counter-clockwise about z from +x), m/s. A sample without boxes has no row.

        Raises:
            DataError: names the sample and its fault.
        """
        rows = [self._boxes(row, str(row.get("sample", place))) for place, row in enumerate(records(model_input))]
        return join_frames(rows)

    @torch.no_grad()
    def _boxes(self, row: Mapping[str, Any], name: str) -> pd.DataFrame:
        sample = to_sample(row, name, self.trained.config.data)
        batch = Batch.from_arrays(collate([sample])).to(self.device)
        return to_frame(self.decoder(self.trained.model(batch).tasks)[0], name, self.trained.config.classes)


def records(model_input: Any) -> list[dict[str, Any]]:
    """The samples of a request as dicts, without the keys whose value is empty (None, NaN)."""
    if isinstance(model_input, pd.DataFrame):
        model_input = model_input.to_dict("records")
    rows = [model_input] if isinstance(model_input, Mapping) else list(model_input)
    return [{key: value for key, value in row.items() if not _missing(value)} for row in rows]


def _missing(value: Any) -> bool:
    return value is None or isinstance(value, float) and value != value


set_model(StudentModel())
