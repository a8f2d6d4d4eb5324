"""Trials of a sweep on the real Ray Tune: which of them go on in the process of another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from pdetr3d.presets import load
from ray_jobs import sweep
from ray_jobs.shared_stages import SweepFolder
from ray_jobs.space import Domain, SearchSpace
from ray_jobs.trial import Job

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("asha", "budget", "processes"),
    [
        (False, None, 1),  # each after the other, imports done
        (True, None, 2),  # one that was ended early would train on in there
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

    def trial(chosen: dict[str, Any], job: Job, shared: object) -> None:  # sent by value: needs no import of torch
        place = Path(folder) / "trials" / tune.get_context().get_trial_id()
        place.mkdir(parents=True)
        (place / "trial.json").write_text('{"parameters": {"seed": 0}, "steps": 1, "curve": []}')  # as trials do
        (place / "process").write_text(f"{os.getpid()} {chosen['seed']}")
        tune.report({"progress": 100.0, "samples": 8, "mAP": 0.5})

    monkeypatch.setattr(sweep, "run_trial", trial)
    monkeypatch.setattr(sweep, "SharedStages", type("Nothing", (), {"__init__": lambda self, folder: None}))
    one = {"optim.lr": Domain(values=(1e-3,))}
    space = SearchSpace(name="s", question="?", trains=("ours",), metric="mAP", seeds=(3, 4), space=one, asha=asha)
    failed = sweep.search(Job(SweepFolder(tmp_path, load("quickstart"), ""), space, "quickstart", ()), 1, budget)
    ran = [file.read_text().split() for file in tmp_path.glob("trials/*/process")]
    assert failed == 0 and sorted(seed for _, seed in ran) == ["3", "4"]
    assert len({process for process, _ in ran}) == processes
