"""Tests of the files of a failed trial."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pdetr3d.schema import DataError
from ray_jobs.searches import trial
from ray_jobs.searches.progress import Progress
from ray_jobs.searches.results import ERROR, STATUS
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


def test_a_failed_trial_says_why_and_a_new_try_forgets_it(tmp_path: Path) -> None:
    """The second try ends without an error of its own, as when its process is killed."""
    space, chosen = space_of({"optim.lr": {"values": [0.01, 0.02]}}), {"optim.lr": 0.01, "seed": 0}
    told = SimpleNamespace(trial_id="t0", last_result={}, is_finished=lambda: True)
    folder = tmp_path / "trials" / "t0"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    search: Any = SimpleNamespace(path=tmp_path, opened=killed)
    with pytest.raises(DataError, match="label.ratio") as refused:
        trial.run("t0", chosen, trial.Job(search, space, "quickstart", ("label.ratio=7",)), dict)
    Progress(tmp_path, space).on_trial_error(0, [told], told)
    assert json.loads((folder / STATUS).read_text()) == {"status": "failed", "error": str(refused.value)}
    with pytest.raises(KeyboardInterrupt):
        trial.run("t0", chosen, trial.Job(search, space, "quickstart", ()), dict)
    assert not (folder / ERROR).exists()
    Progress(tmp_path, space).on_trial_error(0, [told], told)
    assert "its process died" in json.loads((folder / STATUS).read_text())["error"]
