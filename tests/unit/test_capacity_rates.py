"""Tests of measured samples per second: given as options, or read from a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdetr3d import presets
from pdetr3d.config import Config
from pdetr3d.finished.capacity.rates import given_rates, rates_of_run
from pdetr3d.schema import DataError

CONFIG = presets.load("quickstart", ["scaling.workers=2", "optim.batch_size=8", "teacher.optim.batch_size=4"])
TIMING = {"wall_s": 999.0, "teacher": 50.0, "student_ours": 20.0, "student_full": 1.0}


def write_run(folder: Path, timing: dict[str, float], config: Config = CONFIG) -> Path:
    """Write the run directory of a pipeline that trained the teacher for 100 steps and the student for 30."""
    documents: dict[str, Any] = {
        "report.json": {"timing": timing, "config": config.flat()},
        "teacher/done.json": {"steps": 100},
        "student_ours/done.json": {"steps": 30},
    }
    for name, document in documents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(document))
    return folder


def test_given_rates() -> None:
    assert given_rates(["teacher=3", "student=12.5"]) == {"teacher": 3.0, "student": 12.5}
    assert given_rates([]) == {}


@pytest.mark.parametrize("item", ["12.5", "student", "student=", "student=fast", "student=0", "student=-1"])
@pytest.mark.parametrize("kind", ["as it is", "other stage"])
def test_other_rates_are_refused(item: str, kind: str) -> None:
    item = item if kind == "as it is" else "arm=3"
    with pytest.raises(DataError, match=rf"--samples-per-s {item}: must be STAGE=NUMBER"):
        given_rates([item])


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    with pytest.raises(DataError, match="must be STAGE=NUMBER"):
        given_rates([f"student={number}"])


def test_a_run_by_hand(tmp_path: Path) -> None:
    """The teacher's 100 steps of 4 samples took 50 s on 2 workers; the student's 30 steps of 8 samples took 20 s."""
    assert rates_of_run(write_run(tmp_path, TIMING), CONFIG) == {"teacher": 4.0, "student": 6.0}


def test_what_costs_nothing_may_differ(tmp_path: Path) -> None:
    other = presets.load("quickstart", ["optim.epochs=1", "label.ratio=0.5", "scaling.use_gpu=true"])
    assert rates_of_run(write_run(tmp_path, TIMING), other)["teacher"] == 4.0


@pytest.mark.parametrize("change", ["model.pillar_channels=16", "data.num_sweeps=2", "teacher.optim.ema_decay=0.5"])
def test_a_run_of_other_costs_is_refused(tmp_path: Path, change: str) -> None:
    with pytest.raises(DataError, match=rf"of another model or other samples[^$]*  {change.split('=')[0]}: "):
        rates_of_run(write_run(tmp_path, TIMING), presets.load("quickstart", [change]))


@pytest.mark.parametrize("timing", [{"teacher": 50.0}, {"teacher": 50.0, "student_ours": 0.0}])
def test_a_stage_without_a_time_is_refused(tmp_path: Path, timing: dict[str, float]) -> None:
    with pytest.raises(DataError, match="report.json has no time for student_ours"):
        rates_of_run(write_run(tmp_path, timing), CONFIG)


def test_a_folder_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"report.json is missing; name the run directory of a pipeline"):
        rates_of_run(tmp_path, CONFIG)
