"""Teacher and student on pillars and on voxels: shapes, names in the checkpoint, weights handed over."""

from __future__ import annotations

import pytest
import torch

from pdetr3d.config import Config
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import build, initialize_lidar
from tests.model_cases import make_batch, tiny_config

LIDARS = {
    "pillar": [],
    "voxel": [
        "model.lidar=voxel",
        "model.voxel_m=[0.4,0.4,0.4]",
        "model.voxel_channels=[4,6,8]",
        "model.backbone_channels=[8,16]",
        "model.backbone_layers=[0,1]",
        "model.backbone_strides=[1,2]",
        "student.neck_channels=[8,8]",
        "student.neck_strides=[1,2]",
    ],
}


def config_of(lidar: str) -> Config:
    return tiny_config(*LIDARS[lidar])


@pytest.mark.parametrize("lidar", LIDARS)
def test_the_head_sees_cells_of_the_size_the_config_says(lidar: str) -> None:
    config = config_of(lidar)
    model = build("student", config, FALLBACK_SIZE_M).model
    batch = make_batch()
    cells = round(25.6 / config.student_cell_m)
    assert cells == {"pillar": 32, "voxel": 16}[lidar]
    assert model.features(batch.points, batch.point_sample, 2).shape[-2:] == (cells, cells)  # type: ignore[operator]


@pytest.mark.parametrize("lidar", LIDARS)
def test_a_point_lights_up_its_own_cell(lidar: str) -> None:
    """The untrained network responds most near a lone cluster: within 4 m (a cell of the coarsest stage is 3.2 m)."""
    config = config_of(lidar)
    model = build("student", config, FALLBACK_SIZE_M).model.eval()
    x, y = 7.3, -4.1
    points = torch.randn(200, 5) * 0.2 + torch.tensor([x, y, 0.0, 1.0, 0.0])
    with torch.no_grad():
        features = model.features(points, torch.zeros(200, dtype=torch.long), 1)  # type: ignore[operator]
        nothing = model.features(points[:0], torch.zeros(0, dtype=torch.long), 1)  # type: ignore[operator]
    change = (features - nothing).abs().sum(1)[0]
    row, column = divmod(int(change.argmax()), change.shape[1])
    assert abs((column + 0.5) * config.student_cell_m - 12.8 - x) <= 4
    assert abs((row + 0.5) * config.student_cell_m - 12.8 - y) <= 4


@pytest.mark.parametrize("lidar", LIDARS)
@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_all_parameters_learn(stage: str, lidar: str) -> None:
    task = build(stage, config_of(lidar), FALLBACK_SIZE_M)
    batch = make_batch(clicks=20)
    sum(task.losses(task.model(batch), batch, lambda value: value.detach()).values()).backward()
    assert [name for name, p in task.model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("lidar", LIDARS)
def test_a_student_hands_its_lidar_weights_to_a_teacher(lidar: str) -> None:
    config = config_of(lidar)
    student, teacher = (build(stage, config, FALLBACK_SIZE_M).model for stage in ("student", "teacher"))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.uniform_()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    initialize_lidar(teacher, student.state_dict())
    moved = {name for name, value in teacher.state_dict().items() if not torch.equal(value, before[name])}
    lidar_parameters = {n for n, _ in student.named_parameters() if n.startswith((f"{lidar}s.", "backbone."))}
    assert moved == lidar_parameters and any(name.startswith(f"{lidar}s.") for name in moved)
    for name in moved:
        assert torch.equal(teacher.state_dict()[name], student.state_dict()[name])
