"""Nothing of an unlabeled box but its click and class reaches a training stage: poisoned boxes change no bit of it."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from pdetr3d.data.index.index import Index
from pdetr3d.schema import SampleRecord
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training.run_dir import RunDir
from ray_jobs.stages.arm_records import arm_records
from ray_jobs.stages.stages import Stages
from tests.training_cases import poison, run_locally, world_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEPS = 3
OVERRIDES = [
    *(f"{prefix}optim.{key}" for prefix in ("", "teacher.") for key in ("batch_size=2", "log_every=1", "lr=0.01")),
    "scaling.cpus_per_worker=0.5",
    "scaling.threads_per_worker=1",
    "student.gt_sampling_pseudo_score=0.01",
]


def all_bits(records: list[SampleRecord]) -> list[bytes]:
    return [pickle.dumps(dataclasses.asdict(record)) for record in records]


def losses(kind: str, stages: Stages, records: list[SampleRecord], folder: Path) -> list[dict[str, float]]:
    """Loss terms of the first steps; the teacher's checkpoint stays in the folder."""
    history = run_locally(kind, stages.config, records, folder, STEPS).history
    return [
        {k: v for k, v in metrics.items() if not k.endswith(("_s", "_bytes", "stall_share"))} for _, metrics in history
    ]


def train_everything(stages: Stages) -> dict[str, Any]:
    """All that training may depend on, bit by bit."""
    seen: dict[str, Any] = {"records": all_bits(stages.records), "prior": stages.prior.tobytes()}
    boxed = arm_records(stages, "boxes_only")
    seen["teacher"] = losses("teacher", stages, boxed, stages.run.path / "local")
    checkpoint = stages.run.path / "local" / f"step_{STEPS:07d}" / "checkpoint.pt"
    (stages.run.path / "teacher").mkdir()
    shutil.copy(checkpoint, stages.run.path / "teacher" / f"step_{STEPS:07d}.pt")
    stages.run.finish("teacher", {"checkpoints": [f"step_{STEPS:07d}.pt"]})
    seen["quality"] = stages.pseudo_labels()
    seen["pseudo_labels"] = stages.pseudo_file.read_bytes()
    seen["boxes_only"] = losses("student", stages, boxed, stages.run.path / "boxes_only")
    ours = arm_records(stages, "ours")
    seen["ours_records"] = all_bits(ours)
    seen["gt_databases"] = [stages.gt_database(records).read_bytes() for records in (boxed, ours)]
    seen["ours"] = losses("student", stages, ours, stages.run.path / "ours")
    return seen


def test_poisoned_boxes_change_nothing(sim_world: Path, tmp_path: Path, ray_local: None) -> None:
    config = world_config(sim_world, *OVERRIDES)
    clean = Stages(RunDir(tmp_path / "clean", config), Tracker("", "", None))
    point = {record.sample_token for record in clean.records if record.role == "point"}
    assert point and any(len(record.clicks) for record in clean.records if record.role == "point")
    shutil.copytree(tmp_path / "clean" / "data", tmp_path / "dirty" / "data")  # the manifest was made before
    poison(clean.data.index, point, tmp_path / "dirty" / "data" / "index.arrow")
    digest = Index.open(tmp_path / "dirty" / "data" / "index.arrow").digest
    for file in (tmp_path / "dirty" / "data").rglob("manifest.json"):  # else refused for its older index
        file.write_text(json.dumps(json.loads(file.read_text()) | {"index_digest": digest}))
    dirty = Stages(RunDir(tmp_path / "dirty", config), Tracker("", "", None))
    assert all_bits(arm_records(dirty, "full")) != all_bits(arm_records(clean, "full"))  # the poison is there

    one, two = train_everything(clean), train_everything(dirty)
    quality, poisoned_quality = one.pop("quality"), two.pop("quality")
    for stage in one:
        assert one[stage] == two[stage], stage
    assert len(one["teacher"]) == len(one["ours"]) == STEPS and one["boxes_only"] != one["ours"]
    # Only the measurement of the pseudo labels, which no stage reads, knows the true boxes.
    assert poisoned_quality["accepted"] == quality["accepted"]
    assert poisoned_quality["teacher"]["center_error_m"] > quality["teacher"]["center_error_m"] + 50
