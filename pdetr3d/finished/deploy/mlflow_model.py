"""The student as an MLflow model ("models from code"): MLflow runs a copy of this file; the weights come beside it.

``predict`` takes a DataFrame with one row per sample, a list of such rows, or one of them as a dict: ``points`` or
``sweeps`` (see ``sweeps.py``), optionally ``sample``, a name that comes back with its boxes. It has no MLflow
signature: enforcing one turns a cloud's numbers into Python objects, one by one; ``to_sample`` checks them as an array.
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
    """Sweeps -> boxes. Samples are predicted one by one, on the GPU where there is one."""

    def load_context(self, context: Any) -> None:
        """Read the checkpoint, weights only."""
        self.trained = TrainedStudent.load(Path(context.artifacts[ARTIFACT]))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.trained.model.to(self.device)
        self.decoder = CenterDecoder(self.trained.config)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row of ``box_rows.COLUMNS`` per box, by sample and falling score; a sample without boxes has no row.

        Frame: the keyframe's LIDAR_TOP; meters, radians (yaw counter-clockwise about z from +x), m/s.

        Raises:
            DataError: naming the sample and what is wrong with it.
        """
        rows = [self._boxes(row, str(row.get("sample", place))) for place, row in enumerate(records(model_input))]
        return join_frames(rows)

    @torch.no_grad()
    def _boxes(self, row: Mapping[str, Any], name: str) -> pd.DataFrame:
        sample = to_sample(row, name, self.trained.config.data)
        batch = Batch.from_arrays(collate([sample])).to(self.device)
        return to_frame(self.decoder(self.trained.model(batch).tasks)[0], name, self.trained.config.classes)


def records(model_input: Any) -> list[dict[str, Any]]:
    """The samples of a request as dicts; columns of a DataFrame that a row leaves empty are left out."""
    if isinstance(model_input, pd.DataFrame):
        model_input = model_input.to_dict("records")
    rows = [model_input] if isinstance(model_input, Mapping) else list(model_input)
    return [{key: value for key, value in row.items() if not _missing(value)} for row in rows]


def _missing(value: Any) -> bool:
    return value is None or isinstance(value, float) and value != value


set_model(StudentModel())
