"""Tests of the simulator's geometry: rays and boxes, culling windows, drives, room between actors."""

from __future__ import annotations

import numpy as np
import pytest

from pdetr3d.geometry.rigid import apply, chain, inverse, rigid
from pdetr3d.schema import CLASSES
from pdetr3d.simulator import constants as const
from pdetr3d.simulator.camera import render
from pdetr3d.simulator.lidar import scan
from pdetr3d.simulator.objects import build_shape
from pdetr3d.simulator.raycast import expand_windows, intersect, pose_parts, z_buffer
from pdetr3d.simulator.shapes import Shape, pack_parts
from pdetr3d.simulator.space import Space
from pdetr3d.simulator.subtypes import POSTURE, SUBTYPES
from pdetr3d.simulator.tables import calibration, ego_transform
from pdetr3d.simulator.world import Actor, EgoPath, Street, World, actor_poses
from tests.reference.ray_box import ray_box

STILL = EgoPath(0.0, 0, 1.0, 0.0, 0.0, 0.0)


def make_world(actors: list[Actor]) -> World:
    """A street at the global origin with the given actors as solid boxes on the ground."""
    shapes = []
    for actor in actors:
        shape = Shape(actor.size_m, 0.0, 0.0)
        shape.add((-1, 1), (-1, 1), (0, 1), (200, 10, 10))
        shapes.append(shape.frusta)
    street = Street(3.5, float("nan"), 3.5, 1, 1)
    return World(STILL, actors, pack_parts(shapes), street, (0.0, 0.0, 0.0), np.array([0.0, 0.6, 0.8]), 0.5, 1.0)


def test_rays_hit_an_axis_aligned_box_where_the_slab_oracle_says() -> None:
    rng = np.random.default_rng(1)
    world = make_world([Actor("car", (4.0, 2.0, 1.5), 3.0, -2.0, 0.0)])
    sensor = np.array([-2.0, 1.0, 1.8])
    directions = rng.normal(size=(4000, 3)).astype(np.float32)
    directions[:2000] = (rng.uniform((1, -3, 0), (5, -1, 1.5), (2000, 3)) - sensor).astype(np.float32)
    t, face = intersect(pose_parts(world.parts, world.poses(0.0), sensor), np.zeros(4000, np.int64), directions)
    expected = np.array([ray_box(sensor, d.astype(float), (1, -3, 0), (5, -1, 1.5)) for d in directions])
    assert 2000 <= np.isfinite(expected).sum() < 4000
    np.testing.assert_array_equal(np.isfinite(t), np.isfinite(expected))
    hit = np.isfinite(t)
    np.testing.assert_allclose(t[hit], expected[hit], rtol=1e-4)
    # The sensor is behind (-x), left (+y) and above: rear, left and top can be entered, and each is.
    assert set(face[hit]) == {1, 2, 4}


def test_no_rays_and_no_parts_are_fine() -> None:
    world = make_world([])
    posed = pose_parts(world.parts, world.poses(0.0), np.zeros(3))
    none = np.zeros(0, np.int64)
    assert len(intersect(posed, none, np.zeros((0, 3), np.float32))[0]) == 0
    assert all(len(a) == 0 for a in expand_windows(none, none, none, none))
    depth, winner = z_buffer(np.array([5.0, np.inf], np.float32), none, np.zeros(0, np.float32))
    assert depth.tolist() == [5.0, np.inf] and winner.tolist() == [-1, -1]
    points = scan(world, lidar_pose(), 0.0, 90, np.random.default_rng(0))
    assert len(points) > 1000 and points[:, 2].max() < -1.5  # the ground alone


def test_windows_list_every_cell_once() -> None:
    window = [np.array(v) for v in ([1, 7, 0], [2, 0, 1], [5, 3, -1], [3, 4, 2])]
    assert list(zip(*(a.tolist() for a in expand_windows(*window)), strict=True)) == [
        (0, 1, 5), (0, 1, 6), (0, 1, 7), (0, 2, 5), (0, 2, 6), (0, 2, 7), (2, 0, -1), (2, 0, 0),
    ]  # fmt: skip


def test_the_nearest_hit_wins_and_the_ground_hides_what_is_below() -> None:
    ray, t = np.array([0, 0, 1, 2, 0]), np.array([4.0, 3.0, 9.0, np.inf, 3.5], np.float32)
    depth, winner = z_buffer(np.array([np.inf, 8.0, np.inf], np.float32), ray, t)
    assert depth.tolist() == [3.0, 8.0, np.inf] and winner.tolist() == [1, -1, -1]


def lidar_pose() -> np.ndarray:
    row = calibration((160, 90))["LIDAR_TOP"]
    return chain(rigid(row["rotation"], row["translation"]), ego_transform(np.zeros(3)))


def test_lidar_points_lie_on_the_box_the_oracle_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise-free ranges equal the ground and slab oracle, which uses no culling, so no culling window is too small."""
    for name in ("LIDAR_NOISE_M", "LIDAR_DROPOUT_BASE", "LIDAR_DROPOUT_FAR"):
        monkeypatch.setattr(const, name, 0.0)
    boxes = [
        ((4, 2, 3), (12.0, 3.0)),
        ((1, 1, 1), (-3.0, -1.5)),
        ((0.4, 0.4, 5), (0.5, 6.0)),
        ((30, 4, 9), (0.0, -15.0)),
    ]
    world = make_world([Actor("car", size, x, y, 0.0) for size, (x, y) in boxes])
    pose = lidar_pose()
    points = scan(world, pose, 0.0, 180, np.random.default_rng(3)).astype(np.float64)
    origin, hits = pose[:3, 3], apply(pose, points[:, :3])
    counts = np.zeros(len(boxes) + 1, int)
    for hit in hits:
        direction = (hit - origin) / np.linalg.norm(hit - origin)
        ranges = [
            ray_box(origin, direction, (x - s[0] / 2, y - s[1] / 2, 0.0), (x + s[0] / 2, y + s[1] / 2, s[2]))
            for s, (x, y) in boxes
        ]
        ranges.append(-origin[2] / direction[2] if direction[2] < 0 else np.inf)
        assert np.linalg.norm(hit - origin) == pytest.approx(min(ranges), abs=2e-3)
        counts[int(np.argmin(ranges))] += 1
    assert (counts > 10).all(), counts
    # Rings: number 0 looks down steepest.
    elevation = np.rad2deg(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
    np.testing.assert_allclose(elevation, -30.67 + points[:, 4] * (41.34 / 31), atol=1e-3)


def test_camera_pixels_show_the_box_the_oracle_sees() -> None:
    """Each pixel of all six cameras equals the oracle's: window clipping, pixel centers, near plane."""
    boxes = [((4, 2, 1.5), (9.0, 1.0)), ((10, 1, 3), (2.0, 2.5)), ((1, 1, 1.8), (-6.0, -3.0)), ((6, 1, 4), (3.0, -9.0))]
    world = make_world([Actor("car", size, x, y, 0.0) for size, (x, y) in boxes])
    size_px, seen = (40, 24), set()
    for channel, row in calibration(size_px).items():
        if channel == "LIDAR_TOP":
            continue
        pose, intrinsic = rigid(row["rotation"], row["translation"]), np.array(row["camera_intrinsic"])
        image, actor, silhouette = render(world, pose, intrinsic, size_px, 0.0, np.random.default_rng(0))
        assert image.shape == (24, 40, 3) and image.dtype == np.uint8
        covered = np.zeros(len(boxes), int)
        for v in range(24):
            for u in range(40):
                ray = pose[:3, :3] @ np.linalg.inv(intrinsic) @ (u + 0.5, v + 0.5, 1.0)
                t = [
                    ray_box(pose[:3, 3], ray, (x - s[0] / 2, y - s[1] / 2, 0.0), (x + s[0] / 2, y + s[1] / 2, s[2]))
                    for s, (x, y) in boxes
                ]
                assert actor[v, u] == (int(np.argmin(t)) if np.isfinite(min(t)) else -1), (channel, u, v)
                covered += np.isfinite(t)
        assert silhouette.tolist() == covered.tolist()
        seen |= set(actor.ravel().tolist())
    assert seen == {-1, 0, 1, 2, 3}


@pytest.mark.parametrize("kind", CLASSES)
def test_shapes_stay_inside_their_boxes_and_fill_them(kind: str) -> None:
    """Every subtype, in every posture."""
    rng = np.random.default_rng(5)
    postures = [a for a in POSTURE if a.startswith("cycle." if kind in ("motorcycle", "bicycle") else kind)] or [""]
    for subtype in SUBTYPES[kind]:
        for attribute in postures:
            size = subtype.size_m
            corners = pack_parts([build_shape(kind, size, rng, subtype.name, attribute)]).corners_m.reshape(-1, 3)
            half = np.array(size) / 2
            assert (np.abs(corners[:, :2]) <= half[:2]).all() and corners[:, 2].min() >= const.BOX_BASE_M - 1e-9
            assert const.BOX_BASE_M + 0.9 * size[2] < corners[:, 2].max() <= const.BOX_BASE_M + size[2]
            # All classes but the pedestrian (whose step varies) reach both ends and both sides.
            if kind != "pedestrian":
                extent = (corners.max(axis=0) - corners.min(axis=0))[:2]
                assert (extent >= 0.97 * (np.array(size[:2]) - 2 * const.BOX_MARGIN_M)).all(), (subtype, attribute)


def test_a_flatter_image_is_the_lower_part_of_nuscenes_16_to_9() -> None:
    """A pixel of the strip, counted from its lower edge, has the same ray as that pixel of the whole image."""
    whole, strip = calibration((160, 90)), calibration((160, 60))
    for channel in set(whole) - {"LIDAR_TOP"}:
        first, second = (np.array(rows[channel]["camera_intrinsic"]) for rows in (whole, strip))
        pixel = np.array([33.0, 80.0, 1.0])
        np.testing.assert_allclose(np.linalg.inv(first) @ pixel, np.linalg.inv(second) @ (pixel - (0, 30, 0)))
        # nuScenes' own focal length and principal point, scaled from 1600 px to 160.
        np.testing.assert_allclose(np.diag(first)[:2], const.CAMERA_RIG[channel][2] / 10)
        np.testing.assert_allclose(first[:2, 2], (160 * 0.507, 90 * 0.538))


def test_a_turning_drive_is_a_quarter_circle() -> None:
    drive = EgoPath(speed_m_s=5.0, turn=1, radius_m=10.0, x_m=2.0, y_m=-1.0, arc_m=0.0)
    quarter = 10.0 * np.pi / 2 / 5.0
    poses = drive.pose(np.array([-1.0, 0.0, quarter, quarter + 1.0]))
    expected = [(-3, -1, 0), (2, -1, 0), (12, 9, np.pi / 2), (12, 14, np.pi / 2)]
    np.testing.assert_allclose(poses, expected, atol=1e-12)
    mirrored = EgoPath(5.0, -1, 10.0, 2.0, 1.0, 0.0).pose(np.array([quarter]))
    np.testing.assert_allclose(mirrored, [(12, -9, -np.pi / 2)], atol=1e-12)


def test_a_turning_actor_moves_on_a_circle() -> None:
    straight, turning = (
        Actor("car", (4, 2, 1), 1.0, 2.0, np.pi / 2, 3.0),
        Actor("car", (4, 2, 1), 0.0, 0.0, 0.0, 3.0, 0.5),
    )
    poses = actor_poses([straight, turning], np.array([0.0, 2.0]))
    np.testing.assert_allclose(poses[0], [(1, 2, np.pi / 2), (1, 8, np.pi / 2)], atol=1e-12)
    np.testing.assert_allclose(poses[1, 1], (6 * np.sin(1.0), 6 * (1 - np.cos(1.0)), 1.0), atol=1e-12)
    assert actor_poses([], np.zeros(3)).shape == (0, 3, 3)


def test_space_refuses_what_collides_at_any_time() -> None:
    space = Space(STILL, 2.0)
    assert not space.place(Actor("car", (4, 2, 1), 1.0, 0.0, 0.0))  # on the ego vehicle
    assert space.place(Actor("car", (4, 2, 1), 20.0, 0.0, 0.0))
    assert not space.place(Actor("car", (4, 2, 1), 20.0, 1.9, 0.3))
    assert space.place(Actor("car", (4, 2, 1), 20.0, 2.5, 0.0))
    # Runs into the first car after two seconds; a slower one does not, nor does a crossing one that passes behind.
    assert not space.place(Actor("car", (4, 2, 1), 6.0, 0.0, 0.0, speed_m_s=5.5), gap_m=0.0)
    assert space.place(Actor("car", (4, 2, 1), 8.0, 0.0, 0.0, speed_m_s=3.0))
    assert len(space.actors) == 3


def test_ground_types_by_hand() -> None:
    street = Street(half_m=7.0, cross_x_m=30.0, cross_half_m=3.5, lanes=2, cross_lanes=1)
    x = np.array([0.5, 0.5, 3.5, 0.0, 0.0, 0.0, 30.5], np.float32)
    y = np.array([0.0, 3.5, 3.5, 5.0, 11.0, 20.0, 20.0], np.float32)
    # Middle line, dash, gap between dashes, lane, sidewalk, grass, crossing road.
    assert street.region(x, y).tolist() == [3, 3, 2, 2, 1, 0, 2]


def test_lidar_axes_as_in_nuscenes() -> None:
    """LIDAR +x -> ego -y, +y -> ego +x, 1.84 m above the ground (design: frames)."""
    pose = lidar_pose()
    np.testing.assert_allclose(pose[:3, :3] @ (1, 0, 0), (0, -1, 0), atol=0.01)
    np.testing.assert_allclose(pose[:3, :3] @ (0, 1, 0), (1, 0, 0), atol=0.01)
    assert apply(inverse(pose), np.array([0.94, 0.0, 0.0]))[2] == pytest.approx(-1.84, abs=0.01)
