"""Checks that no file which the project reads can execute code, beyond ruff's rules S and its banned functions.

The rules of ruff are in pyproject.toml.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [file for folder in ("pdetr3d", "ray_jobs", "cluster", "tools") for file in (ROOT / folder).rglob("*.py")]
# Arguments with which torch, NumPy, Ray and MLflow unpickle files. Since 2.6 torch.load does not do so without them.
WORDS = (
    "weights_only=False",
    "allow_pickle=True",
    "AUTOLOAD_CLOUDPICKLE",
    "TORCH_FORCE_NO_WEIGHTS_ONLY",
    "MLFLOW_ALLOW_PICKLE",
)


def test_nothing_lets_a_library_unpickle() -> None:
    assert len(SOURCES) > 100
    texts = {str(file.relative_to(ROOT)): file.read_text() for file in SOURCES}
    assert [(name, word) for name, text in texts.items() for word in WORDS if word in text] == []


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("S301", "import pickle; pickle.loads(text)"),
        ("S301", "import pandas as pd; pd.read_pickle(file)"),
        ("S302", "import marshal; marshal.loads(text)"),
        ("S202", "import tarfile; tarfile.open(file).extractall(folder)"),
        ("S307", "eval(text)"),
        ("S102", "exec(text)"),
        ("S506", "import yaml; yaml.load(file, Loader=yaml.Loader)"),
        ("S602", "import subprocess; subprocess.run(word, shell=True)"),
        ("S605", "import os; os.system(word)"),
        ("TID251", "import cloudpickle"),
        ("TID251", "import joblib"),
        ("TID251", "import tarfile"),
        ("TID251", "import shutil; shutil.unpack_archive(file)"),
        ("TID251", "import torch; torch.hub.load(name)"),
    ],
)
def test_ruff_finds_each_such_way(rule: str, line: str) -> None:
    words = ["check", "--output-format", "concise", "--stdin-filename", "pdetr3d/module.py", "-"]
    command = [sys.executable, "-m", "ruff", *words]
    done = subprocess.run(command, input=f"{line}\n", cwd=ROOT, capture_output=True, text=True)
    assert f" {rule} " in done.stdout


def test_safe_ways_are_fine() -> None:
    line = "import pickle, torch, yaml, zipfile; pickle.dumps(a); torch.load(f, weights_only=True); yaml.safe_load(f)"
    words = ["check", "--select", "S,TID251", "--stdin-filename", "pdetr3d/module.py", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *words], input=f"{line}\n", cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
