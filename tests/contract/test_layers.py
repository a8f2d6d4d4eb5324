"""Who may import whom (design section 2), read from the source: one way only; Ray and mlflow where they belong."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]

# Part of pdetr3d -> the parts it may import. A new part must be added here on purpose.
CORE = {"errors", "class_list", "schema", "geometry", "config", "batch"}
DATA = {f"data.{name}" for name in "draws storage index labels loading augmentation label_manifest".split()}
FINISHED = {f"finished.{name}" for name in "capacity deploy doctor labels report".split()}
TRAINED = {"models", "losses", "evaluation", "pseudo_labels", "visualize", "training", "tracking", "tables"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "geometry": set(),
    "schema": {"errors", "geometry"},
    "class_list": {"schema"},
    "exits": {"errors"},
    "config_sections": {"class_list", "schema"},
    "config_models": {"config_sections"},
    "config": {"class_list", "schema", "config_sections", "config_models"},
    "config_keys": {"config", "config_sections"},
    "presets": {"schema", "config", "config_models"},
    "config_file": {"schema", "config", "config_keys", "presets"},
    "batch": {"schema", "geometry"},
    "tables": {"class_list", "schema"},
    # Data: each room imports those above it.
    "data.draws": set(),
    "data.storage": CORE,
    "data.index": CORE | {"tables", "data.storage"},
    "data.labels": CORE | {"data.draws", "data.storage", "data.index"},
    "data.loading": CORE | {"data.draws", "data.storage", "data.index", "data.labels"},
    "data.augmentation": CORE | {"data.draws", "data.storage", "data.labels", "data.loading"},
    "data.label_manifest": {"data.labels", "data.loading"},
    "simulator": CORE | {"tables", "data.storage"},
    "models": CORE,
    "losses": CORE,
    "evaluation": CORE | {"tables", "data.storage"},
    "tracking": CORE,
    "pseudo_labels": CORE,
    "visualize": CORE | DATA | {"pseudo_labels"},
    "training": CORE | DATA | {"tables", "models", "losses", "evaluation", "pseudo_labels", "simulator"},
    # What the core never imports: it serves people.
    "finished.labels": CORE | DATA | {"tables", "evaluation", "pseudo_labels", "visualize"},
    "finished.deploy": CORE | DATA | {"models", "training"},
    "finished.report": CORE | DATA | {"evaluation", "finished.labels", "presets", "pseudo_labels", "tracking"},
    "finished.capacity": CORE | DATA | {"training", "config_sections"},
    "finished.doctor": CORE | DATA | {"evaluation", "pseudo_labels", "tracking"},
    "inference": CORE | DATA | {"models", "training", "finished.deploy", "evaluation", "pseudo_labels"},
    "click": CORE | DATA | {"visualize"},
    "importers": CORE | DATA | {"tables", "inference", "models", "training"},
    "api": CORE | DATA | {"finished.deploy", "inference", "visualize", "config_file", "presets"},
    "cli": CORE
    | DATA
    | TRAINED
    | FINISHED
    | {"api", "click", "config_file", "exits", "importers", "inference", "presets", "simulator"},
}
ROOMS = ("data", "finished")  # packages of packages
# Which distribution packages only some parts may import.
ONLY_IN = {
    "ray": set(),
    "mlflow": {"tracking", "finished.deploy"},
    "typer": {"cli"},
    "viser": {"click"},
    "onnxruntime": {"finished.deploy"},
}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Absolute dotted names a module imports, wherever in the file, type-only ones included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: relative import; write it out"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(dotted: str) -> str:
    """pdetr3d.models.norm -> models, but pdetr3d.data.index.nuscenes -> data.index: rooms have rules of their own."""
    parts = dotted.split(".")[1:]
    return ".".join(parts[: 2 if parts[0] in ROOMS else 1])


def part_of(path: Path) -> str:
    return part(".".join(path.relative_to(ROOT).with_suffix("").parts))


@pytest.mark.parametrize("path", modules("pdetr3d"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    own = part_of(path)
    if own.endswith("__init__") and own != "__init__":  # of data and finished: a sentence, no code
        assert list(imports(path)) == []
        return
    if own == "__init__":  # what it loads when it is imported: tests/contract/test_imports.py
        assert {name.rpartition(".")[0] for name in imports(path)} <= {
            "__future__",
            "typing",
            "importlib",
            "pdetr3d.api",
        }
        return
    assert own in ALLOWED, f"{own} is a new part of pdetr3d: say in ALLOWED what it may import"
    for name in imports(path):
        top = name.split(".")[0]
        if name.startswith("pdetr3d."):
            assert part(name) in ALLOWED[own] | {own}, f"{path.relative_to(ROOT)} imports {name}: {own} may not"
        assert own in ONLY_IN.get(top, {own}), (
            f"{path.relative_to(ROOT)} imports {top}: allowed in {ONLY_IN[top] or 'none'}"
        )
        assert top not in {"ray_jobs", "tests", "tune_spaces"}, (
            f"{path.relative_to(ROOT)} imports {name}: the core may not"
        )


def test_the_rule_sees_a_wrong_import(tmp_path: Path) -> None:
    """The helper reads every form of import, also inside functions."""
    source = tmp_path / "module.py"
    source.write_text(
        "import ray.data\nfrom pdetr3d import losses\ndef f():\n    from pdetr3d.models.norm import a, b\n"
    )
    assert set(imports(source)) == {"ray.data", "pdetr3d.losses", "pdetr3d.models.norm.a", "pdetr3d.models.norm.b"}
    assert part("pdetr3d.losses") == "losses"


@pytest.mark.parametrize("path", modules("ray_jobs"), ids=lambda path: str(path.relative_to(ROOT)))
def test_jobs_import_no_tests_and_no_cli(path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[0] != "tests" and not name.startswith("pdetr3d.cli"), f"{path.relative_to(ROOT)}: {name}"


@pytest.mark.parametrize("folder", ["pdetr3d", "ray_jobs", "tune_spaces"])
def test_what_is_imported_is_declared(folder: str) -> None:
    """A package that only comes along with another one may be gone with that one's next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]} | {"pdetr3d"}
    # These say which extra they need before they import it.
    extras = {
        part: {canonicalize_name(Requirement(text).name) for text in project["optional-dependencies"][extra]}
        for part, extra in {"click": "click", "finished.deploy": "onnx"}.items()
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
