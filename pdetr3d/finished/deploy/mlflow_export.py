"""Writes the student as an MLflow model: code, weights (a checkpoint of tensors, no pickled objects), requirements."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import pdetr3d
from pdetr3d.data.storage.files import new_folder
from pdetr3d.finished.deploy import mlflow_model
from pdetr3d.finished.deploy.source import TrainedStudent
from pdetr3d.training import checkpoint

# The packages that prediction imports: neither Ray nor the devkit.
REQUIREMENTS = """
mlflow torch numpy scipy shapely pandas pyarrow pydantic omegaconf pyyaml pyquaternion pillow simplejpeg
opencv-python-headless
""".split()


def export_mlflow(trained: TrainedStudent, out: Path) -> dict[str, Any]:
    """Write the folder ``out`` for ``mlflow.pyfunc.load_model`` and ``mlflow models serve``; returns its metadata.

    The folder contains a copy of the package: loading needs the requirements, but not this installation.

    Raises:
        DataError: when ``out`` exists.
    """
    import mlflow.pyfunc

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # MLflow warns of the missing signature: see mlflow_model.py
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    metadata = {
        "checkpoint": trained.file.name,
        "classes": list(trained.config.classes.names),
        "config": json.loads(trained.config.to_json()),
    }
    with new_folder(out) as folder, tempfile.TemporaryDirectory() as weights:
        file = checkpoint.save(Path(weights), trained.model, None, 0, trained.config.to_json())
        mlflow.pyfunc.save_model(
            folder,
            python_model=mlflow_model.__file__,
            artifacts={mlflow_model.ARTIFACT: str(file)},
            code_paths=[str(Path(pdetr3d.__file__).parent)],
            pip_requirements=[f"{name}=={_public_version(name)}" for name in REQUIREMENTS],
            metadata=metadata,
        )
    return metadata


def _public_version(name: str) -> str:
    """The installed version without its build: 2.13.0 for 2.13.0+cpu, since another machine may need another build."""
    return importlib.metadata.version(name).split("+")[0]
