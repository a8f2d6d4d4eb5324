"""Takes the measured training pace of a GPU from options of the command line, or from a finished run directory."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from pdetr3d.config import Config
from pdetr3d.finished.capacity.costs import depends_on, same_costs
from pdetr3d.run_files import REPORT, RunFiles
from pdetr3d.schema import DataError

# Stage -> its folder in the run directory, and the config section of its batch size.
TRAINED = {"teacher": ("teacher", "teacher.optim"), "student": ("student_ours", "optim")}


def given_rates(items: Sequence[str]) -> dict[str, float]:
    """Parse ``STAGE=NUMBER`` options: stage -> samples/s of one GPU.

    Raises:
        DataError: for an option of another form.
    """
    rates = {}
    for item in items:
        stage, _, text = item.partition("=")
        try:
            rates[stage] = float(text)
        except ValueError:
            rates[stage] = math.nan
        if stage not in TRAINED or not 0 < rates[stage] < math.inf:
            raise DataError(
                f"--samples-per-s {item}: must be STAGE=NUMBER, a stage of {', '.join(TRAINED)} and the samples that "
                "one GPU trains on in a second, e.g. student=12.5"
            )
    return rates


def rates_of_run(run: Path, config: Config) -> dict[str, float]:
    """Stage -> samples/s of one training worker: steps * batch size / seconds / workers.

    The numbers come from ``report.json`` and the stages' ``done.json``. The seconds include the start of the workers
    and their waiting, so that the rate is a lower bound.

    Raises:
        DataError: when the run is not finished, was interrupted, or has other models or samples than ``config``.
    """
    files = RunFiles(run)
    report = files.report
    if not report:
        raise DataError(f"--from-run: {run / REPORT} is missing; name the run directory of a pipeline")
    flat = report.get("config", {})
    mine = depends_on(config)
    same_costs(json.loads(json.dumps(mine)), flat, f"--from-run {run}", "Plan with the run's own preset and overrides.")
    rates = {}
    for stage, (name, section) in TRAINED.items():
        seconds = report.get("timing", {}).get(name, 0.0)
        if not seconds:
            raise DataError(
                f"--from-run {run}: report.json has no time for {name} (it was trained before an interruption, or not "
                "at all); name a run that a single `python -m ray_jobs.pipeline` finished"
            )
        trained = files.stage(name)["steps"] * flat[f"{section}.batch_size"]
        workers = flat["scaling.workers"]
        rates[stage] = trained / seconds / (max(workers) if isinstance(workers, list) else workers)
    return rates
