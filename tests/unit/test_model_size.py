"""Tests of parameter and FLOP counts: a convolution by hand, and the sum of a model's parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pdetr3d.cli import main
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import build
from pdetr3d.training.model_size import count, measure
from tests.model_cases import QUERY_INITS, tiny_config


def test_a_convolution_by_hand() -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1)
    part = count("conv", [conv], lambda: conv(torch.zeros(2, 3, 10, 20)))
    assert part.parameters == 8 * 3 * 9 + 8
    assert part.flops == 2 * (2 * 10 * 20) * 8 * 3 * 9  # two per multiply-add


@pytest.mark.parametrize(("stage", "init"), [("student", "explicit"), *(("teacher", init) for init in QUERY_INITS)])
def test_the_parts_have_all_parameters(stage: str, init: str) -> None:
    config = tiny_config(*QUERY_INITS[init])
    parts = measure(stage, config)
    whole = build(stage, config, FALLBACK_SIZE_M).model
    assert sum(part.parameters for part in parts) == sum(p.numel() for p in whole.parameters())
    assert all(part.flops > 0 for part in parts if part.name != "query")


def test_the_parts_of_the_crop_regressor() -> None:
    """Beside the crop branch there is a linear head on 24 channels for the box quality of 40 clicks."""
    config = tiny_config("teacher.model=crop")
    crop, heads = measure("teacher", config)
    whole = build("teacher", config, FALLBACK_SIZE_M).model
    assert crop.parameters + heads.parameters == sum(p.numel() for p in whole.parameters())
    assert (heads.parameters, heads.flops) == (25, 2 * 40 * 24)
    assert crop.flops > 0


def test_the_backbone_by_hand() -> None:
    """TINY: 32 x 32 cells of 8 channels; 3x3 convolutions 8-8 (stride 1), 8-8 (2), 8-16 (2), 16-16."""
    backbone = {part.name: part for part in measure("student", tiny_config())}["backbone"]
    macs = 32 * 32 * 8 * 8 * 9 + 16 * 16 * 8 * 8 * 9 + 8 * 8 * 8 * 16 * 9 + 8 * 8 * 16 * 16 * 9
    assert backbone.flops == 2 * macs
    convolutions, norms = 9 * (8 * 8 + 8 * 8 + 8 * 16 + 16 * 16), 2 * (8 + 8 + 16 + 16)
    assert backbone.parameters == convolutions + norms


def test_twice_the_image_is_four_times_the_work() -> None:
    def flops(size: str) -> dict[str, int]:
        return {p.name: p.flops for p in measure("teacher", tiny_config(f"data.image_size_px={size}"))}

    small, large = flops("[64,32]"), flops("[128,64]")
    for name in ("image backbone", "image neck"):
        assert large[name] == 4 * small[name]
    assert large["backbone"] == small["backbone"]


def test_the_command_prints_a_table_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", "--model", "data.num_sweeps=1"]) == 0
    shown = capsys.readouterr().out
    assert "teacher" in shown and "student" in shown and "image backbone" in shown and "GFLOPs" in shown
