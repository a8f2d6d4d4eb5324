"""Tests of ``make results``: current results stay, interrupted ones continue, times are of the last measurement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pdetr3d.training.stage_versions import code_version
from tools import make_results
from tools.measurements import Measurement, measurements

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program with its results and runs in ``tmp_path``."""
    monkeypatch.setattr(make_results, "ROOT", tmp_path)
    monkeypatch.setattr(make_results, "RUNS", tmp_path / "runs")
    (tmp_path / "results").mkdir()
    return make_results


def write(tool: ModuleType, name: str, seconds: float, code: str, seeds: tuple[int, ...] = ()) -> None:
    found = {"seconds": {"train": seconds}, "code": code} | ({"seeds": seeds} if seeds else {})
    (tool.ROOT / "results" / f"{name}.json").write_text(json.dumps(found))


def test_what_is_due(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_DATA", "/data")
    monkeypatch.delenv("NO_DATA", raising=False)
    commands = (("-c", "pass"),)
    current, old, slow, missing, data, no_data = (
        Measurement(name, commands, (), name, needs)
        for name, needs in [("a", ""), ("b", ""), ("c", ""), ("d", ""), ("e", "SOME_DATA"), ("f", "NO_DATA")]
    )
    everything = [current, old, slow, missing, data, no_data]
    write(tool, "a", 60, code_version())
    write(tool, "b", 1000, "teacher 1")
    write(tool, "c", 3000, "teacher 1")
    write(tool, "e", 60, "teacher 1")
    assert tool.due(everything, quick=False) == ([old, slow, missing, data], [])
    assert tool.due(everything, quick=True) == ([data, old], [slow, missing])  # 60 s + 1000 s + 3000 s > 1 h
    assert tool.said(slow) == "c               of other code, takes 50 minutes"
    assert tool.announced([old, slow], []) == "to measure: b, c; 1.1 hours by the last time"  # 1000 s + 3000 s
    assert tool.announced([slow, missing], []) == "to measure: c, d; 0.8 hours by the last time, without d"
    assert tool.announced([old], [slow, missing]) == (
        "to measure: b; 0.3 hours by the last time\nleft out, since an hour is not enough or the time is unknown: c, d"
    )
    assert tool.said(missing) == "d               missing, time unknown"
    assert tool.said(no_data) == "f               missing, time unknown; left out: NO_DATA is not set"


def test_a_quick_search_trains_one_seed_and_is_due_again_without_quick(tool: ModuleType) -> None:
    quick, whole = (Measurement("a", (("x",),), (), "x", seeds=seeds) for seeds in (1, 3))
    write(tool, "a", 5400, "teacher 1", seeds=(0, 1, 2))
    assert tool.state(whole) == ("of other code", 5400) and tool.state(quick) == ("of other code", 1800)
    assert tool.due([quick], quick=True) == ([quick], [])
    write(tool, "a", 1800, code_version(), seeds=(0,))
    assert tool.state(quick) == ("current", 1800)
    assert tool.state(whole) == ("of fewer seeds", 5400)
    write(tool, "a", 5400, code_version(), seeds=(0, 1, 2))
    assert tool.state(quick)[0] == tool.state(whole)[0] == "current"


def test_quick_searches_have_folders_of_their_own_and_say_their_seed() -> None:
    for one, quick in zip(measurements(), measurements(quick=True), strict=True):
        if one.seeds != 3:
            assert one == quick
            continue
        assert "--seeds" not in one.commands[-1]
        at = quick.commands[-1].index("--seeds")
        assert quick.commands[-1][at + 1] == "0" and "--seeds 0" in quick.shown
        places = [
            (words[words.index("--run-dir") + 1], tables[-1])
            for words, tables in ((one.commands[-1], one.tables), (quick.commands[-1], quick.tables))
        ]
        assert places[0][0] != places[1][0]
        assert [table == f"{run_dir}/search.json" for run_dir, table in places] == [True, True]


def test_an_ended_measurement_goes_on_with_the_command_that_failed(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_DATA", "/data")
    result = Measurement("a", (("one", "$SOME_DATA/x"), ("two",)), ("quickstart", "RUN"), "make quickstart")
    ran: list[list[str]] = []
    failing = ["two"]

    def run(words: list[str]) -> None:
        ran.append(words)
        if words == failing:
            failing.clear()
            raise subprocess.CalledProcessError(1, words)

    with pytest.raises(subprocess.CalledProcessError):
        tool.make(result, run)
    assert ran == [["one", "/data/x"], ["two"]]
    tool.make(result, run)
    assert ran[2:] == [["two"], ["tools/result_tables.py", "quickstart", "RUN"]]
    (tool.RUNS / "a.done").write_text("other code\n0\n1")  # it was begun with other stage versions, so it begins again
    ran.clear()
    tool.make(result, run)
    assert ran[:2] == [["one", "/data/x"], ["two"]]


def test_the_list_names_every_result() -> None:
    words = [sys.executable, "tools/make_results.py", "--list"]
    shown = subprocess.run(words, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert [
        line.split()[0] for line in shown.stdout.splitlines() if not line.startswith(("to measure", "left out"))
    ] == [
        "quickstart",
        "kitti-small",
        "chaos",
        "your-data",
        "transfer",
        "kitti-clicks",
        "kitti-students",
        "headline",
        "initialization",
        "self-labels",
        "costs",
        "unclicked",
    ]
