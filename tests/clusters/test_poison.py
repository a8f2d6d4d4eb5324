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
from pdetr3d.pipeline.arm_records import arm_records
from pdetr3d.pipeline.execute import execute
from pdetr3d.pipeline.run import Run
from pdetr3d.schema import SampleRecord
from tests.training_cases import begin_run, poison, run_locally

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


def losses(kind: str, run: Run, records: list[SampleRecord], folder: Path) -> list[dict[str, float]]:
    """Loss terms of the first steps; the teacher's checkpoint stays in the folder."""
    history = run_locally(kind, run.config, records, folder, STEPS).history
    return [
        {k: v for k, v in metrics.items() if not k.endswith(("_s", "_bytes", "stall_share"))} for _, metrics in history
    ]


def train_everything(run: Run) -> dict[str, Any]:
    """All that training may depend on, bit by bit."""
    seen: dict[str, Any] = {"records": all_bits(run.records), "prior": run.prior.tobytes()}
    boxed = arm_records(run, "boxes_only")
    seen["teacher"] = losses("teacher", run, boxed, run.path / "local")
    checkpoint = run.path / "local" / f"step_{STEPS:07d}" / "checkpoint.pt"
    (run.path / "teacher").mkdir()
    shutil.copy(checkpoint, run.path / "teacher" / f"step_{STEPS:07d}.pt")
    run.dir.finish("teacher", {"checkpoints": [f"step_{STEPS:07d}.pt"]})
    execute(["pseudo_labels"], run)
    seen["quality"] = run.finished("pseudo_labels")
    seen["pseudo_labels"] = run.pseudo_file.read_bytes()
    seen["boxes_only"] = losses("student", run, boxed, run.path / "boxes_only")
    ours = arm_records(run, "ours")
    seen["ours_records"] = all_bits(ours)
    seen["gt_databases"] = [run.gt_database(records).read_bytes() for records in (boxed, ours)]
    seen["ours"] = losses("student", run, ours, run.path / "ours")
    return seen


def test_poisoned_boxes_change_nothing(sim_world: Path, tmp_path: Path) -> None:
    clean = begin_run(sim_world, tmp_path / "clean", *OVERRIDES)
    point = {record.sample_token for record in clean.records if record.role == "point"}
    assert point and any(len(record.clicks) for record in clean.records if record.role == "point")
    shutil.copytree(tmp_path / "clean" / "data", tmp_path / "dirty" / "data")  # the manifest was made before
    poison(clean.data.index, point, tmp_path / "dirty" / "data" / "index.arrow")
    digest = Index.open(tmp_path / "dirty" / "data" / "index.arrow").digest
    for file in (tmp_path / "dirty" / "data").rglob("manifest.json"):  # else refused for its older index
        file.write_text(json.dumps(json.loads(file.read_text()) | {"index_digest": digest}))
    dirty = begin_run(sim_world, tmp_path / "dirty", *OVERRIDES)
    assert all_bits(arm_records(dirty, "full")) != all_bits(arm_records(clean, "full"))  # the poison is there

    one, two = train_everything(clean), train_everything(dirty)
    quality, poisoned_quality = one.pop("quality"), two.pop("quality")
    for stage in one:
        assert one[stage] == two[stage], stage
    assert len(one["teacher"]) == len(one["ours"]) == STEPS and one["boxes_only"] != one["ours"]
    # Only the measurement of the pseudo labels, which no stage reads, knows the true boxes.
    assert poisoned_quality["accepted"] == quality["accepted"]
    assert poisoned_quality["teacher"]["center_error_m"] > quality["teacher"]["center_error_m"] + 50
