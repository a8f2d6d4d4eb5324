"""The headline on a GPU, without Ray: preset ``headline`` trained and scored in this process, for the GPU ladder.

``python -m benchmarks.ladder_headline RESULT.json FOLDER SEED [DEVICE] [key=value ...]`` makes the simulated
world in FOLDER, trains teacher and students in FOLDER/seed-SEED, and writes the figures. Stopped at any time, the same
command continues: a stage from its last saved step, the run from its last finished stage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pdetr3d
from pdetr3d import presets
from pdetr3d.config import Config
from pdetr3d.data.storage.files import write_json
from pdetr3d.run_files import RunFiles
from pdetr3d.simulator.simulate import simulate

SELF = "benchmarks.ladder_headline"
ARMS = ("boxes_only", "ours", "full")
SCORES = ("mAP", "NDS", "SPNDS", "mATE", "mASE", "mAOE")
LABELS = ("n", "bev_iou", "center_error_m", "size_error", "yaw_error_rad", "axis_error_rad", "reversed")


def config_of(folder: Path, seed: int, words: Sequence[str] = ()) -> Config:
    """The preset on the world in ``folder``, with the arms above and this seed for labels and training."""
    keys = [f"data.dataroot={folder / 'world'}", f"run.seed={seed}", f"label.seed={seed}", f"run.arms={list(ARMS)}"]
    return presets.load("headline", [*keys, *words])


def run_headline(folder: Path, seed: int, device: str = "cuda", words: Sequence[str] = ()) -> dict[str, Any]:
    """Do what is left of a seed's run.

    Args:
        folder: of the world and the runs. device: name of the torch device. words: config keys for both.

    Returns:
        ``arms``: arm -> SCORES on the val split; ``teacher``: LABELS of its boxes at the clicks of the train split;
        ``steps``: stage -> steps of its training.
    """
    config, place = config_of(folder, seed, words), folder / f"seed-{seed}"
    simulate(folder / "world", config.sim)
    scores = pdetr3d.run_pipeline(config, place, ARMS, device)
    run = RunFiles(place)
    stages = ("crops", "teacher", *(f"student_{arm}" for arm in ARMS))
    teacher = run.stage("pseudo_labels")["teacher"]
    return {
        "arms": {arm: {score: scores[arm][score] for score in SCORES} for arm in ARMS},
        "teacher": {key: teacher[key] for key in LABELS},
        "steps": {stage: run.stage(stage)["steps"] for stage in stages if stage in run.finished},
    }


def command(result: Path, folder: Path, seed: int, words: Sequence[str] = ()) -> list[str]:
    """Words for Python that run a seed in a process of its own."""
    return ["-m", SELF, str(result), str(folder), str(seed), *words]


if __name__ == "__main__":
    file, place, number, *more = sys.argv[1:]
    on = [word for word in more if "=" not in word]
    keys = [word for word in more if "=" in word]
    write_json(Path(file), run_headline(Path(place), int(number), *(on or ["cuda"]), words=keys))
