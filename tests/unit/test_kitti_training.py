"""The preset kitti-small on an imported folder: teacher and student train, and both scores are made, in one process."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pdetr3d import presets
from pdetr3d.batch import Batch
from pdetr3d.data.label_manifest import prior_size_m, training_records
from pdetr3d.data.records import eval_records
from pdetr3d.evaluation.kitti_score import kitti_score
from pdetr3d.evaluation.nuscenes_eval import score
from pdetr3d.importers.kitti import VERSION, import_kitti
from pdetr3d.training.build import build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train_step
from pdetr3d.training.optim import make_optimizer
from pdetr3d.training.plan import BatchLoader, Plan
from pdetr3d.training.run_dir import RunDir, prepare
from tests.reference import tiny_kitti
from tests.training_cases import one_thread

WALKER = "Pedestrian 0.00 0 0.2 200 40 210 79 1.80 0.60 0.80 3.00 1.60 12.00 0.30"
STRAY = "DontCare -1 -1 -10 20.00 40.00 60.00 60.00 -1 -1 -1 -1000 -1000 -1000 -10"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("kitti_training")
    lines = [tiny_kitti.CAR, WALKER, STRAY]
    tiny_kitti.write(folder / "root", {f"{number:06d}": lines for number in range(6)})
    import_kitti(folder / "root", folder / "dataset")
    overrides = [f"data.dataroot={folder / 'dataset'}", "data.image_size_px=[150,50]", "label.ratio=0.5"]
    return RunDir(folder / "run", presets.load("kitti-small", overrides))


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_a_step_and_the_scores(kind: str, run: RunDir, tmp_path: Path) -> None:
    """Losses are finite, something moves; predictions are scored by the devkit and as KITTI does."""
    torch.manual_seed(0)
    data = prepare(run)
    records = training_records(data.index, data.manifest)
    assert all(record.regions is not None and record.regions.ignore for record in records)
    prior = prior_size_m(records)[0]
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
    report = score(Path(root), VERSION, "kitti_val", boxes, poses, tmp_path / "devkit", bins=False, regions=regions)
    assert report["n_gt"]["car"] == report["n_gt"]["pedestrian"] == len(boxes) > 0
    # An untrained student sees something everywhere, and half of that beside the camera's view.
    assert report["outside_regions"]["objects"] == 0 < report["outside_regions"]["predictions"]
    cameras = {record.sample_token: record.cameras[0] for record in records}
    kitti = kitti_score(Path(root) / VERSION, boxes, cameras)
    assert kitti["Pedestrian"]["n_gt"]["easy"] == 0 and kitti["Pedestrian"]["n_gt"]["hard"] == len(boxes)
