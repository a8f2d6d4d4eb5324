"""Tests of ``pdetr3d import-weights``: the student's maps equal those of a CenterPoint in either framework's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pdetr3d.batch import Cells
from pdetr3d.cli import main
from pdetr3d.config import Config
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.loading.load import load_sample
from pdetr3d.finished.deploy.source import TrainedStudent
from pdetr3d.geometry.center_code import part
from pdetr3d.importers.centerpoint import BRANCHES
from pdetr3d.inference.student import StudentPredictor
from tests.deploy_cases import VOXEL
from tests.model_cases import TINY, make_batch, tiny_config
from tests.reference.centerpoints import Mm, Pc, shake

KEYS = ["model.norm=batch", "student.tasks=[[0],[1,2],[3,4],[5],[6,7],[8,9]]", "student.score_threshold=0.05"]
PILLAR = ["student.neck_strides=[0.5,1,2]", "model.backbone_strides=[1,2,2]", "model.backbone_layers=[1,0,2]"]
MODELS = {"pillar": PILLAR, "voxel": VOXEL}
NETS = {"mmdetection3d": Mm, "OpenPCDet": Pc}
# No pillar and no voxel may hold more points than fit: which of them count differs.
ROOM = ["model.pillar_points=1000", "model.voxel_points=1000"]


def saved(framework: str, config: Config, file: Path, seed: int = 0, **options: bool) -> nn.Module:
    """A model of random weights, and its checkpoint as the framework writes it."""
    torch.manual_seed(seed)
    net = shake(NETS[framework](config, **options), seed)
    if framework == "mmdetection3d":
        torch.save({"meta": {"epoch": 20, "CLASSES": ["car"]}, "state_dict": net.state_dict(), "optimizer": {}}, file)
    else:
        torch.save({"epoch": 20, "it": 1, "model_state": net.state_dict(), "version": "pcdet+0.6.0"}, file)
    return net


def imported(file: Path, out: Path, keys: list[str], *more: str) -> int:
    return main(["import-weights", str(file), "--out", str(out), *TINY, *keys, *more])


@torch.no_grad()
def our_maps(trained: TrainedStudent, points: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The heatmaps and the codes (12, H, W) of all cells."""
    student, sample = trained.model, torch.zeros(len(points), dtype=torch.long)
    shared, heatmaps = student.head(student.features(points, sample, 1))
    rows, columns = heatmaps[0].shape[-2:]
    row, column = (grid.flatten() for grid in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    cells = Cells(torch.zeros_like(row), row, column)
    return heatmaps, [regression(shared, cells) for regression in student.head.regressions]


@torch.no_grad()
def assert_the_same_maps(net: nn.Module, framework: str, trained: TrainedStudent, points: Tensor) -> None:
    heatmaps, codes = our_maps(trained, points)
    for theirs, heatmap, code in zip(net(points), heatmaps, codes, strict=True):
        wanted = theirs["heatmap" if framework == "mmdetection3d" else "hm"]
        torch.testing.assert_close(heatmap, wanted, atol=2e-4, rtol=1e-4)
        assert heatmap.std() > 0.01
        for ours, name in BRANCHES[framework].items():
            mine = part(code, ours).T
            other = theirs[name][0].flatten(1)
            if ours == "direction" and framework == "mmdetection3d":
                other = other.flip(0)  # (sin, cos)
            torch.testing.assert_close(mine, other, atol=2e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("framework", NETS)
@pytest.mark.parametrize("kind", MODELS)
def test_the_maps_are_theirs(kind: str, framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [*KEYS, *MODELS[kind], *ROOM]
    config = tiny_config(*keys)
    net = saved(framework, config, tmp_path / "theirs.pth")
    assert imported(tmp_path / "theirs.pth", tmp_path / "out", keys) == 0
    assert framework in capsys.readouterr().out
    trained = TrainedStudent.load(tmp_path / "out" / "checkpoint.pt")
    points = make_batch(1, points=1500, seed=3).points
    points[:300, :2] = points[:300, :2] * 0.05  # pillars and voxels of many points
    assert_the_same_maps(net, framework, trained, points)
    lists = json.loads((tmp_path / "out" / "import.json").read_text())
    assert lists["unused"] == [] and all(".outputs.axis." in name for name in lists["kept"])
    wanted = {n for n in net.state_dict() if not n.endswith(("num_batches_tracked", "global_step"))}
    assert set(lists["mapped"]) == wanted


@pytest.mark.parametrize("kind", MODELS)
def test_the_maps_are_theirs_on_the_real_keyframe(kind: str, real_data: Path, tmp_path: Path) -> None:
    keys = [*KEYS, *MODELS[kind], "model.pillar_points=100", "model.voxel_points=1000"]
    config = tiny_config(*keys)
    index = Index.open(build_index(real_data, "v1.0-mini", tmp_path / "index.arrow"))
    record = index.record(index.tokens("mini_train")[0])
    points = torch.from_numpy(load_sample(record, config.data, cameras=False).points)
    assert len(points) > 20_000
    points = points[:: 8 if kind == "voxel" else 16]
    pillar = torch.floor(points[:, :2] / 0.8).long().unique(dim=0, return_counts=True)[1]
    assert config.model.pillar_m == 0.8 and pillar.max() <= 100 and len(pillar) > 300
    for framework in NETS:
        net = saved(framework, config, tmp_path / "theirs.pth", seed=1)
        assert imported(tmp_path / "theirs.pth", tmp_path / framework, keys) == 0
        trained = TrainedStudent.load(tmp_path / framework / "checkpoint.pt")
        assert_the_same_maps(net, framework, trained, points)


def test_pillars_without_the_height_of_their_center(tmp_path: Path) -> None:
    keys = [*KEYS, *PILLAR, *ROOM]
    net = saved("mmdetection3d", tiny_config(*keys), tmp_path / "theirs.pth", with_z=False)
    assert imported(tmp_path / "theirs.pth", tmp_path / "out", keys) == 0
    trained = TrainedStudent.load(tmp_path / "out" / "checkpoint.pt")
    assert trained.config.model.pad_pillars and trained.model.pillars.padding.max() > 0
    assert_the_same_maps(net, "mmdetection3d", trained, make_batch(1, points=800, seed=4).points)


def test_boxes_head_where_theirs_do(tmp_path: Path) -> None:
    keys = [*KEYS, *PILLAR, *ROOM]
    net = saved("mmdetection3d", tiny_config(*keys), tmp_path / "theirs.pth")
    assert imported(tmp_path / "theirs.pth", tmp_path / "out", keys) == 0
    points = make_batch(1, points=800, seed=4).points
    student = StudentPredictor.load(tmp_path / "out" / "checkpoint.pt")
    boxes = student.predict(points.numpy())
    assert student.config.student.heading == "direction" and len(boxes) > 20
    with torch.no_grad():
        maps = net(points)
    headings = [torch.atan2(m["rot"][0, 0], m["rot"][0, 1]).flatten() for m in maps]  # sin, cos
    label_task = {label: task for task, labels in enumerate(student.config.tasks) for label in labels}
    for number in range(len(boxes)):
        theirs = headings[label_task[int(boxes.label[number])]].numpy()
        assert np.abs(np.angle(np.exp(1j * (theirs - boxes.yaw_rad[number])))).min() < 1e-3


def test_two_pillar_layers_do_not_fit_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [*KEYS, *PILLAR]
    net = saved("OpenPCDet", tiny_config(*keys), tmp_path / "theirs.pth")
    state = {**net.state_dict(), "vfe.pfn_layers.1.linear.weight": torch.zeros(8, 8)}
    torch.save({"model_state": state}, tmp_path / "theirs.pth")
    assert imported(tmp_path / "theirs.pth", tmp_path / "out", keys) == 2
    error = capsys.readouterr().err
    assert "has nothing for 6 weights of the student: pillars.padding, pillars.linear.weight" in error
    assert "vfe.pfn_layers.0.linear.weight" in error and "--partial" in error and not (tmp_path / "out").exists()
    assert imported(tmp_path / "theirs.pth", tmp_path / "out", keys, "--partial") == 0
    said = capsys.readouterr().out
    assert "pillars.linear.weight" in said and "vfe.pfn_layers.0.linear.weight" in said


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys, file, out = [*KEYS, *PILLAR], tmp_path / "theirs.pth", tmp_path / "out"
    saved("mmdetection3d", tiny_config(*keys), file)
    cases = [
        ([*keys, "student.head_channels=16"], "weights have another shape: head.shared.0.weight (16, 24, 3, 3) here"),
        ([*keys, "model.norm=group"], "model.norm=group: theirs are batch norms; set model.norm=batch"),
        ([*keys, "model.backbone_layers=[2,0,2]"], "has nothing for 5 weights of the student: backbone.stages.0.2."),
    ]
    for overrides, message in cases:
        assert imported(file, out, overrides) == 2
        error = capsys.readouterr().err
        assert message in error and str(file) in error or "group" in error
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(2)}}, file)
    assert imported(file, out, keys) == 2
    assert (
        "no CenterPoint of mmdetection3d or OpenPCDet: no weight begins with pts_bbox_head." in capsys.readouterr().err
    )
    torch.save([1, 2], file)
    assert imported(file, out, keys) == 2 and "holds no state dict" in capsys.readouterr().err
    assert imported(tmp_path / "no.pth", out, keys) == 2
    assert "no.pth does not exist: name the .pth file" in capsys.readouterr().err
    assert not out.exists()
