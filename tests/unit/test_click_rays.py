"""Clicks from rays: pixels to rays, rays to LiDAR points or the ground, images on the sheet; values by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdetr3d.click import marks
from pdetr3d.click.rays import Hit, Ray, cut, nearest, pixel_ray
from pdetr3d.click.sheet import Tile, through, tiles, width_m
from pdetr3d.click.views import above, over
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.storage.points import read_lidar
from pdetr3d.geometry.camera import in_image, project
from pdetr3d.schema import CAMERAS, Boxes3D, CameraRecord

LIDAR2EGO = np.eye(4)
LIDAR2EGO[2, 3] = 1.8  # the ground is z = -1.8 in the LiDAR's frame
NO_POINTS = np.zeros((0, 3), np.float32)
# A camera 1 m over the LiDAR that looks along +y: u = 100 x / y + 80, v = -100 (z - 1) / y + 45.
LIDAR2IMG = np.array([[100.0, 80, 0, 0], [0, 45, -100, 100], [0, 1, 0, 0], [0, 0, 0, 1]])
CAMERA = CameraRecord("front.jpg", 160, 90, LIDAR2IMG)
DOWN = (0, 0, -1)


def from_above(points: list, x: float = 3.0, y: float = 4.0) -> Hit | None:
    return cut(Ray.of((x, y, 100), DOWN), np.array(points, np.float32).reshape(-1, 3), LIDAR2EGO)


def test_rays_of_pixels() -> None:
    ray = pixel_ray(LIDAR2IMG, (80, 45))
    np.testing.assert_allclose(ray.origin_m, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(ray.direction, [0, 1, 0], atol=1e-12)
    # 100 px to the right at a focal length of 100 px: 45 degrees. 100 px down: as much below the horizon.
    np.testing.assert_allclose(pixel_ray(LIDAR2IMG, (180, 45)).direction, [0.5**0.5, 0.5**0.5, 0], atol=1e-12)
    np.testing.assert_allclose(pixel_ray(LIDAR2IMG, (80, 145)).direction, [0, 0.5**0.5, -(0.5**0.5)], atol=1e-12)


def test_rays_of_a_dataset_pass_through_what_is_seen_in_their_pixels(sim_world: Path, tmp_path: Path) -> None:
    index = Index.open(build_index(sim_world, "v1.0-sim", tmp_path / "index.arrow"))
    record = index.record(index.tokens("sim_train")[0])
    points = read_lidar(Path(record.lidar_path))[:, :3].astype(np.float64)
    for camera in record.cameras:
        assert camera is not None
        uv, _ = project(camera.lidar2img, points)
        seen = np.flatnonzero(in_image(uv, (camera.width_px, camera.height_px)))[:20]
        assert len(seen)
        for i in seen:
            along, off = pixel_ray(camera.lidar2img, uv[i]).apart(points[i : i + 1])
            assert along[0] > 0 and off[0] < 1e-6


def test_a_ray_ends_on_the_ground_where_there_are_no_points() -> None:
    hit = from_above([])
    assert hit is not None and hit.on == "ground"
    np.testing.assert_allclose(hit.xyz_m, [3, 4, -1.8])
    # 100 px under the horizon from 2.8 m over the ground: 2.8 m ahead.
    hit = cut(pixel_ray(LIDAR2IMG, (80, 145)), NO_POINTS, LIDAR2EGO)
    assert hit is not None
    np.testing.assert_allclose(hit.xyz_m, [0, 2.8, -1.8], atol=1e-9)


def test_a_ray_that_meets_nothing() -> None:
    assert cut(Ray.of((0, 0, 0), (0, 1, 0.1)), NO_POINTS, LIDAR2EGO) is None
    assert cut(Ray.of((0, 0, 0), (0, 1, -0.01)), NO_POINTS, LIDAR2EGO) is None  # ground 180 m away
    assert cut(Ray.of((0, 0, -5), DOWN), NO_POINTS, LIDAR2EGO) is None  # starts under the ground
    assert cut(Ray.of((0, 0, 0), (0, 1, 0)), np.array([[0, -5.0, 0]]), LIDAR2EGO) is None  # a point behind


def test_the_click_lies_on_the_ray_beside_the_first_point() -> None:
    hit = from_above([[3.1, 4, 0.5], [3, 4, -1.8]])  # a roof 0.1 m aside, the ground under it
    assert hit is not None and hit.on == "lidar"
    np.testing.assert_allclose(hit.xyz_m, [3, 4, 0.5], atol=1e-6)


def test_of_points_close_behind_the_first_the_nearest_to_the_ray_counts() -> None:
    for second, expected in ((0.4, 0.4), (0.2, 1.0)):  # 0.6 m behind the first: counts; 0.8 m: does not
        hit = from_above([[3.14, 4, 1.0], [3.02, 4, second]])
        assert hit is not None and hit.xyz_m[2] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("point", "on"),
    [
        ([3.14, 4, 0], "lidar"),  # within 0.15 m
        ([3.16, 4, 0], "ground"),
        ([30.25, 0, 0], "lidar"),  # 30 m from the LiDAR: within 0.3 m
        ([30.32, 0, 0], "ground"),
        ([60.45, 0, 0], "lidar"),  # never more than 0.5 m
        ([60.55, 0, 0], "ground"),
        ([3, 4, 3.1], "lidar"),  # 4.9 m over the ground
        ([3, 4, 3.3], "ground"),  # 5.1 m: a tree
        ([3, 4, -2.7], "lidar"),
        ([3, 4, -2.9], "ground"),  # 1.1 m under the ground: a reflection
    ],
)
def test_which_points_are_hit(point: list, on: str) -> None:
    x, y = (3.0, 4.0) if point[0] < 10 else (round(point[0] / 10) * 10.0, 0.0)
    hit = from_above([point], x, y)
    assert hit is not None and hit.on == on


def test_the_place_that_a_ray_means() -> None:
    places = np.array([[3.0, 4.0, 0], [3.3, 4, 0], [9, 9, 0]])
    assert nearest(Ray.of((3.2, 4, 10), DOWN), places) == 1
    assert nearest(Ray.of((3.9, 4, 10), DOWN), places) is None  # 0.6 m away
    assert nearest(Ray.of((3.9, 4, 100), DOWN), places) == 1  # seen from 100 m: 2 m count
    assert nearest(Ray.of((0, 0, 10), DOWN), np.zeros((0, 3))) is None


def sheet() -> list[Tile]:
    cameras: list[CameraRecord | None] = [None] * 6
    cameras[CAMERAS.index("CAM_FRONT")] = CAMERA
    return tiles(cameras)


def test_images_lie_beside_the_points_and_their_pixels_are_found_again() -> None:
    (tile,) = sheet()
    # Three to a column of 104 m with gaps of 1 m: 34 m high, 34 * 16 / 9 = 60.44 m wide, from x = -53 m to the left.
    assert tile.size_m == pytest.approx((60.4444, 34.0), abs=1e-3)
    assert tile.middle_m == pytest.approx((-53 - 30.2222, 0.0), abs=1e-3)
    assert width_m([tile]) == pytest.approx(2 * (53 + 60.4444), abs=1e-3)
    corners = tile.place(np.array([[0.0, 0.0], [160.0, 90.0]]))
    np.testing.assert_allclose(corners, [[-113.4444, 17, -2], [-53, -17, -2]], atol=1e-3)  # top left, bottom right
    np.testing.assert_allclose(tile.pixel(tile.place(np.array([12.0, 34.0]))[:2]), [12, 34], atol=1e-9)


def test_a_click_on_an_image_means_the_ray_of_its_pixel() -> None:
    (tile,) = sheet()
    x, y, z = tile.place(np.array([80.0, 145.0 - 100]))
    ray, found = through(Ray.of((x, y, 300), DOWN), [tile])
    assert found is tile
    np.testing.assert_allclose(ray.origin_m, [0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(ray.direction, [0, 1, 0], atol=1e-9)
    beside = Ray.of((x, 17.5, 300), DOWN)  # in the gap over the image
    assert through(beside, [tile]) == (beside, None)
    assert through(Ray.of((x, y, 300), DOWN), [])[1] is None  # hidden


def test_views_show_all_there_is() -> None:
    (tile,) = sheet()
    half = np.tan(np.radians(10))
    for aspect in (1.0, 1.6, 4.0):
        view = above([tile], aspect)
        high = (view.position_m[2] + 2) * half  # half of the visible height at the sheet
        assert high >= 52 and high * aspect >= 113.4444
        view = over(tile, aspect)
        high = (view.position_m[2] + 2) * half
        assert high >= 17 and high * aspect >= 30.2222
        assert view.look_at_m == (*tile.middle_m, -2.0)


def test_marks_of_clicks_and_boxes() -> None:
    (tile,) = sheet()
    assert marks.crosses(np.array([[1.0, 2, 3]])).mean(1)[:2].tolist() == [[1, 2, 3], [1, 2, 3]]
    seen, behind = [0.0, 10, 1], [0.0, -10, 1]
    segments, of = marks.on_images(np.array([behind, seen]), [tile])
    assert of.tolist() == [1, 1]  # only the second is seen, at the image's middle
    np.testing.assert_allclose(segments.mean(1), [[*tile.middle_m, -1.95]] * 2)
    box = Boxes3D.build(np.array([[0, 20, 1]]), np.array([[4, 2, 1]]), np.array([np.pi / 2]), np.array([0]))
    edges = marks.box_edges(box)
    assert edges.shape == (13, 2, 3)
    np.testing.assert_allclose(edges[-1], [[0, 20, 0.5], [0, 22, 0.5]], atol=1e-5)  # heading: bottom, middle to front
    assert len(marks.edges_on_images(edges, [tile])) == 13
    assert marks.edges_on_images(marks.box_edges(Boxes3D.empty()), [tile]).shape == (0, 2, 3)
    rim = marks.circle(np.array([1.0, 2, 3]), 2.0)
    np.testing.assert_allclose(np.linalg.norm(rim - [1, 2, 3], axis=-1), 2.0)
