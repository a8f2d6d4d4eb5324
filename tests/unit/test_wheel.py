"""Tests of the wheel: it contains all files of the packages and the license, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pdetr3d", "ray_jobs", "tune_spaces")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that ``pip install .`` builds, from a copy of the sources, without downloads."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=folder / "source", check=True, capture_output=True, timeout=120)
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def test_it_holds_the_packages_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = {path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    ours = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    info = f"pdetr3d-{PROJECT['version']}.dist-info"
    assert {name for name in wheel.namelist() if not name.startswith(info)} == ours
    assert {"pdetr3d/finished/report/template.html", "tune_spaces/label_ratio.yaml", "pdetr3d/presets.py"} <= ours
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "pdetr3d = ray_jobs.commands:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_one_version_and_license_everywhere() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    said = subprocess.run(
        [sys.executable, "-m", "ray_jobs.commands", "--version"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert said.stdout == f"pdetr3d {PROJECT['version']}\n"
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert PROJECT["version"] in headings[0]


def test_the_license_is_the_whole_apache_license() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.splitlines()[1].strip() == "Apache License" and "END OF TERMS AND CONDITIONS" in text
    assert all(f"\n   {number}. " in text for number in range(1, 10))
