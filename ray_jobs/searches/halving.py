"""ASHA (asynchronous successive halving) for trials that a killed search continues and that are scored at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ray_jobs.searches.results import FILE
from ray_jobs.searches.trial import PROGRESS, TRAINED

REDUCTION = 2  # half of the trials go on at each rung; scores of short trainings are too noisy for fewer


class Halving(ASHAScheduler):
    """Ends trials that are worse than half of those that came as far.

    They are compared at shares of their own training: Tune's count of reports starts anew on a restore. Tune saves
    nothing of a scheduler, so what trials had told before a restore is read from their folders; else they would be
    compared by the late scores that they tell first. A trained trial goes on: it has still to be scored on val.

    Args:
        folder: of the search. first: percent of a training before which no trial ends.
    """

    def __init__(self, folder: Path, first: float) -> None:
        super().__init__(PROGRESS, max_t=100, grace_period=max(1, int(first)), reduction_factor=REDUCTION)
        self.folder = folder

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        file = self.folder / "trials" / trial.trial_id / FILE
        for row in json.loads(file.read_text())["curve"] if file.exists() else ():
            self.on_trial_result(tune_controller, trial, row)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result.get(PROGRESS, 0) >= TRAINED:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)
