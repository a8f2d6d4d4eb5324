"""CenterPoint's targets for the real keyframe, six tasks as at full size: the devkit's boxes, and a truck by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes

from pdetr3d import presets
from pdetr3d.batch import Batch, Cells, TaskMaps
from pdetr3d.config import Config
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import training_records
from pdetr3d.data.labels.manifest import build_manifest
from pdetr3d.geometry.center_code import encode
from pdetr3d.losses import center_criterion
from pdetr3d.losses.center_criterion import CenterCriterion
from pdetr3d.training.plan import BatchLoader
from tests.model_cases import same_on_all_ranks
from tests.reference.model_oracles import heatmap, overlap_after_shift

# Channel -> class, as CenterPoint has them: six heads. 102.4 m in pillars of 0.2 m, to a quarter: 128 cells of 0.8 m.
HEADS = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)
LOW, CELL, GRID = -51.2, 0.8, 128
STILL = ["flip=false", "rotation_rad=0.0", "scale=[1.0,1.0]", "translation_m=0.0"]


@pytest.fixture(scope="module")
def config() -> Config:
    keys = [f"student.augment_{key}" for key in STILL]
    data = ["data.version=v1.0-mini", "data.train_split=mini_train", "label.ratio=1.0", "data.num_sweeps=1"]
    return presets.load("nuscenes-pillar", [*keys, *data])


@pytest.fixture(scope="module")
def batch(real_data: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    folder = tmp_path_factory.mktemp("real")
    index = Index.open(build_index(real_data, "v1.0-mini", folder / "index.arrow"))
    records = training_records(index, build_manifest(index, "mini_train", config.label, folder / "manifest"))
    return Batch.from_arrays(BatchLoader(config, "student", cameras=False)([records[0]], [0], 0))


@pytest.fixture(scope="module")
def truth(real_data: Path) -> list[tuple[str, np.ndarray]]:
    """(class, (x, y, z, l, w, h, yaw)) of the devkit's boxes with LiDAR points whose center lies on the grid."""
    nusc = NuScenes("v1.0-mini", str(real_data), verbose=False)
    found = []
    for box in nusc.get_sample_data(nusc.sample[0]["data"]["LIDAR_TOP"])[1]:
        name = category_to_detection_name(box.name)
        seen = nusc.get("sample_annotation", box.token)["num_lidar_pts"] > 0
        if name and seen and abs(box.center[:2]).max() < -LOW:
            row = [*box.center, *box.wlh[[1, 0, 2]], box.orientation.yaw_pitch_roll[0]]
            found.append((name, np.array(row)))
    return found


def maps(batch: Batch, config: Config) -> list[TaskMaps]:
    """The output of uninformed heads: zeros at the cells of the objects."""
    found = []
    for classes in config.student.tasks:
        cells, _ = batch.objects((LOW, LOW), CELL, (GRID, GRID), classes)
        found.append(TaskMaps(torch.zeros(1, len(classes), GRID, GRID), cells, torch.zeros(len(cells.row), 12)))
    return found


def targets(batch: Batch, config: Config, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The target heatmaps of the criterion, (T, 128, 128) for each task."""
    seen: list[np.ndarray] = []

    def listen(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        seen.append(target[0].numpy())
        return logits.sum()

    monkeypatch.setattr(center_criterion, "heatmap_focal_loss", listen)
    CenterCriterion(config, same_on_all_ranks)(maps(batch, config), batch)
    return seen


def radius_of(length: float, width: float) -> int:
    """The largest whole shift [cells] with an IoU of at least 0.1, found by trying; never below 2."""
    return max(2, *(r for r in range(40) if overlap_after_shift(length, width, r) >= 0.1))


def test_heatmaps_of_all_heads(
    batch: Batch, config: Config, truth: list[tuple[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(truth) > 40 and {"car", "truck", "barrier", "pedestrian", "traffic_cone"} <= {name for name, _ in truth}
    got = targets(batch, config, monkeypatch)
    assert [len(task) for task in got] == [len(head) for head in HEADS]
    for task, head in zip(got, HEADS, strict=True):
        for channel, name in zip(task, head, strict=True):
            mine = [row for kind, row in truth if kind == name]
            centers = [(int((row[1] - LOW) / CELL), int((row[0] - LOW) / CELL)) for row in mine]
            radii = [radius_of(row[3] / CELL, row[4] / CELL) for row in mine]
            np.testing.assert_allclose(channel, heatmap(centers, radii, GRID, GRID), atol=1e-6, err_msg=name)


def test_the_truck_by_hand(batch: Batch, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ahead on the left at (-4.50, 15.25, 0.40), 10.20 x 2.88 x 3.60 m, heading 1.595 (nearly +y).

    Column (-4.50 + 51.2) / 0.8 = 58.375, row (15.25 + 51.2) / 0.8 = 83.06: cell (83, 58). In cells it is 12.75 x 3.6.
    A box whose corners are moved inwards by r keeps (12.75 - 2r)(3.6 - 2r) / 45.9, which is 0.1 at r = 1.56. That is
    less than the minimum radius, 2. Sigma is 5 / 6: exp(-1 / (2 * 25 / 36)) = exp(-0.72) beside the peak.
    """
    truck = targets(batch, config, monkeypatch)[1][0]
    assert truck[83, 58] == 1 and truck[83, 59] == truck[82, 58] == pytest.approx(np.exp(-0.72))
    assert truck[83, 60] == pytest.approx(np.exp(-2.88)) and truck[83, 61] == truck[80, 58] == 0

    cells, index = batch.objects((LOW, LOW), CELL, (GRID, GRID), (1, 2))
    place = next(
        i for i, at in enumerate(zip(cells.row.tolist(), cells.column.tolist(), strict=True)) if at == (83, 58)
    )
    box = batch.box[0, index[place]][None]
    corner = torch.tensor([[58.0, 83.0]]) * CELL + LOW
    code = encode(box, torch.tensor([[torch.nan, torch.nan]]), corner, CELL)[0]
    heading = [np.sin(2 * 1.595), np.cos(2 * 1.595), np.cos(1.595), np.sin(1.595)]
    expected = [0.375, 0.06, 0.40, np.log(10.2), np.log(2.88), np.log(3.6), *heading]
    np.testing.assert_allclose(code[:10], expected, atol=0.02)
    # The keyframe has no neighbors in time, so no velocity is known and the loss has no velocity term.
    assert torch.isnan(batch.velocity[0, index[place]]).all()
    said = code[None].clone()
    said[0, 8:10] *= 30
    said[0, 10:12] = 7.0
    only = TaskMaps(torch.zeros(1, 2, GRID, GRID), Cells(*(v[[place]] for v in vars(cells).values())), said)
    criterion = CenterCriterion(config, same_on_all_ranks)
    monkeypatch.setattr(type(batch), "surroundings", lambda *_: (only.cells, index[[place]]))
    assert criterion.box_losses(only, batch, (1, 2)).tolist() == pytest.approx([0, 0], abs=1e-4)
