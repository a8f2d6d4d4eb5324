"""``Halving``: Ray's ASHA (asynchronous successive halving), changed for searches that may be killed and continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ray_jobs.searches.results import FILE
from ray_jobs.searches.trial import PROGRESS, TRAINED

REDUCTION = 2  # half of the trials continue at each rung; scores of short trainings are too noisy for a smaller part


class Halving(ASHAScheduler):
    """Ends a trial that is worse than half of the trials that came as far in their training.

    Trials are compared at shares of their own training, because Tune's count of reports starts anew at a restore. Tune
    does not store the state of a scheduler. So after a restore the earlier scores are read from the folders of the
    trials. A fully trained trial continues, because it is still to be scored on the val split.

    Args:
        folder: of the search. first: percent of its training before which no trial ends.
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
