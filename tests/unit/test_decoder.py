"""The box code: relative to the click, in the viewing frame and in the LiDAR frame."""

import numpy as np
import pytest
import torch

from pdetr3d.models.box_code import (
    CENTER_STD,
    along_code,
    center_unit,
    decode_click_box,
    encode_click_box,
    join_frames,
    viewing_direction,
)
from pdetr3d.schema import FALLBACK_SIZE_M
from tests.model_cases import make_batch


def test_code_round_trip() -> None:
    batch = make_batch()
    prior = torch.tensor(FALLBACK_SIZE_M)[batch.click_label]
    box = torch.cat([batch.box[..., :3], prior * torch.rand_like(prior).add(0.5), batch.box[..., 6:]], -1)
    code = encode_click_box(box, batch.click, prior, viewing_direction(batch.click))
    torch.testing.assert_close(
        decode_click_box(code, batch.click, prior, viewing_direction(batch.click)), box, atol=1e-5, rtol=1e-5
    )


def test_code_by_hand() -> None:
    """The click is 10 m to the left: the viewing direction is +y, and -x is to its left.

    The code's units are a tenth of the footprint diagonal for offsets and 0.2 for log sizes.
    """
    click, prior = torch.tensor([[0.0, 10.0, 1.0]]), torch.tensor([[4.0, 3.0, 2.0]])  # footprint diagonal 5 m
    # Heading left of the ray: yaw 90 degrees (sin 1, cos 0), axis at 180 degrees of 2 yaw (sin 0, cos -1).
    code = torch.tensor([[2, 1, 5, 0, 5 * np.log(2), 0, 1, 0, 0, -1]], dtype=torch.float32)
    expected = torch.tensor([[-0.5, 11.0, 2.0, 4.0, 6.0, 2.0, np.pi]], dtype=torch.float32)
    box = decode_click_box(code, click, prior, viewing_direction(click))
    box[..., 6] = box[..., 6].abs()  # pi and -pi are one heading
    torch.testing.assert_close(box, expected, atol=1e-5, rtol=0)


def test_the_axis_is_that_of_the_double_angle_and_its_direction_that_of_the_single() -> None:
    click, prior = torch.tensor([[10.0, 0.0, 0.0]]), torch.ones(1, 3)  # the ray is +x
    axis = np.pi / 6
    for sin, cos, expected in [
        (0.1, 0.1, axis),
        (-0.1, -0.1, axis - np.pi),
        (0.9, 0.0, axis),
        (0.0, -0.2, axis - np.pi),
    ]:
        code = torch.tensor([[0, 0, 0, 0, 0, 0, sin, cos, np.sin(2 * axis), np.cos(2 * axis)]], dtype=torch.float32)
        assert decode_click_box(code, click, prior, viewing_direction(click))[0, 6].item() == pytest.approx(
            expected, abs=1e-5
        )


def test_a_turned_scene_has_the_same_code() -> None:
    batch, angle = make_batch(), torch.tensor(2.0)
    prior = torch.tensor(FALLBACK_SIZE_M)[batch.click_label]
    rotation = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]])
    turned = torch.cat([batch.box[..., :3] @ rotation.T, batch.box[..., 3:6], batch.box[..., 6:] + angle], -1)
    expected = encode_click_box(batch.box, batch.click, prior, viewing_direction(batch.click))
    click = batch.click @ rotation.T
    code = encode_click_box(turned, click, prior, viewing_direction(click))
    torch.testing.assert_close(code, expected, atol=1e-5, rtol=0)


def test_either_frame_can_say_the_whole_flat_part_of_a_code() -> None:
    batch = make_batch()
    prior = torch.tensor(FALLBACK_SIZE_M)[batch.click_label]
    expected = encode_click_box(batch.box, batch.click, prior, viewing_direction(batch.click))
    zero = torch.zeros(*expected.shape[:-1], 6)
    torch.testing.assert_close(join_frames(torch.cat([expected, zero], -1), viewing_direction(batch.click)), expected)
    shift = (batch.box[..., :2] - batch.click[..., :2]) / (CENTER_STD * center_unit(prior)[..., :2])
    yaw = batch.box[..., 6]
    in_lidar_frame = torch.stack([*shift.unbind(-1), yaw.sin(), yaw.cos(), (2 * yaw).sin(), (2 * yaw).cos()], -1)
    upright = expected * torch.tensor([0, 0, 1, 1, 1, 1, 0, 0, 0, 0])
    joined = join_frames(torch.cat([upright, in_lidar_frame], -1), viewing_direction(batch.click))
    torch.testing.assert_close(joined, expected, atol=1e-5, rtol=1e-5)


def test_in_the_frame_of_its_own_heading_a_box_s_code_is_the_same_at_every_angle() -> None:
    """The box center is 0.4 m ahead of the click and 0.2 m to its left, and the box is a tenth longer than the mean."""
    prior, click = torch.tensor([[4.0, 3.0, 2.0]]).repeat(3, 1), torch.tensor([[10.0, 5.0, 0.0]]).repeat(3, 1)
    yaw = torch.tensor([0.3, 2.0, -2.5])
    frame = torch.stack([yaw.cos(), yaw.sin()], -1)
    center = click.clone()
    center[:, 0] += 0.4 * yaw.cos() - 0.2 * yaw.sin()
    center[:, 1] += 0.4 * yaw.sin() + 0.2 * yaw.cos()
    box = torch.cat([center, prior * torch.tensor([1.1, 1.0, 1.0]), yaw[:, None]], -1)
    # Units: a tenth of the footprint's diagonal of 5 m, a fifth in log size.
    expected = torch.tensor([0.8, 0.4, 0, np.log(1.1) / 0.2, 0, 0, 0, 1, 0, 1], dtype=torch.float32).repeat(3, 1)
    torch.testing.assert_close(encode_click_box(box, click, prior, frame), expected, atol=1e-5, rtol=1e-5)
    along = decode_click_box(along_code(frame), click, prior, frame)
    torch.testing.assert_close(along, torch.cat([click, prior, yaw[:, None]], -1), atol=1e-5, rtol=1e-5)
