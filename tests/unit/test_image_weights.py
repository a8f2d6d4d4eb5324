"""Tests of image weights from a file: all known layouts load, others are refused by name, frozen parts stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pdetr3d.config import Config
from pdetr3d.models.image_backbone import image_stages
from pdetr3d.schema import FALLBACK_SIZE_M, DataError
from pdetr3d.training.build import build, check_models, image_weights, initialize_images
from pdetr3d.training.image_weights import read_image_weights
from pdetr3d.training.optim import make_optimizer
from tests.model_cases import make_batch, same_on_all_ranks, tiny_config

RESNET = ["teacher.image_backbone=resnet18", "teacher.image_channels=[128,256,512]", "model.norm=batch"]


def config(*overrides: str) -> Config:
    return tiny_config(*RESNET, *overrides)


def state(seed: int = 5) -> dict[str, torch.Tensor]:
    """Random weights by the plain names (torchvision's: conv1, bn1, layer1.0.conv1 ...), and a classifier."""
    torch.manual_seed(seed)
    values = {
        k: torch.rand_like(v) if v.is_floating_point() else v for k, v in image_stages(config()).state_dict().items()
    }
    assert "layer2.0.downsample.1.running_var" in values and "bn1.weight" in values
    return values


def spelled(kind: str) -> dict[str, object]:
    plain = state()
    if kind == "torchvision":  # without batch counts, as its first files
        counted = {k: v for k, v in plain.items() if not k.endswith("num_batches_tracked")}
        return {**counted, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    prefix = {"mmdetection": "backbone.", "mmdetection3d": "img_backbone.", "parallel": "module.backbone."}[kind]
    detector = {f"{prefix}{k}": v for k, v in plain.items()} | {"neck.conv.weight": torch.zeros(1)}
    if kind == "mmdetection3d":
        detector["pts_backbone.conv.weight"] = torch.zeros(1)
    return {"state_dict": detector, "meta": {"epoch": 12}}


@pytest.mark.parametrize("kind", ["torchvision", "mmdetection", "mmdetection3d", "parallel"])
def test_every_spelling_fills_the_backbone(kind: str, tmp_path: Path) -> None:
    torch.save(spelled(kind), tmp_path / "r.pth")
    with_weights = config(f"teacher.image_weights={tmp_path / 'r.pth'}")
    model = build("teacher", with_weights, FALLBACK_SIZE_M).model
    weights = image_weights(with_weights)
    assert weights is not None
    initialize_images(model, weights)
    expected = state()
    for name, value in model.get_submodule("images.backbone").state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, expected[name]), name


def test_missing_unexpected_and_misshaped_weights_are_named(tmp_path: Path) -> None:
    file, good = tmp_path / "r.pth", state()
    cases = [
        ({k: v for k, v in good.items() if k != "layer1.0.conv1.weight"}, "1 missing: layer1.0.conv1.weight"),
        ({**good, "layer3.0.conv2_offset.weight": torch.zeros(1)}, "1 unexpected: layer3.0.conv2_offset.weight"),
        ({**good, "bn1.weight": torch.zeros(3)}, r"1 of another shape: bn1.weight \(3,\) instead of \(64,\)"),
        ({"encoder.w": torch.zeros(1)}, "0 of 100 weights match; 100 missing: .*, ... and 95 more; 1 unexp"),
        ({}, "0 of 100 weights match"),
    ]
    for content, message in cases:
        torch.save(content, file)
        with pytest.raises(DataError, match=f"teacher.image_weights {file}: .*{message}"):
            read_image_weights(file, image_stages(config()))
    torch.save([1, 2], file)
    with pytest.raises(DataError, match="must hold a state dict"):
        read_image_weights(file, image_stages(config()))


class Payload:
    """A pickled object that would make a folder when loaded."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.flag),)


def test_code_is_refused_and_missing_files_are_named_before_anything_starts(tmp_path: Path) -> None:
    file, flag = tmp_path / "r.pth", tmp_path / "it_ran"
    with pytest.raises(DataError, match="does not exist"):
        check_models(config(f"teacher.image_weights={file}"), FALLBACK_SIZE_M)
    torch.save({**state(), "extra": Payload(flag)}, file)
    with pytest.raises(DataError, match="cannot be read as weights only"):
        check_models(config(f"teacher.image_weights={file}"), FALLBACK_SIZE_M)
    assert not flag.exists()


def test_multipliers_that_match_nothing_are_found_before_anything_starts() -> None:
    with pytest.raises(DataError, match="'SECOND' is the beginning of no parameter name of Teacher; it has backbone"):
        check_models(tiny_config("teacher.optim.lr_multipliers=[[SECOND,0.1]]"), FALLBACK_SIZE_M)
    check_models(tiny_config("teacher.optim.lr_multipliers=[[images.backbone,0.1]]"), FALLBACK_SIZE_M)


def test_frozen_parts_do_not_move_and_the_rest_does() -> None:
    """Naming a weights file freezes stem, first stage and all norms; the file is not read here."""
    frozen = config("teacher.image_weights=some.pth", "teacher.image_frozen_stages=1", "teacher.image_norm_frozen=true")
    task, batch = build("teacher", frozen, FALLBACK_SIZE_M), make_batch()
    task.model.train()
    with torch.no_grad():
        for head in task.model.decoder.box_heads:  # zero at the start: no gradient would pass
            torch.nn.init.normal_(head.weight, std=0.1)
    before = {k: v.clone() for k, v in task.model.get_submodule("images.backbone").state_dict().items()}
    optimizer = make_optimizer(task.model, task.optim)
    sum(task.losses(task.model(batch), batch, same_on_all_ranks).values()).backward()
    optimizer.step()
    after = task.model.get_submodule("images.backbone").state_dict()
    moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert moved == {
        k for k in after if k.startswith(("layer2", "layer3", "layer4")) and ".bn" not in k and after[k].ndim == 4
    }


def test_without_weights_nothing_is_frozen() -> None:
    model = build(
        "teacher", config("teacher.image_frozen_stages=1", "teacher.image_norm_frozen=true"), FALLBACK_SIZE_M
    ).model
    backbone = model.get_submodule("images.backbone")
    assert all(p.requires_grad for p in backbone.parameters())
    assert all(m.training for m in backbone.train().modules())
