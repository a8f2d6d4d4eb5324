"""Corners and projections of tensors equal those of arrays."""

import numpy as np
import torch

from pdetr3d.geometry import boxes, camera, tensors

BOX = np.array([[8.0, -1.0, -0.5, 4.6, 1.9, 1.7, 0.8], [-3.0, 12.0, 1.0, 0.5, 0.7, 1.8, -2.5]])
LIDAR2IMG = np.array([[300, 400, 0, 5], [200, 0, -400, 7], [1, 0.1, 0, 0.2], [0, 0, 0, 1]])


def test_corners_are_in_the_same_order() -> None:
    expected = boxes.corners(BOX[:, :3], BOX[:, 3:6], BOX[:, 6])
    found = tensors.box_corners(torch.tensor(BOX).reshape(1, 2, 7))
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-12)


def test_points_in_front_have_the_same_pixels() -> None:
    """The second box is behind the camera: its pixels are finite, and the caller masks them by depth."""
    points = torch.tensor(boxes.corners(BOX[:, :3], BOX[:, 3:6], BOX[:, 6]))  # (2, 8, 3): two samples of 8 points
    matrices = torch.tensor(np.stack([LIDAR2IMG, LIDAR2IMG * 2]))[None].repeat(2, 1, 1, 1)
    pixel, depth = tensors.project(matrices, points)
    assert pixel.shape == (2, 2, 8, 2) and pixel.isfinite().all()
    for sample in (0, 1):
        for view in (0, 1):
            expected, expected_depth = camera.project(matrices[sample, view].numpy(), points[sample].numpy())
            np.testing.assert_allclose(depth[sample, view], expected_depth, atol=1e-12)
            seen = expected_depth >= camera.MIN_DEPTH_M
            np.testing.assert_allclose(pixel[sample, view][seen], expected[seen], atol=1e-9)
    assert (depth[0] > 0.1).all() and (depth[1] < 0.1).all()
    np.testing.assert_allclose(tensors.pixel_of(torch.tensor([3.0, 4.0, -1.0])), [30, 40])
    uv, size = torch.tensor([[0.0, 5], [9.9, 5], [10, 5], [-0.1, 5], [5, 8]]), (10, 8)
    seen = tensors.inside(uv, torch.tensor(size))
    assert seen.tolist() == camera.in_image(uv.numpy(), size).tolist() == [True, True, False, False, False]
