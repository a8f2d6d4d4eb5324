"""How fast a GPU trains, where that was measured: given by hand, or from a finished run directory."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pdetr3d.config import Config
from pdetr3d.finished.capacity.costs import depends_on, same_costs
from pdetr3d.schema import DataError

TRAINED = {
    "teacher": ("teacher", "teacher.optim"),
    "student": ("student_ours", "optim"),
}  # folder, section of its batch


def given_rates(items: Sequence[str]) -> dict[str, float]:
    """Stage -> samples/s of one GPU, of ``STAGE=NUMBER`` items; DataError for anything else."""
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
    """Stage -> samples/s of one training worker: steps * batch size / seconds / workers, from ``report.json`` and the
    stages' ``done.json``. The start of the workers and what they waited for is in it: no GPU is slower.

    Raises:
        DataError: when the run is not finished, was not trained in one go, or is of other models or samples.
    """
    report = _read(run / "report.json")
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
        trained = _read(run / name / "done.json")["steps"] * flat[f"{section}.batch_size"]
        workers = flat["scaling.workers"]
        rates[stage] = trained / seconds / (max(workers) if isinstance(workers, list) else workers)
    return rates


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"--from-run: {file} cannot be read ({error}); name the run directory of a pipeline") from error
