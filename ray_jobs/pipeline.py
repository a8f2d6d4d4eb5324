"""Everything in one command: data, teacher, pseudo labels, student arms, scores.

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
from pdetr3d.inference.detector import Detector
from pdetr3d.pseudo_labels import FLOORS
from pdetr3d.tracking.runs import ui_command
from pdetr3d.tracking.scores import score_metrics
from pdetr3d.training.plan import BatchLoader
from pdetr3d.training.run_dir import write_json
from ray_jobs.plug.memory import PeakMemory
from ray_jobs.stages.arms import possible_arms
from ray_jobs.stages.holdout import measure_holdout
from ray_jobs.stages.pictures import confident
from ray_jobs.stages.report import build_report, print_arms, print_labels
from ray_jobs.stages.scoring import evaluate
from ray_jobs.stages.stages import Stages
from ray_jobs.stages.teacher_stages import planned_steps
from ray_jobs.stages.tracked import described
from ray_jobs.terminal.console import current
from ray_jobs.terminal.phases import PHASES


def body(stages: Stages) -> None:
    """The job, once Ray runs."""
    began = time.monotonic()
    with PeakMemory() as memory:
        chosen = possible_arms(stages.data, stages.config)
        if (console := current()) is not None:
            console.planned(planned_steps(stages, chosen), stages.config.scaling.concurrent_stages)
        stages.train(chosen)
        quality = stages.pseudo_labels()
        arms = evaluate(stages, chosen)
        picture = draw_predictions(stages, arms)
    report = build_report(stages, arms, quality, memory.peak_bytes, time.monotonic() - began)
    write_json(stages.run.path / "report.json", report)
    stages.parent.log_metrics({"ratios": report["ratios"]})
    for name in ("teacher", *FLOORS):
        stages.parent.log_metrics(score_metrics(f"pseudo_labels/{name}", quality[name]))
    for file in (stages.run.path / "report.json", picture):
        stages.parent.log_artifact(file)
    described(stages, arms, quality, picture)
    page = write_page(stages)
    stages.parent.log_artifact(page)
    print_labels(quality, measure_holdout(stages))
    print_arms(arms, report["ratios"])
    if stages.data.skipped:
        print(f"{len(stages.data.skipped)} samples with broken files were left out (of val: with no LiDAR, no boxes)")
    print(f"report: {page}\nfigures: {stages.run.path / 'report.json'}\nMLflow: {ui_command(stages.parent.uri)}")


@PHASES.of("pictures")
def write_page(stages: Stages) -> Path:
    """``report.html`` of the run directory."""
    from pdetr3d.finished.report.run_page import write_run_page  # matplotlib

    return write_run_page(stages.run.path)


@PHASES.of("pictures")
def draw_predictions(stages: Stages, arms: dict[str, dict[str, Any]]) -> Path:
    """PNG of the first readable val sample: true boxes and the last arm-"ours" student's predictions (dashed)."""
    from pdetr3d.visualize import inspect_sample  # matplotlib

    unread = {skipped.sample_token for skipped in stages.data.skipped}
    token = next(t for t in stages.data.index.tokens(stages.config.data.val_split) if t not in unread)
    record = inspection_record(stages.data.index, token)
    arm = "ours" if "ours" in arms else next(iter(arms))
    chosen = stages.run.path / f"student_{arm}" / arms[arm]["checkpoint"]
    # Here: actors and loading tasks for one sample would be several processes.
    batch = Batch.from_arrays(BatchLoader(stages.config, "predict", cameras=False)([record], [0]))
    boxes = Detector.load("student", chosen, torch.device("cpu"))(batch)[0]
    sample = load_sample(record, stages.config.data, cameras=True)
    file, config = stages.run.path / f"predictions_{arm}.png", stages.config
    return inspect_sample(sample, file, confident(boxes), config.model.bev_range_m, classes=config.classes)


if __name__ == "__main__":
    from ray_jobs.commands import main

    sys.exit(main(["pipeline", *sys.argv[1:]]))
