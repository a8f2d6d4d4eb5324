"""Tests of corrupted input: sizes of the shifts, keyed draws, no effect by default or in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pdetr3d.config import CorruptionConfig
from pdetr3d.data.augmentation.corruption import corrupt, turn_camera
from pdetr3d.geometry.camera import project
from pdetr3d.schema import Boxes3D, DataError, PointLabels, Sample, SampleRecord
from pdetr3d.training.plan import BatchLoader
from tests.model_cases import ring_cameras
from tests.training_cases import open_world


def sample(token: str = "sample", boxes: bool = True) -> Sample:
    known = Boxes3D.build([[10, 0, 0], [0, 5, 1]], [[4, 2, 1.5]] * 2, [0.5, 1.0], [0, 0])
    ids = np.array(["sim-a", "human-b", "sim-c"], object)
    xyz = np.array([[0.0, 5.5, 1.0], [10.5, 0.2, 0.0], [10.0, 0.25, -0.5]])
    index = np.array([1, 0, 0]) if boxes else np.full(3, -1)
    clicks = PointLabels(ids, xyz, np.zeros(3, np.int64), index)
    record = SampleRecord(token, "s", 0, "box", "", (), (None,) * 6, np.eye(4), np.eye(4), known, clicks)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 64, 3)).astype(np.uint8)
    cameras = ring_cameras().numpy().astype(np.float64)
    return Sample(record, np.zeros((0, 5), np.float32), images, cameras, np.ones(6, bool), known, clicks, np.eye(4))


def test_by_default_nothing_changes() -> None:
    before = sample(boxes=False)
    assert corrupt(before, CorruptionConfig(), 0) is before


def test_click_noise_scales_the_offset_from_the_true_center() -> None:
    moved = corrupt(sample(), CorruptionConfig(click_noise_factor=2.0), 0).clicks.xyz_m
    np.testing.assert_allclose(moved, [[0, 6, 1], [10.5, 0.2, 0], [10, 0.5, -1]])  # the person's click stays
    exact = corrupt(sample(), CorruptionConfig(click_noise_factor=0.0), 0).clicks.xyz_m
    np.testing.assert_allclose(exact, [[0, 5, 1], [10.5, 0.2, 0], [10, 0, 0]])


def test_click_noise_without_known_boxes_is_refused() -> None:
    with pytest.raises(DataError, match="corruption.click_noise_factor 2.*ray_jobs.search robustness"):
        corrupt(sample(boxes=False), CorruptionConfig(click_noise_factor=2.0), 0)


@pytest.mark.parametrize("lost", range(7))
def test_missing_cameras_are_masked_and_black(lost: int) -> None:
    before = sample()
    after = corrupt(before, CorruptionConfig(missing_cameras=lost), 3)
    assert after.camera_valid.sum() == 6 - lost and before.camera_valid.all()
    assert all(after.images[~after.camera_valid].reshape(lost, -1).max(1) == 0) if lost else True
    np.testing.assert_array_equal(after.images[after.camera_valid], before.images[after.camera_valid])


def test_which_cameras_depends_on_seed_and_token_alone_and_more_include_fewer() -> None:
    def lost(token: str, seed: int, count: int) -> list[int]:
        valid = corrupt(sample(token), CorruptionConfig(missing_cameras=count, blur_px=float(count)), seed).camera_valid
        return np.nonzero(~valid)[0].tolist()

    assert lost("a", 0, 2) == lost("a", 0, 2) and set(lost("a", 0, 2)) < set(lost("a", 0, 4))
    assert len({tuple(lost(token, seed, 2)) for token in "abcdef" for seed in (0, 1)}) > 3


def test_cameras_turn_about_their_own_centers_by_the_angle() -> None:
    width, height, focal = 64, 32, 40.0
    matrix = np.eye(4)  # at (1, 2, 3), looking along +y: u along x, v along -z
    matrix[:3, :3] = [[focal, width / 2, 0], [0, height / 2, -focal], [0, 1, 0]]
    matrix[:3, 3] = -matrix[:3, :3] @ [1, 2, 3]
    # A camera that turns by 10 degrees about +z moves the point ahead of it by tan(10 degrees) * focal.
    turned = turn_camera(matrix, np.array([0, 0, 2.0]), 10.0)
    pixel, depth = project(turned, np.array([1.0, 12, 3]))
    assert abs(pixel[0] - width / 2) == pytest.approx(focal * np.tan(np.deg2rad(10)))
    assert pixel[1] == pytest.approx(height / 2) and depth == pytest.approx(10 * np.cos(np.deg2rad(10)))
    np.testing.assert_allclose(turned[:3] @ [1, 2, 3, 1], 0, atol=1e-9)  # the center stays
    np.testing.assert_allclose(turn_camera(matrix, np.array([1.0, 2, 3]), 0.0), matrix)


def test_each_camera_has_an_axis_of_its_own() -> None:
    before = sample()
    after = corrupt(before, CorruptionConfig(extrinsics_deg=5.0), 0)
    turned = np.linalg.inv(before.lidar2img[:, :3, :3]) @ after.lidar2img[:, :3, :3]
    angles = np.arccos((np.trace(turned, axis1=1, axis2=2) - 1) / 2)
    np.testing.assert_allclose(np.rad2deg(angles), 5.0, atol=1e-6)
    assert np.abs(turned[0] - turned[1]).max() > 1e-3


def test_blur_spreads_an_edge_and_keeps_the_mean() -> None:
    edge = np.zeros((6, 32, 64, 3), np.uint8)
    edge[:, :, 32:] = 200
    blurred = corrupt(replace(sample(), images=edge), CorruptionConfig(blur_px=2.0), 0).images
    assert blurred.dtype == np.uint8 and 60 < blurred[0, 16, 31, 0] < 100 < blurred[0, 16, 32, 0] < 140
    assert blurred[0, 16, 10, 0] == 0 and blurred[0, 16, 60, 0] == 200
    nothing = replace(sample(), images=np.zeros((0, 0, 0, 3), np.uint8))
    assert corrupt(nothing, CorruptionConfig(blur_px=2.0, missing_cameras=6), 0).images.shape == (0, 0, 0, 3)


def test_only_prediction_sees_it(sim_world: Path, tmp_path: Path) -> None:
    changes = ["corruption.missing_cameras=6", "corruption.click_noise_factor=0", "label.redraw_clicks=false"]
    still = ["teacher.augment_rotation_rad=0", "teacher.augment_scale=[1,1]"]
    world = open_world(sim_world, tmp_path, *changes, *still)
    config, records = world.run.config, [r for r in world.boxed if len(r.clicks)][:1]
    trained = BatchLoader(config, "teacher", cameras=True)(records, [0])
    predicted = BatchLoader(config, "predict", cameras=True)(records, [0])
    assert trained["camera_valid"].all() and trained["images"].any()
    assert not predicted["camera_valid"].any() and not predicted["images"].any()
    np.testing.assert_allclose(trained["click"][0], records[0].clicks.xyz_m, atol=1e-5)
    centers = records[0].boxes.center_m[records[0].clicks.box_index]
    np.testing.assert_allclose(predicted["click"][0], centers, atol=1e-5)
    assert np.abs(trained["click"] - predicted["click"]).max() > 0.05
