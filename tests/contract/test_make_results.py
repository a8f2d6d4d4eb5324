"""Tests of ``make results``: current results stay, interrupted ones continue, times are of the last measurement."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pdetr3d.training.stage_versions import code_version

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program with its results and runs in ``tmp_path``."""
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "tools" / "make_results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_results", module)  # dataclasses look it up there
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    (tmp_path / "results").mkdir()
    return module


def write(tool: ModuleType, name: str, seconds: float, code: str) -> None:
    (tool.ROOT / "results" / f"{name}.json").write_text(json.dumps({"seconds": {"train": seconds}, "code": code}))


def test_what_is_due(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_DATA", "/data")
    monkeypatch.delenv("NO_DATA", raising=False)
    commands = (("-c", "pass"),)
    current, old, slow, missing, data, no_data = (
        tool.Result(name, commands, (), needs)
        for name, needs in [("a", ""), ("b", ""), ("c", ""), ("d", ""), ("e", "SOME_DATA"), ("f", "NO_DATA")]
    )
    everything = [current, old, slow, missing, data, no_data]
    write(tool, "a", 60, code_version())
    write(tool, "b", 60, "teacher 1")
    write(tool, "c", 1801, "teacher 1")
    write(tool, "e", 60, "teacher 1")
    assert tool.due(everything, quick=False) == [old, slow, missing, data]
    assert tool.due(everything, quick=True) == [old, data]  # half an hour is too long; a result that never ran may be
    assert tool.said(slow) == "c            of other code, took 30 minutes"
    assert tool.announced([old, slow]) == "to measure: b, c; 0.5 hours the last time"  # 60 s + 1801 s
    assert tool.announced([slow, missing]) == "to measure: c, d; 0.5 hours the last time, without d"
    assert tool.said(missing) == "d            missing, time unknown"
    assert tool.said(no_data) == "f            missing, time unknown; left out: NO_DATA is not set"


def test_an_ended_measurement_goes_on_with_the_command_that_failed(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_DATA", "/data")
    result = tool.Result("a", (("one", "$SOME_DATA/x"), ("two",)), ("quickstart", "RUN"))
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
    assert [line.split()[0] for line in shown.stdout.splitlines()] == [
        "quickstart",
        "kitti-small",
        "chaos",
        "your-data",
        "kitti-clicks",
        "costs",
        "unclicked",
    ]
