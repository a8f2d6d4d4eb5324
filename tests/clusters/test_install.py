"""Installs the project by pip into a clean environment and runs it away from its sources (1 GB, several minutes)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_clean_environment_has_all_it_needs(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python, away = tmp_path / "venv" / "bin" / "python", tmp_path / "away"
    away.mkdir()
    bare = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(*command: object) -> str:
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=away, env=bare, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    pip = (python, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--constraint", ROOT / "constraints.txt", ROOT)
    run(*pip, "check")
    pdetr3d = python.with_name("pdetr3d")
    assert run(pdetr3d, "--version").startswith("pdetr3d ")
    assert "\npreset: nuscenes-voxel\n" in run(pdetr3d, "show-config", "--preset", "nuscenes-voxel")
    small = ("sim.scenes=2", "sim.select_scenes=1", "sim.val_scenes=1")
    run(pdetr3d, "simulate", "--dataroot", away / "world", *small)
    run(pdetr3d, "index", "--dataroot", away / "world", "--version", "v1.0-sim")
    spaces = "from ray_jobs.searches.space_files import load_space, names; print(len([*map(load_space, names())]))"
    assert int(run(python, "-c", spaces)) == len(list((ROOT / "tune_spaces").glob("*.yaml")))
    page = "from pathlib import Path; from pdetr3d.finished import report; print(Path(report.__file__).parent)"
    template = Path(run(python, "-c", page).strip()) / "template.html"
    assert template.is_relative_to(tmp_path) and template.is_file()
