"""The job that runs everything: data, teacher, pseudo labels, student arms, scores, report.

python -m ray_jobs.pipeline --preset NAME [key=value ...]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

from pdetr3d.batch import Batch
from pdetr3d.data.label_manifest import inspection_record
from pdetr3d.data.loading.load import load_sample
from pdetr3d.data.storage.files import write_json
from pdetr3d.inference.detector import Detector
from pdetr3d.pipeline.arms import possible_arms
from pdetr3d.pipeline.execute import execute, pipeline_goals
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.scoring import evaluate
from pdetr3d.pipeline.trainings import planned_steps
from pdetr3d.pseudo_labels import FLOORS
from pdetr3d.run_files import REPORT
from pdetr3d.tracking.runs import ui_command
from pdetr3d.tracking.scores import score_metrics
from pdetr3d.training.plan import BatchLoader
from ray_jobs.plug.memory import PeakMemory
from ray_jobs.stages.pictures import confident
from ray_jobs.stages.report import build_report, print_arms, print_labels
from ray_jobs.stages.tracked import Tracked
from ray_jobs.terminal.console import current
from ray_jobs.terminal.phases import PHASES


def body(run: Run) -> None:
    """Run all stages, then write ``report.json``, ``report.html`` and the parent MLflow run. Ray must run.

    Raises:
        DataError: as the stages.
    """
    began, told = time.monotonic(), run.observer
    assert isinstance(told, Tracked)
    with PeakMemory() as memory:
        chosen = possible_arms(run.data, run.config, run.observer.warn)
        if (console := current()) is not None:
            console.planned(planned_steps(run, chosen), run.config.scaling.concurrent_stages)
        execute(pipeline_goals(run, chosen), run, lanes=run.config.scaling.concurrent_stages)
        quality = run.finished("pseudo_labels")
        arms = evaluate(run, chosen)
        picture = draw_predictions(run, arms)
    report = build_report(run, arms, quality, memory.peak_bytes, time.monotonic() - began)
    write_json(run.path / REPORT, report)
    told.parent.log_metrics({"ratios": report["ratios"]})
    for name in ("teacher", *FLOORS):
        told.parent.log_metrics(score_metrics(f"pseudo_labels/{name}", quality[name]))
    for file in (run.path / REPORT, picture):
        told.parent.log_artifact(file)
    told.described(run, arms, quality, run.result("holdout"), picture)
    page = write_page(run)
    told.parent.log_artifact(page)
    print_labels(quality, run.result("holdout"))
    print_arms(arms, report["ratios"])
    if run.data.skipped:
        print(f"{len(run.data.skipped)} samples with broken files were left out (of val: with no LiDAR, no boxes)")
    print(f"report: {page} (figures: {REPORT})\nMLflow: {ui_command(told.parent.uri)}")
    if address := told.parent.address():
        print(f"compare runs: {address}")


@PHASES.of("pictures")
def write_page(run: Run) -> Path:
    """Write ``report.html`` of the run directory, and return its path."""
    from pdetr3d.finished.report.run_page import write_run_page  # matplotlib

    return write_run_page(run.path)


@PHASES.of("pictures")
def draw_predictions(run: Run, arms: dict[str, dict[str, Any]]) -> Path:
    """Draw the first readable val sample: its true boxes, and a student's boxes dashed.

    Args:
        arms: arm -> scores, as ``evaluate`` returns them. The student is that of "ours", or of the first arm.

    Returns:
        The PNG file, ``predictions_ARM.png`` in the run directory.
    """
    from pdetr3d.visualize import inspect_sample  # matplotlib

    unread = {skipped.sample_token for skipped in run.data.skipped}
    token = next(t for t in run.data.index.tokens(run.config.data.val_split) if t not in unread)
    record = inspection_record(run.data.index, token)
    arm = "ours" if "ours" in arms else next(iter(arms))
    chosen = run.path / f"student_{arm}" / arms[arm]["checkpoint"]
    # The driver predicts it: Ray would start several processes for one sample.
    batch = Batch.from_arrays(BatchLoader(run.config, "predict", cameras=False)([record], [0]))
    boxes = Detector.load("student", chosen, torch.device("cpu"))(batch)[0]
    sample = load_sample(record, run.config.data, cameras=True)
    file, config = run.path / f"predictions_{arm}.png", run.config
    return inspect_sample(sample, file, confident(boxes), config.model.bev_range_m, classes=config.classes)


if __name__ == "__main__":
    from ray_jobs.commands import main

    sys.exit(main(["pipeline", *sys.argv[1:]]))
