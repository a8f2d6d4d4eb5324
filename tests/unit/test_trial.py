"""Tests of the files of a failed trial."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pdetr3d.schema import DataError
from ray_jobs.searches import trial
from ray_jobs.searches.progress import Progress
from ray_jobs.searches.results import ERROR, FILE, STATUS
from tests.report_cases import space_of


def remote(cause: Exception) -> RuntimeError:
    """An error as Ray wraps the errors of remote tasks."""
    error = RuntimeError("ray::task()\n  File x, line 1\nValueError: broken")
    error.cause = cause  # type: ignore[attr-defined]
    return error


def test_the_reason_is_bad_input_s_message_or_the_last_line() -> None:
    assert trial.reason(remote(DataError("a.bin: cut"))) == "a.bin: cut"
    assert trial.reason(remote(ValueError("broken"))) == "ValueError: broken"
    assert trial.reason(ZeroDivisionError()) == "ZeroDivisionError:"


def test_a_failed_trial_says_why_and_a_new_try_forgets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = space_of({"optim.lr": {"values": [0.01, 0.02]}})
    job = SimpleNamespace(search=SimpleNamespace(path=tmp_path))
    folder = tmp_path / "trials" / "t0"
    folder.mkdir(parents=True)
    (folder / FILE).write_text(json.dumps({"parameters": {"optim.lr": 0.01, "seed": 0}, "steps": 3, "curve": []}))
    monkeypatch.setattr(trial, "_run", lambda *_: (_ for _ in ()).throw(DataError("label.ratio: too low")))
    told = SimpleNamespace(trial_id="t0", last_result={}, is_finished=lambda: True)
    with pytest.raises(DataError):
        trial.run("t0", {}, job, dict)  # type: ignore[arg-type]
    Progress(tmp_path, space).on_trial_error(0, [told], told)
    assert json.loads((folder / STATUS).read_text()) == {"status": "failed", "error": "label.ratio: too low"}
    monkeypatch.setattr(trial, "_run", lambda *_: None)
    trial.run("t0", {}, job, dict)  # type: ignore[arg-type]
    assert not (folder / ERROR).exists()
    Progress(tmp_path, space).on_trial_error(0, [told], told)
    assert "its process died" in json.loads((folder / STATUS).read_text())["error"]
