"""Tests of the preset kitti-small in one process: training and scores within valid regions by KITTI's classes.

The imported folders have KITTI's names or nuScenes'; real frames are used, too, if present.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pdetr3d import presets
from pdetr3d.batch import Batch
from pdetr3d.class_list import read_classes
from pdetr3d.data.label_manifest import eval_records, prior_size_m, training_records
from pdetr3d.evaluation.kitti_score import kitti_score
from pdetr3d.evaluation.nuscenes_eval import load_tables, score
from pdetr3d.importers.kitti import VERSION, import_kitti
from pdetr3d.training.build import build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train_step
from pdetr3d.training.optim import make_optimizer
from pdetr3d.training.plan import BatchLoader, Plan
from pdetr3d.training.run_dir import Data, RunDir, prepare
from tests.reference import tiny_kitti
from tests.score_cases import ground_truth_predictions
from tests.training_cases import one_thread, run_locally

pytestmark = pytest.mark.xdist_group("kitti_preset")  # the fixtures of this file take seconds

WALKER = "Pedestrian 0.00 0 0.2 200 40 210 79 1.80 0.60 0.80 3.00 1.60 12.00 0.30"
STRAY = "DontCare -1 -1 -10 20.00 40.00 60.00 60.00 -1 -1 -1 -1000 -1000 -1000 -10"


SMALL = [
    "teacher.channels=16",
    "teacher.heads=2",
    "teacher.decoder_layers=1",
    "optim.amp=fp32",
    "teacher.optim.amp=fp32",
]


@pytest.fixture(scope="module", params=["", "kitti"], ids=["nuScenes' names", "own names"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("kitti_training")
    lines = [tiny_kitti.CAR, WALKER, STRAY]
    tiny_kitti.write(folder / "root", {f"{number:06d}": lines for number in range(6)})
    import_kitti(folder / "root", folder / "dataset", classes=read_classes(request.param))
    overrides = [f"data.dataroot={folder / 'dataset'}", "data.image_size_px=[150,50]", "label.ratio=0.5"]
    return RunDir(folder / "run", presets.load("kitti-small", overrides))


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_a_step_and_the_scores(kind: str, run: RunDir, tmp_path: Path) -> None:
    """Losses are finite and weights change; predictions get pdetr3d's scores and KITTI's."""
    torch.manual_seed(0)
    data = prepare(run)
    records = training_records(data.index, data.manifest)
    assert all(record.regions is not None and record.regions.ignore for record in records)
    prior = prior_size_m(records, classes=data.index.classes)[0]
    task = build(kind, run.config, prior)
    boxed = [record for record in records if record.role == "box"]
    batch = Batch.from_arrays(task.loader.for_records(records)(boxed[:2], [0, 1], 0))
    with one_thread():
        context = LocalContext(boxed, Plan(len(boxed), 2, 1, 0), task.loader.for_records(records), tmp_path)
        terms = train_step(task.model.train(), make_optimizer(task.model, task.optim), task, batch, context, 1e-4)
        assert all(math.isfinite(float(value)) for value in terms.values()) and terms["grad_norm"] > 0
        if kind == "teacher":
            return
        records = eval_records(data.index, "kitti_val")
        loader, boxes = BatchLoader(run.config, "predict", cameras=False), {}
        for record in records:
            seen = Batch.from_arrays(loader([record], [0], 0))
            with torch.no_grad():
                boxes[record.sample_token] = task.predict(task.model.eval()(seen), seen)[0]
    root = run.config.data.dataroot
    poses = {record.sample_token: (record.lidar2ego, record.ego2global) for record in records}
    regions = {record.sample_token: record.regions for record in records if record.regions is not None}
    classes = data.index.classes
    report = score(
        Path(root), VERSION, "kitti_val", boxes, poses, tmp_path / "own", bins=False, regions=regions, classes=classes
    )
    assert report["n_gt"] == {"Car": len(boxes), "Truck": 0, "Tram": 0, "Pedestrian": len(boxes), "Cyclist": 0}
    assert len(boxes) > 0 and report["mAVE"] is None and math.isfinite(report["NDS"])
    # An untrained student sees something everywhere, and half of that beside the camera's view.
    assert report["outside_regions"]["objects"] == 0 < report["outside_regions"]["predictions"]
    cameras = {record.sample_token: record.cameras[0] for record in records}
    kitti = kitti_score(Path(root) / VERSION, boxes, cameras, classes)
    assert kitti["Pedestrian"]["n_gt"]["easy"] == 0 and kitti["Pedestrian"]["n_gt"]["hard"] == len(boxes)


@pytest.fixture(scope="module")
def real(kitti_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Data]:
    folder = tmp_path_factory.mktemp("kitti")
    import_kitti(kitti_data, folder / "dataset")
    run = RunDir(folder / "run", presets.load("kitti-small", [f"data.dataroot={folder / 'dataset'}", *SMALL]))
    return run, prepare(run)


def test_all_labels_lie_ahead_within_the_view(real: tuple[RunDir, Data]) -> None:
    run, data = real
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
def test_a_step_on_real_frames(real: tuple[RunDir, Data], tmp_path: Path, kind: str) -> None:
    run, data = real
    records = training_records(data.index, data.manifest)
    if kind == "teacher":
        records = records.select(records.boxed & records.clicked)
    local = run_locally(kind, run.config, records, tmp_path / kind, 1)
    assert np.isfinite([values["loss"] for _, values in local.history if "loss" in values]).all() and local.history


def test_the_truth_scores_one_and_what_lies_behind_is_not_scored(real: tuple[RunDir, Data], tmp_path: Path) -> None:
    run, data = real
    classes = data.index.classes
    nusc = load_tables(
        data.index.dataroot, data.index.version, data.index.facts.names, data.index.counted_points(), classes=classes
    )
    said, poses = ground_truth_predictions(nusc, "kitti_val", classes)
    token, shown = next((token, boxes) for token, boxes in said.items() if len(boxes))
    ghosts = replace(shown[:1], center_m=shown.center_m[:1] * np.float32([1, -1, 1]))  # the same object behind
    said = {**said, token: type(shown).concatenate([shown, ghosts])}
    regions = {r.sample_token: r.regions for r in eval_records(data.index, "kitti_val") if r.regions is not None}
    report = score(
        data.index.dataroot,
        data.index.version,
        "kitti_val",
        said,
        poses,
        tmp_path,
        nusc,
        regions=regions,
        classes=classes,
    )
    assert report["mAP_present"] == pytest.approx(1, abs=1e-6) and report["n_gt"]["Car"] > 10
    assert report["outside_regions"]["predictions"] == report["outside_regions"]["objects"] + 1
    assert prior_size_m(training_records(data.index, data.manifest), classes=data.index.classes)[0][
        0, 0
    ] == pytest.approx(4, abs=0.7)
