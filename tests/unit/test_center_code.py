"""The center head's box code: axis and direction apart, decoding inverts encoding exactly."""

import numpy as np
import torch

from pdetr3d.geometry.center_code import CODE, CODE_CHANNELS, decode, decode_yaw, encode, part

YAW = torch.linspace(-torch.pi, torch.pi, 721, dtype=torch.float64)[:-1]  # every half degree, the axes' ends among them


def codes(yaw: torch.Tensor) -> torch.Tensor:
    """Codes of cars of 4 x 2 x 1.5 m at (3.3, -2.1, 0.5) with these headings, seen from the corner (3, -3)."""
    n = len(yaw)
    box = torch.cat([torch.tensor([[3.3, -2.1, 0.5, 4, 2, 1.5]], dtype=yaw.dtype).expand(n, 6), yaw[:, None]], 1)
    return encode(box, yaw.new_tensor([[1.0, -2.0]]).expand(n, 2), yaw.new_tensor([[3.0, -3.0]]).expand(n, 2), 0.5)


def apart(one: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    """The angles [rad] between two arrays of headings."""
    return np.abs(np.angle(np.exp(1j * (one - other).numpy())))


def test_the_code_of_a_crossing_bus_by_hand() -> None:
    """Heading +y (yaw pi/2) at (3.3, -2.1): its axis is twice that, (sin, cos) = (0, -1); l stays along the heading."""
    box = torch.tensor([[3.3, -2.1, 0.5, 11.0, 3.0, 3.5, np.pi / 2]])
    code = encode(box, torch.tensor([[0.0, 8.0]]), torch.tensor([[3.2, -2.4]]), 0.8)
    expected = [0.125, 0.375, 0.5, np.log(11), np.log(3), np.log(3.5), 0, -1, 0, 1, 0, 8]
    np.testing.assert_allclose(code[0], expected, atol=1e-5)
    assert code.shape[1] == CODE_CHANNELS == sum(CODE.values())


def test_decoding_inverts_encoding_at_every_heading() -> None:
    box = decode(codes(YAW), torch.tensor([[3.0, -3.0]], dtype=torch.float64), 0.5)
    np.testing.assert_allclose(box[:, :6], np.tile([3.3, -2.1, 0.5, 4, 2, 1.5], (720, 1)), atol=1e-12)
    assert apart(box[:, 6], YAW).max() < 1e-12 and box[:, 6].abs().max() <= np.pi


def test_the_direction_decides_between_two_headings_and_turns_no_axis() -> None:
    """A direction at most 90 degrees off, of any length, gives the heading; beyond 90 degrees it gives the opposite."""
    for off in np.deg2rad([-179, -91, -89, -45, 0, 30, 89, 91, 150]):
        code = codes(YAW)
        turned = torch.stack([(YAW + off).cos(), (YAW + off).sin()], 1)
        part(code, "direction").copy_(0.01 * turned)
        expected = YAW if abs(off) < np.pi / 2 else YAW + np.pi
        assert apart(decode_yaw(code), expected).max() < 1e-12


def test_a_short_or_tilted_axis_is_read_by_its_angle() -> None:
    """An axis halfway between 80 and 100 degrees gives 90 degrees, whatever its length, and -90 with direction -y."""
    axis = torch.stack([torch.tensor([np.sin(2 * a), np.cos(2 * a)]) for a in np.deg2rad([80, 100])]).mean(0)
    code = codes(torch.zeros(1, dtype=torch.float64))
    part(code, "axis").copy_(axis)
    part(code, "direction").copy_(torch.tensor([[0.3, -2.0]]))
    assert apart(decode_yaw(code), torch.tensor([-np.pi / 2], dtype=torch.float64)).max() < 1e-12


def test_sizes_are_bounded() -> None:
    code = codes(torch.zeros(1, dtype=torch.float64))
    part(code, "size").copy_(torch.tensor([[99.0, -99.0, 0.0]]))
    np.testing.assert_allclose(decode(code, torch.zeros(1, 2), 1.0)[0, 3:6], [np.exp(4), np.exp(-4), 1])
