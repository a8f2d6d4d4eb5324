"""Checks that pyproject.toml declares all imported packages, and that import-linter's contracts cover all our code."""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The absolute dotted names that a module imports anywhere, also only for types."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: relative import; write it out"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    """pdetr3d/models/norm.py -> models."""
    return path.relative_to(ROOT / "pdetr3d").with_suffix("").parts[0]


def test_every_part_of_the_package_has_a_layer() -> None:
    """import-linter does not check packages that no contract names, so a new package must be added."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {name.strip() for layer in contracts[0]["layers"] for name in layer.split("|")}
    packages = {path.parent for path in modules("pdetr3d") if path.name == "__init__.py"} - {ROOT / "pdetr3d"}
    parts = {*packages, *(ROOT / "pdetr3d").glob("*.py"), *(ROOT / "pdetr3d" / "data").glob("*.py")}
    of_parts = {ROOT / "pdetr3d" / name for name in ("data", "finished")}  # packages that contain several parts
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in parts - of_parts}
    assert {name for name in names if not name.endswith("__init__")} == layers


def test_a_wrong_import_is_found(tmp_path: Path) -> None:
    """The contracts of pyproject.toml, on a copy of the package in which a loss reads the index."""
    for folder in ("pdetr3d", "ray_jobs", "tune_spaces"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    wrong = tmp_path / "pdetr3d" / "losses" / "matching.py"
    wrong.write_text(f"{wrong.read_text()}\n\ndef f() -> None:\n    import pdetr3d.data.index.index\n")
    words = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(words, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pdetr3d.losses is not allowed to import pdetr3d.data" in done.stdout
    assert "Contracts: 9 kept, 1 broken." in done.stdout


@pytest.mark.parametrize("folder", ["pdetr3d", "ray_jobs", "tune_spaces"])
def test_what_is_imported_is_declared(folder: str) -> None:
    """An undeclared package that another one depends on may be missing with that one's next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]} | {"pdetr3d"}
    # These modules name the extra that they need before they import it.
    extras = {
        part: {canonicalize_name(Requirement(text).name) for text in project["optional-dependencies"][extra]}
        for part, extra in {"click": "click", "finished": "onnx"}.items()
    }
    owners = importlib.metadata.packages_distributions()
    undeclared = set()
    for path in modules(folder):
        for top in {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names):
            found = {canonicalize_name(name) for name in owners.get(top, [])}
            may = declared | (extras.get(part_of(path), set()) if folder == "pdetr3d" else set())
            if not found & may and top not in {"pdetr3d", "ray_jobs", "tune_spaces"}:
                undeclared.add(f"{path.relative_to(ROOT)}: {top}")
    assert sorted(undeclared) == []
