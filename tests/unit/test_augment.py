"""Augmentation moves everything together: values by hand, and projections do not change."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from pdetr3d.data.augmentation.augment import AugmentRange, augment, move_boxes
from pdetr3d.data.draws import keyed_rng, keyed_uniform
from pdetr3d.geometry import rigid
from pdetr3d.geometry.boxes import corners
from pdetr3d.schema import Boxes3D, PointLabels, Sample, SampleRecord

EYE = np.eye(4)
RECORD = SampleRecord("token", "scene", 0, "box", "", (), (None,) * 6, EYE, EYE, Boxes3D.empty(), PointLabels.empty())


def sample(boxes: Boxes3D, xyz: np.ndarray) -> Sample:
    rng = np.random.default_rng(0)
    clicks = PointLabels(np.array(["a"] * len(xyz), object), xyz, np.zeros(len(xyz), np.int64), np.full(len(xyz), -1))
    points = rng.normal(size=(20, 5)).astype(np.float32)
    return Sample(
        RECORD,
        points,
        np.zeros((0, 0, 0, 3), np.uint8),
        rng.normal(size=(6, 4, 4)),
        np.ones(6, bool),
        boxes,
        clicks,
        EYE,
    )


def box(yaw: float = 0.0, velocity: tuple[float, float] = (3.0, 0.0)) -> Boxes3D:
    return Boxes3D.build(
        np.array([[10.0, 2, 1]]),
        np.array([[4.0, 2, 1.5]]),
        np.array([yaw]),
        np.array([0]),
        velocity_m_s=np.array([velocity]),
    )


def test_mirror_of_x_by_hand() -> None:
    moved = move_boxes(box(yaw=0.25), np.diag([-1.0, 1, 1, 1]))
    np.testing.assert_allclose(moved.center_m, [[-10, 2, 1]])
    np.testing.assert_allclose(moved.yaw_rad, [np.pi - 0.25], atol=1e-6)
    np.testing.assert_allclose(moved.velocity_m_s, [[-3, 0]])
    np.testing.assert_allclose(moved.size_m, [[4, 2, 1.5]], rtol=1e-6)


def test_quarter_turn_and_scale_by_hand() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = 2 * np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    matrix[:3, 3] = [1, 0, 0]
    moved = move_boxes(box(), matrix)
    np.testing.assert_allclose(moved.center_m, [[-2 * 2 + 1, 20, 2]])
    np.testing.assert_allclose(moved.size_m, [[8, 4, 3]], rtol=1e-6)
    np.testing.assert_allclose(moved.yaw_rad, [np.pi / 2], atol=1e-6)
    np.testing.assert_allclose(moved.velocity_m_s, [[0, 6]], atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_corners_and_projections_follow(seed: int) -> None:
    before = sample(box(yaw=0.7), np.array([[10.2, 2.1, 0.9]]))
    matrix = AugmentRange(True, 0.4, (0.8, 1.2), 0.5).draw(np.random.default_rng(seed))
    after = augment(before, matrix)
    expected = rigid.apply(matrix, corners(before.boxes.center_m, before.boxes.size_m, before.boxes.yaw_rad)[0])
    got = corners(after.boxes.center_m, after.boxes.size_m, after.boxes.yaw_rad)[0]
    gap = np.linalg.norm(expected[:, None] - got[None], axis=-1)  # a mirror permutes the corners
    np.testing.assert_allclose(np.sort(gap.min(1)), 0, atol=1e-4)
    ones = np.ones((20, 1))
    old = np.concatenate([before.points[:, :3], ones], 1) @ before.lidar2img[0].T
    new = np.concatenate([after.points[:, :3], ones], 1) @ after.lidar2img[0].T
    np.testing.assert_allclose(new, old, atol=1e-4)
    np.testing.assert_allclose(after.clicks.xyz_m, rigid.apply(matrix, before.clicks.xyz_m))
    np.testing.assert_allclose(after.augmentation, matrix)


@pytest.mark.parametrize("mirrors", [(-1, 1), (1, -1), (-1, -1)])
def test_a_mirrored_world_has_mirrored_pictures(mirrors: tuple[float, float]) -> None:
    """A point's pixel has the same color before and after a mirror; a half turn (two mirrors) changes no picture."""
    before = sample(Boxes3D.empty(), np.zeros((0, 3)))
    camera = np.array([[20.0, -30, 0, 0], [15, 0, -30, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # looks along +x, 40 x 30 px
    images = np.random.default_rng(0).integers(0, 256, (6, 30, 40, 3), np.uint8)
    before = replace(before, images=images, lidar2img=np.tile(camera, (6, 1, 1)))
    after = augment(before, np.diag([*mirrors, 1.0, 1.0]))
    assert np.array_equal(after.images, images) == (mirrors == (-1, -1))
    for point in ([10.0, 2.1, 1], [8, -4.1, -3], [30, 5.2, 0]):  # no pixel borders
        colors = []
        for view, x, y in ((before, point[0], point[1]), (after, point[0] * mirrors[0], point[1] * mirrors[1])):
            u, v, depth, _ = view.lidar2img[2] @ [x, y, point[2], 1]
            assert depth == pytest.approx(point[0])
            colors.append(view.images[2, int(v / depth), int(u / depth)].tolist())
        assert colors[0] == colors[1]


def test_empty_sample_is_normal() -> None:
    after = augment(sample(Boxes3D.empty(), np.zeros((0, 3))), AugmentRange(True, 0.3).draw(np.random.default_rng(1)))
    assert len(after.boxes) == 0 and len(after.clicks) == 0


def test_draws_depend_on_their_key_only() -> None:
    first = keyed_rng(0, 1, "token", "augment").random()
    keyed_rng(0, 1, "other", "augment").random()
    assert keyed_rng(0, 1, "token", "augment").random() == first
    others = [
        keyed_rng(1, 1, "token", "augment"),
        keyed_rng(0, 2, "token", "augment"),
        keyed_rng(0, 1, "token", "clicks"),
    ]
    assert all(rng.random() != first for rng in others)


def test_keyed_uniform_is_uniform_and_a_row_is_its_keys() -> None:
    tokens = [f"click-{number}" for number in range(20_000)]
    numbers = keyed_uniform(0, 1, tokens, "redraw_click", 3)
    assert numbers.shape == (20_000, 3) and 0 <= numbers.min() and numbers.max() < 1
    for column in numbers.T:
        assert kstest(column, "uniform").pvalue > 0.01
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.03  # 4 of 1 / sqrt(20,000)
    # By hand: the digest's first 53 of 64 bits, as a fraction.
    digest = hashlib.blake2b(b"0/1/click-7/redraw_click", digest_size=24).digest()
    assert numbers[7, 1] == (int.from_bytes(digest[8:16], "little") >> 11) / 2**53
    np.testing.assert_array_equal(keyed_uniform(0, 1, tokens[7:6:-1], "redraw_click", 3), numbers[7:8])
    assert keyed_uniform(0, 1, [], "redraw_click", 3).shape == (0, 3)
    assert not np.isin(keyed_uniform(0, 2, tokens[:5], "redraw_click", 3), numbers).any()


def test_a_range_of_nothing_draws_identity() -> None:
    np.testing.assert_array_equal(AugmentRange().draw(np.random.default_rng(0)), np.eye(4))
