"""docs/datasets.md agrees with the importers. tests/e2e/test_commands.py runs the page's commands."""

from __future__ import annotations

from pathlib import Path

from pdetr3d.importers.kitti import CLASSES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"


def test_the_table_of_classes_is_the_importer_s() -> None:
    rows = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    pairs = [(kind, row[1]) for row in rows if len(row) == 2 for kind in row[0].split(", ")]
    named = {kind: cell.split()[0].rstrip(":") for kind, cell in pairs}
    expected = {kind: target or "no" for kind, target in CLASSES.targets.items() if kind != "DontCare"}
    assert {kind: named.get(kind) for kind in expected} == expected
