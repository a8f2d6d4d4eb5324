"""docs/datasets.md: its commands run as they stand, one after another, on small folders in the foreign formats."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pdetr3d.cli import main
from pdetr3d.data.index import Index
from pdetr3d.evaluation.results_format import nuscenes_boxes, write_results
from pdetr3d.importers.kitti import CLASSES
from tests.contract.test_docs import commands
from tests.reference import tiny_kitti
from tests.unit.test_import_frames import write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"
SHOWN = [words for words in commands(PAGE.read_text()) if words[:1] == ["pdetr3d"] and len(words) > 3]


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    walker = "Pedestrian 0.00 1 0.2 200 40 210 70 1.80 0.60 0.80 3.00 1.60 12.00 0.30"
    tiny_kitti.write(tmp_path / "kitti", {f"{number:06d}": [tiny_kitti.CAR, walker] for number in range(5)})
    write(tmp_path / "mine")
    assert [words[1] for words in SHOWN] == ["import", "index", "inspect", "label", "kitti-score", "import", "index"]
    for words in SHOWN:
        if words[1] == "kitti-score":
            plant_results(words)
        assert main(words[1:]) == 0, shlex.join(words)


def plant_results(words: list[str]) -> None:
    """The file of boxes that the page scores: no command of the page makes one."""
    index = Index.open(Path(words[words.index("--index") + 1]))
    records = [index.record(token) for token in index.tokens(words[words.index("--split") + 1])]
    boxes = {r.sample_token: index.annotations(r.sample_token).boxes() for r in records}
    rows = {
        r.sample_token: nuscenes_boxes(r.sample_token, boxes[r.sample_token], (r.lidar2ego, r.ego2global))
        for r in records
    }
    write_results(Path(words[2]), rows)


def test_the_table_of_classes_is_the_importer_s() -> None:
    rows = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    named = {
        kind: cell.split()[0] for kinds, cell in (row for row in rows if len(row) == 2) for kind in kinds.split(", ")
    }
    expected = {kind: target or "no" for kind, target in CLASSES.targets.items() if kind != "DontCare"}
    assert {kind: named.get(kind, "").rstrip(":") for kind in expected} == expected
