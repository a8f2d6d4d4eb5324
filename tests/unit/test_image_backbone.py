"""Image stages and levels: strides, padding, and that every level covers the same pixels."""

from __future__ import annotations

import pytest
import torch

from pdetr3d.models.image_backbone import ImageEncoder
from tests.model_cases import tiny_config

RESNET = ["teacher.image_backbone=resnet18", "teacher.image_channels=[128,256,512]", "teacher.fpn_levels=4"]


@pytest.mark.parametrize(
    ("overrides", "strides"),
    [
        (["teacher.fpn_levels=3"], (4, 8, 16)),
        (["teacher.fpn_levels=4"], (4, 8, 16, 32)),
        (["teacher.fpn_levels=2"], (4, 8)),  # the third stage still feeds them from above
        (RESNET, (8, 16, 32, 64)),  # method.md 2.4: start level 1
    ],
)
def test_levels_cover_the_padded_image(overrides: list[str], strides: tuple[int, ...]) -> None:
    encoder = ImageEncoder(tiny_config(*overrides))
    images = torch.randint(0, 256, (1, 2, 75, 130, 3), dtype=torch.uint8)
    width, height = encoder.padded_size(images)
    coarsest = max(16, strides[-1])
    assert (width, height) == (130 + -130 % coarsest, 75 + -75 % coarsest)
    levels = encoder(images)
    assert [tuple(level.shape) for level in levels] == [(1, 2, 24, height // s, width // s) for s in strides]


def test_padding_is_the_mean_color_and_leaves_the_rest_alone() -> None:
    """A padded image gives the features of an image of the padded size whose border has the mean color."""
    encoder = ImageEncoder(tiny_config()).eval()
    images = torch.randint(0, 256, (1, 1, 70, 64, 3), dtype=torch.uint8)
    whole = encoder.mean.expand(1, 1, 80, 64, 3).clone()
    whole[:, :, :70] = images
    for padded, given in zip(encoder(images), encoder(whole), strict=True):
        torch.testing.assert_close(padded, given, atol=1e-5, rtol=1e-5)


def test_sizes_that_fit_are_not_padded() -> None:
    assert ImageEncoder(tiny_config()).padded_size(torch.zeros(1, 6, 144, 256, 3)) == (256, 144)
