"""Checks the repository: lock, pyproject.toml and installed packages agree, no machine's paths, cv2 without libGL."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_OURS = {".git", ".venv", "runs", "build", "dist", "shared", "__pycache__", "mlruns"}
TEXT = {".py", ".md", ".toml", ".txt", ".sh", ".yaml", ".yml", ".json", ".csv", ".cfg", ""}


def locked() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = [line.split("==") for line in lines]
    return {canonicalize_name(name): Version(version) for name, version in pins}


def direct() -> list[Requirement]:
    optional = PROJECT["optional-dependencies"]
    return [
        Requirement(text)
        for text in [*PROJECT["dependencies"], *(text for group in optional.values() for text in group)]
    ]


def tracked() -> list[Path]:
    """The text files under version control; without git (an unpacked archive), all files that may be."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = [ROOT / name for name in done.stdout.split("\0") if name] if done.returncode == 0 else ROOT.rglob("*")
    inside = [path for path in names if not NOT_OURS & set(path.relative_to(ROOT).parts)]
    return [path for path in inside if path.suffix in TEXT and path.is_file()]


@pytest.mark.parametrize("requirement", direct(), ids=str)
def test_the_lock_is_within_the_ranges(requirement: Requirement) -> None:
    version = locked().get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is not in constraints.txt: make install, make lock"
    assert version in requirement.specifier


def test_the_lock_names_no_local_build_and_no_place() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line), line


def test_what_is_installed_is_what_is_locked() -> None:
    """All direct and indirect dependencies are locked, so that an installation does not depend on its date."""
    pins, seen, wrong = locked(), set(), []
    waiting = [(requirement.name, extra) for requirement in direct() for extra in ("", *requirement.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        installed = importlib.metadata.version(name)
        pin = pins.get(canonicalize_name(name))
        if pin is None or pin.public != Version(installed).public:
            wrong.append(f"{name}: installed {installed}, locked {pin}")
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name, part) for part in ("", *needed.extras)]
    assert len(seen) > 100 and sorted(set(wrong)) == []


def test_no_machine_path_and_no_package_host_is_named() -> None:
    """A clone may be at any path, and pip may use any index."""
    # In pieces, so that this file does not contain the words that it searches.
    hosts = [
        "py" + "pi.org",
        "python" + "hosted.org",
        "download." + "pytorch.org",
        "ana" + "conda.org",
        "art" + "ifactory",
    ]
    paths = [r"(?<![\w.$}/-])/" + name + r"\b" for name in ("wo" + "rk", "ro" + "ot", "opt/py" + "pi", "tm" + "p")]
    pattern = re.compile("|".join([*map(re.escape, hosts), *paths]))
    found = []
    for path in tracked():
        if path.relative_to(ROOT).parts[0] == "cluster":
            continue  # it describes containers, whose paths are fixed
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    assert found == []


def test_no_real_data_and_nothing_large_is_tracked() -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    large = [str(path.relative_to(ROOT)) for path in files if path.is_file() and path.stat().st_size > 1_000_000]
    assert large == []
    assert [str(path) for path in files if path.name.endswith((".pcd.bin", ".pt", ".db"))] == []


def test_cv2_is_the_headless_build() -> None:
    """opencv-python brings Qt, which needs libGL: import cv2 would fail on servers (tools/install.sh sees to it)."""
    code = "import cv2; print(cv2.getBuildInformation())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert re.search(r"GUI:\s+NONE", done.stdout), "run tools/install.sh .venv (make install)"


def test_cv2_loads_no_libgl() -> None:
    """No libGL is among the libraries that a process has loaded after the import (Linux)."""
    code = "import cv2; print({line.split()[-1].rsplit('/')[-1] for line in open('/proc/self/maps') if '.so' in line})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "cv2.abi3.so" in done.stdout and not re.search(r"libGL|libQt|libX11", done.stdout)


def test_scripts_can_be_run_and_stop_at_errors() -> None:
    for path in (ROOT / ".ci" / "run", *(ROOT / "tools").glob("*.sh")):
        assert path.stat().st_mode & 0o111, f"{path.name} is not executable"
        assert "set -euo pipefail" in path.read_text(), path.name


def test_files_of_the_program_are_short() -> None:
    """A longer file has more than one purpose: split it."""
    files = [file for folder in ("pdetr3d", "ray_jobs", "tools") for file in (ROOT / folder).rglob("*.py")]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    assert len(lengths) > 300 and {name: n for name, n in lengths.items() if n >= 350} == {}
