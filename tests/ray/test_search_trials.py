"""Tests of a search's trials on Ray Tune: which trials run in the process of an earlier one."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune

from pdetr3d.presets import load
from ray_jobs.searches import tuning
from ray_jobs.searches.space import Domain, SearchSpace

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("asha", "budget", "processes"),
    [
        (False, None, 1),  # one after the other in one process, which has its imports
        (True, None, 2),  # a trial that was ended early would go on training in its process
        (False, 10**9, 2),
    ],
)
def test_trials_go_on_in_one_process_where_none_is_ended_early(
    asha: bool,
    budget: int | None,
    processes: int,
    ray_local: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = str(tmp_path)

    def trial(chosen: dict[str, Any], job: object) -> None:  # sent by value: imports no torch
        place = Path(folder) / "trials" / tune.get_context().get_trial_id()
        place.mkdir(parents=True)
        (place / "trial.json").write_text(json.dumps({"parameters": chosen, "steps": 1, "curve": []}))  # as trials do
        (place / "process").write_text(f"{os.getpid()} {chosen['seed']}")
        tune.report({"progress": 100.0, "samples": 8, "mAP": 0.5})

    monkeypatch.setattr(tuning, "run_trial", trial)
    one = {"optim.lr": Domain(values=(1e-3,))}
    space = SearchSpace(name="s", question="?", trains=("ours",), metric="mAP", seeds=(3, 4), space=one, asha=asha)
    job: Any = SimpleNamespace(search=SimpleNamespace(path=tmp_path, base=load("quickstart")), space=space)
    ctrl_c = signal.getsignal(signal.SIGINT)
    failed = tuning.run_trials(job, 1, budget)
    assert signal.getsignal(signal.SIGINT) is ctrl_c  # with Tune's handler, the next Ctrl-C would be lost
    ran = [file.read_text().split() for file in tmp_path.glob("trials/*/process")]
    assert failed == 0 and sorted(seed for _, seed in ran) == ["3", "4"]
    assert len({process for process, _ in ran}) == processes
