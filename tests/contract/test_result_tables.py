"""Checks that the tables in documents are exactly those that tools/result_tables.py makes from results/*.json."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "result_tables.py"))


@pytest.mark.parametrize("path", sorted(set(TOOL["DOCUMENTS"].values())), ids=lambda path: path.name)
def test_a_document_says_what_the_json_says(path: Path) -> None:
    assert path.read_text() == TOOL["documents"]()[path], "run python tools/result_tables.py"


def test_a_score_that_somebody_types_is_seen() -> None:
    full = json.loads((ROOT / "results" / "quickstart.json").read_text())["arms"]["full"]
    row = f"| (c) boxes everywhere | {full['mAP']:.3f} | {full['NDS']:.3f} | {full['SPNDS']:.3f} |"
    assert row in (ROOT / "README.md").read_text()


def test_a_document_without_its_marks_is_refused() -> None:
    assert TOOL["put"]("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n", "x", "new") == (
        "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"
    )
    with pytest.raises(SystemExit, match="0 pairs of marks named x"):
        TOOL["put"]("nothing\n", "x", "new")


def test_imported_clicks_train_the_quickstarts_students() -> None:
    """docs/results.md says so: the tutorial's clicks are the quickstart's, given as people's."""
    arms = [json.loads((ROOT / "results" / f"{name}.json").read_text()) for name in ("quickstart", "your-data")]
    quickstart, tutorial = arms[0]["arms"], arms[1]["report"]["arms"]
    for arm in ("boxes_only", "ours"):
        assert {score: tutorial[arm][score] for score in TOOL["SCORES"]} == {
            score: quickstart[arm][score] for score in TOOL["SCORES"]
        }
