"""The preset kitti-small on real frames, in one process: imported, trained on and scored within the valid regions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pdetr3d import presets
from pdetr3d.data.label_manifest import eval_records, prior_size_m, training_records
from pdetr3d.evaluation.nuscenes_eval import ground_truth_predictions, load_tables, score
from pdetr3d.importers.kitti import import_kitti
from pdetr3d.training.run_dir import Data, RunDir, prepare
from tests.training_cases import run_locally

SMALL = [
    "teacher.channels=16",
    "teacher.heads=2",
    "teacher.decoder_layers=1",
    "optim.amp=fp32",
    "teacher.optim.amp=fp32",
]


@pytest.fixture(scope="module")
def opened(kitti_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Data]:
    folder = tmp_path_factory.mktemp("kitti")
    import_kitti(kitti_data, folder / "dataset")
    run = RunDir(folder / "run", presets.load("kitti-small", [f"data.dataroot={folder / 'dataset'}", *SMALL]))
    return run, prepare(run)


def test_all_labels_lie_ahead_within_the_view(opened: tuple[RunDir, Data]) -> None:
    run, data = opened
    records = training_records(data.index, data.manifest)
    assert data.index.facts.outside >= 0 and records.has_regions
    x0, y0, _, x1, y1, _ = run.config.model.range_m
    inside = 0
    for record in records:
        assert record.regions is not None and record.regions.valid is not None
        places = np.concatenate([record.clicks.xyz_m[:, :2], record.boxes.center_m[:, :2]])
        assert (places[:, 1] > 0).all() and record.regions.known_at(places).all()
        assert not record.regions.known_at(np.array([0.0, -10.0]))  # behind the car
        inside += int(((places >= [x0, y0]) & (places <= [x1, y1])).all(1).sum())
    assert inside > 50


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_a_step_on_real_frames(opened: tuple[RunDir, Data], tmp_path: Path, kind: str) -> None:
    run, data = opened
    records = training_records(data.index, data.manifest)
    if kind == "teacher":
        records = records.select(records.boxed & records.clicked)
    local = run_locally(kind, run.config, records, tmp_path / kind, 1)
    assert np.isfinite([values["loss"] for _, values in local.history if "loss" in values]).all() and local.history


def test_the_truth_scores_one_and_what_lies_behind_is_not_scored(opened: tuple[RunDir, Data], tmp_path: Path) -> None:
    run, data = opened
    nusc = load_tables(data.index.dataroot, data.index.version, data.index.facts.names, data.index.counted_points())
    said, poses = ground_truth_predictions(nusc, "kitti_val")
    token, shown = next((token, boxes) for token, boxes in said.items() if len(boxes))
    ghosts = replace(shown[:1], center_m=shown.center_m[:1] * np.float32([1, -1, 1]))  # the same object behind
    said = {**said, token: type(shown).concatenate([shown, ghosts])}
    regions = {r.sample_token: r.regions for r in eval_records(data.index, "kitti_val") if r.regions is not None}
    report = score(data.index.dataroot, data.index.version, "kitti_val", said, poses, tmp_path, nusc, regions=regions)
    assert report["mAP_present"] == pytest.approx(1, abs=1e-6) and report["n_gt"]["car"] > 10
    assert report["outside_regions"]["predictions"] == report["outside_regions"]["objects"] + 1
    assert prior_size_m(training_records(data.index, data.manifest))[0][0, 0] == pytest.approx(4, abs=0.7)
