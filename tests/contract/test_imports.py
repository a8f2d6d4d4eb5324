"""Checks that processes do not import heavy modules that they do not need: workers, --help, messages about configs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pdetr3d.cli.app import PRESET_NAMES
from pdetr3d.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
# Importing one takes 20 ms (PIL) to 2 s (the devkit, with scikit-learn and Matplotlib).
HEAVY = (
    "IPython cv2 jinja2 matplotlib mlflow mmcv mmengine nuscenes omegaconf optuna pandas PIL pyarrow pydantic ray rich "
    "scipy shapely sklearn sympy torch torch._dynamo torch.distributed.tensor torch.onnx"
).split()
RAY_DATA = {"pandas", "pyarrow", "pydantic", "ray"}  # Ray Data imports these
# Code that a process runs -> the heavy modules that it may import.
ENTRIES = {
    "import pdetr3d; assert 'load_sample' in dir(pdetr3d)": set(),
    # Commands: their help, and errors in their arguments.
    "from pdetr3d.exits import guarded": set(),
    "from ray_jobs.commands import main; main(['--help'])": {"rich"},
    "from ray_jobs.commands import main; main(['index', '--help'])": {"pydantic", "rich"},
    "from ray_jobs.commands import main; main(['search', '--help'])": {"pydantic", "rich"},
    "from pdetr3d.presets import load": {"pydantic"},
    "from pdetr3d.presets import load; load('quickstart', ['optim.lr=0.1'])": {"omegaconf", "pydantic"},
    # Processes that Ray starts in large numbers: training workers, loading tasks, prediction actors.
    "import ray_jobs.plug.fit, ray_jobs.plug.inference": RAY_DATA | {"torch"},
    "import ray_jobs.plug.stream; import pdetr3d.training.plan": RAY_DATA,
    # The driver until it has read its config.
    "import ray_jobs.pipeline": RAY_DATA | {"rich", "torch"},
}


@pytest.mark.parametrize("code", ENTRIES)
def test_light_entry_points_import_nothing_heavy(code: str) -> None:
    listing = f"import sys; print('loaded:', *[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{listing}"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=True,
    )
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert loaded - ENTRIES[code] == set(), f"{code}: import these where they are called"
    assert ENTRIES[code] - loaded == set(), "no longer imported there: take them out of ENTRIES"


def test_help_names_every_preset() -> None:
    assert tuple(PRESETS) == PRESET_NAMES
