"""Tests of a search's Markdown table, on results of older code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdetr3d.finished.report.markdown import search_text
from pdetr3d.finished.report.search import Search
from pdetr3d.schema import DataError

OLDER = Path(__file__).resolve().parents[1] / "data" / "older_results"


def test_students_stand_in_the_order_of_the_space() -> None:
    """Mean and standard deviation equal those in the results document."""
    file = OLDER / "headline.json"
    mean, std = (json.loads(file.read_text())["summary"]["ours"]["mAP"][key] for key in ("mean", "std"))
    lines = search_text(Search.open(file), {"ours": "boxes and clicks"}).splitlines()
    names = [line.split(" | ")[0].removeprefix("| ") for line in lines[4:]]
    assert names[:2] == ["boxes only", "self-training"] and names[4:] == ["boxes and clicks", "boxes everywhere"]
    assert lines[8].startswith(f"| boxes and clicks | {mean:.3f} ± {std:.3f} | ") and lines[8].endswith("| reference |")


def test_floors_come_first_and_have_no_difference() -> None:
    lines = search_text(Search.open(OLDER / "initialization.json"), {}).splitlines()
    assert lines[4].startswith("| class-mean box at the click | 0.517 ± 0.003 | ") and lines[4].endswith("|  |")
    assert "0-10 m" in lines[2] and lines[6].startswith("| explicit-direct |")


def test_hours_of_a_continued_search_are_explained() -> None:
    search = Search.open(OLDER / "label_ratio.json")
    whole = search_text(search, {}).splitlines()[0]
    assert "hours of training. Figures" in whole
    search.document["sessions"] = 3
    remark = "in 3 parts: the commit is the last one's, a trial's hours are those of its own last part"
    told = f"hours of training ({remark}). Figures"
    assert search_text(search, {}).splitlines()[0] == whole.replace("hours of training. Figures", told)


def test_half_a_search_makes_no_table() -> None:
    search = Search.open(OLDER / "label_ratio.json")
    search.trials[0]["status"] = "failed"
    with pytest.raises(DataError, match="are not finished: run the search's command again"):
        search_text(search, {})
