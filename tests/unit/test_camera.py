"""Projection: hand-made cameras and the devkit's own steps."""

from __future__ import annotations

import numpy as np
import pytest
from nuscenes.utils.geometry_utils import view_points

from pdetr3d.geometry import camera

# Looks along LiDAR +y: image right = +x, image down = -z. Focal length 100 px, image 200 x 100 px.
LIDAR2CAM = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
INTRINSIC = [[100.0, 0, 100], [0, 100, 50], [0, 0, 1]]
LIDAR2IMG = camera.compose_lidar2img(LIDAR2CAM, INTRINSIC)


def test_project_by_hand() -> None:
    points = np.array([[0, 10, 0], [5, 10, 0], [0, 10, 2], [0, -10, 0], [10, 10, 0]])
    uv, depth = camera.project(LIDAR2IMG, points)
    np.testing.assert_allclose(uv[[0, 1, 2, 4]], [[100, 50], [150, 50], [100, 30], [200, 50]])
    np.testing.assert_allclose(depth, [10, 10, 10, -10, 10])
    assert np.isnan(uv[3]).all()
    # Corners at integers: u = 200 is the right border of 200 pixels, not inside.
    assert camera.in_image(uv, (200, 100)).tolist() == [True, True, True, False, False]


def test_project_equals_view_points() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((-5, 1, -3), (5, 40, 3), (50, 3))
    in_camera = points @ LIDAR2CAM[:3, :3].T
    expected = view_points(in_camera.T, np.array(INTRINSIC), normalize=True)[:2].T
    np.testing.assert_allclose(camera.project(LIDAR2IMG, points)[0], expected, atol=1e-9)


def test_resizing_scales_pixels() -> None:
    points = np.array([[1.0, 7, 0.5], [-2, 20, -1]])
    uv, depth = camera.project(LIDAR2IMG, points)
    small, small_depth = camera.project(camera.resize_lidar2img(LIDAR2IMG, 0.25, 0.5), points)
    np.testing.assert_allclose(small, uv * [0.25, 0.5])
    np.testing.assert_allclose(small_depth, depth)


def test_segments_are_cut_at_the_near_plane() -> None:
    through = [[0, -5.0, -1], [0, 5.0, -1]]  # from behind the camera to 5 m ahead, 1 m below it
    behind = [[0, -5.0, 0], [1, -1.0, 0]]
    ahead = [[0, 10.0, 0], [5, 10.0, 0]]
    px = camera.project_segments(LIDAR2IMG, np.array([through, behind, ahead]))
    assert px.shape == (2, 2, 2)
    np.testing.assert_allclose(px[0], [[100, 50 + 100 / camera.MIN_DEPTH_M], [100, 70]])
    np.testing.assert_allclose(px[1], [[100, 50], [150, 50]])


def test_empty() -> None:
    uv, depth = camera.project(LIDAR2IMG, np.zeros((0, 3)))
    assert uv.shape == (0, 2) and depth.shape == (0,) and camera.in_image(uv, (4, 4)).shape == (0,)
    assert camera.project_segments(LIDAR2IMG, np.zeros((0, 2, 3))).shape == (0, 2, 2)


BROKEN = {
    "not finite": [[np.nan, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no focal length": [[0.0, 0, 0], [0, 1, 0], [0, 0, 1]],
    "nothing": [],
    "column by column": [[100.0, 0, 0], [0, 100, 0], [80, 45, 1]],
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_broken_intrinsic_is_refused(broken: list) -> None:
    with pytest.raises(ValueError, match="camera_intrinsic"):
        camera.compose_lidar2img(np.eye(4), broken)
