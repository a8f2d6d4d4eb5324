"""Tests of the 8-GPU presets at full size on a CPU: a training step, inference on the real keyframe, an export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pdetr3d import presets
from pdetr3d.batch import Batch
from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import prior_size_m, training_records
from pdetr3d.data.labels.manifest import build_manifest
from pdetr3d.data.loading.collate import collate
from pdetr3d.data.loading.load import load_sample
from pdetr3d.finished.deploy.exported import ExportedDetector
from pdetr3d.finished.deploy.source import TrainedStudent
from pdetr3d.finished.deploy.torchscript import TOLERANCE, ExportedStudent, export_torchscript
from pdetr3d.schema import SampleRecord
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train_step
from pdetr3d.training.optim import make_optimizer
from pdetr3d.training.plan import Plan
from tests.model_cases import shaken

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
# Images at a quarter of the scale; the image backbone without its file of weights, so nothing of it is frozen.
OVERRIDES = [
    "data.image_size_px=[400,225]",
    "student.gt_sampling=[]",
    "label.ratio=1.0",
    "data.train_split=mini_train",
]


# A quarter of the ground for what takes long: the same layers on fewer cells. The voxel student has all of it.
NEAR = "model.range_m=[-25.6,-25.6,-5,25.6,25.6,3]"


@pytest.fixture(scope="module")
def keyframe(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> SampleRecord:
    folder = tmp_path_factory.mktemp("real")
    index = Index.open(build_index(real_data, "v1.0-mini", folder / "index.arrow"))
    label = presets.load("nuscenes-pillar", OVERRIDES).label
    return training_records(index, build_manifest(index, "mini_train", label, folder / "manifest"))[0]


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("preset", ["nuscenes-pillar", "nuscenes-voxel"])
def test_a_step_and_an_inference(preset: str, kind: str, keyframe: SampleRecord, tmp_path: Path) -> None:
    torch.manual_seed(0)
    near = [] if (preset, kind) == ("nuscenes-voxel", "student") else [NEAR]
    task = build(kind, presets.load(preset, [*OVERRIDES, *near]), prior_size_m([keyframe], classes=NUSCENES_CLASSES)[0])
    batch = Batch.from_arrays(task.loader([keyframe], [0], 0))
    assert batch.images.shape == ((1, 6, 225, 400, 3) if kind == "teacher" else batch.images.shape)
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    context = LocalContext([keyframe], Plan(1, 1, 1, 0), task.loader, tmp_path)
    terms = train_step(task.model.train(), make_optimizer(task.model, task.optim), task, batch, context, 1e-4)
    assert all(torch.isfinite(value) for value in terms.values()) and terms["grad_norm"] > 0
    # Of every part something moves; not everything: heads end in zeros, and a task without boxes has no regression.
    moved = {name.split(".")[0] for name, p in task.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name.split(".")[0] for name in before}
    with torch.no_grad():
        boxes = task.predict(task.model.eval()(batch), batch)[0]
    if kind == "teacher":
        np.testing.assert_array_equal(boxes.label, batch.click_label[0][batch.click_valid[0]].numpy())
        assert len(boxes) == len(keyframe.clicks)
    assert np.isfinite(boxes.rows).all() and len(boxes) <= 500


def test_the_exported_student_equals_the_student(keyframe: SampleRecord, tmp_path: Path) -> None:
    config = presets.load("nuscenes-pillar", [*OVERRIDES, NEAR])
    model = shaken(
        build("student", config, prior_size_m([keyframe], classes=NUSCENES_CLASSES)[0], guidance=False).model
    )
    trained = TrainedStudent.load(checkpoint.save(tmp_path / "student_ours", model, None, 1, config.to_json()))
    export_torchscript(trained, tmp_path / "out", torch.device("cpu"))
    points = torch.from_numpy(collate([load_sample(keyframe, config.data, cameras=False)])["points"])
    with torch.no_grad():
        (maps, *rest), (their_maps, *their_rest) = (
            net(points) for net in (ExportedStudent(trained.model), ExportedDetector.load(tmp_path / "out").model)
        )
    assert [tuple(task.shape) for task in maps] == [(1, n, 64, 64) for n in (1, 2, 2, 1, 2, 2)]
    for ours, theirs in zip([*maps, *rest], [*their_maps, *their_rest], strict=True):
        torch.testing.assert_close(theirs, ours, atol=TOLERANCE, rtol=0)
