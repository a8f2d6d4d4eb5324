"""Tests of poorer sensors: remaining points, reduced images, and samples read with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pdetr3d.config import DataConfig, SensorConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.loading.load import load_sample, read_lidar
from pdetr3d.data.loading.sensor import keep_beams, keep_points, worsen_image
from pdetr3d.schema import DataError, SampleRecord

SIZE = (160, 90)


@pytest.fixture(scope="module")
def record(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> SampleRecord:
    index = Index.open(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("index") / "index.arrow"))
    return index.record(index.tokens("sim_train")[1])


def data(**sensor: object) -> DataConfig:
    return DataConfig(num_sweeps=2, image_size_px=SIZE, sensor=SensorConfig(**sensor))  # type: ignore[arg-type]


def test_fewer_beams_are_every_second_fourth_eighth_ring() -> None:
    raw = np.zeros((64, 5), np.float32)
    raw[:, 0], raw[:, 4] = np.arange(64), np.repeat(np.arange(32), 2)

    def kept(beams: int) -> np.ndarray:
        return keep_beams(raw, SensorConfig(lidar_beams=beams), Path("x.bin"))

    assert kept(32) is raw
    assert kept(8)[:, 0].tolist() == [0, 1, 8, 9, 16, 17, 24, 25, 32, 33, 40, 41, 48, 49, 56, 57]
    assert len(kept(16)) == 32 and len(kept(4)) == 8


def test_a_lidar_has_as_many_rings_as_the_key_says() -> None:
    raw = np.zeros((64, 5), np.float32)
    raw[:, 4] = np.arange(64)
    of_64 = SensorConfig(lidar_beams=16, lidar_rings=64)
    assert keep_beams(raw, of_64, Path("x.bin"))[:, 4].tolist() == list(range(0, 64, 4))
    assert keep_beams(raw, SensorConfig(), Path("x.bin")) is raw  # all rings are kept: their number is not asked
    with pytest.raises(DataError, match=r"x\.bin: has ring 63, but data\.sensor\.lidar_rings=32 allows 0 to 31 with "):
        keep_beams(raw, SensorConfig(lidar_beams=16), Path("x.bin"))
    raw[:, 4] = 0  # as importers write where the ring is unknown
    with pytest.raises(DataError, match=r"x\.bin: .*lidar_beams=16 leaves out rings, but all points are of ring 0"):
        keep_beams(raw, of_64, Path("x.bin"))
    assert len(keep_beams(raw[:0], of_64, Path("x.bin"))) == 0
    with pytest.raises(ValueError, match=r"must divide data\.sensor\.lidar_rings 40 \(.*\): 1, 2, 4, 5, 8, 10, 20, 40"):
        SensorConfig(lidar_beams=16, lidar_rings=40)


def test_a_sample_of_fewer_beams_has_the_keyframes_and_the_sweeps_thinned(record: SampleRecord) -> None:
    whole, thin = (load_sample(record, data(lidar_beams=beams), cameras=False).points for beams in (32, 8))
    expected = 0
    for file in (record.lidar_path, record.sweeps[0].path):
        points = read_lidar(Path(file))
        points = points[(np.abs(points[:, :2]) >= 1).any(1)]
        expected += int(sum(ring in (0, 4, 8, 12, 16, 20, 24, 28) for ring in points[:, 4]))
    assert 0 < len(thin) == expected < len(whole)
    assert {p.tobytes() for p in thin} <= {p.tobytes() for p in whole}


def test_points_are_dropped_by_token_and_a_smaller_share_is_a_part_of_a_larger_one() -> None:
    points = np.arange(20_000, dtype=np.float32).reshape(-1, 2)
    half, tenth = keep_points(points, 0.5, "a"), keep_points(points, 0.1, "a")
    assert keep_points(points, 1.0, "a") is points
    assert abs(len(half) - 5000) < 200 and abs(len(tenth) - 1000) < 120  # four standard deviations
    assert set(tenth[:, 0]) <= set(half[:, 0])
    np.testing.assert_array_equal(half, keep_points(points, 0.5, "a"))
    assert set(keep_points(points, 0.5, "b")[:, 0]) != set(half[:, 0])


def test_a_quarter_of_the_resolution_is_means_of_four_by_four_pixels_stretched() -> None:
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :4], image[:, 12:] = (160, 80, 40), (200, 200, 200)
    image[0, 0] = 0
    worse = worsen_image(image, SensorConfig(image_scale=0.25))
    assert worse.shape == image.shape and worse.dtype == np.uint8
    # Corners lie beyond the small pixels' centers and have their colors: fifteen of sixteen pixels, or all.
    assert worse[0, 0].tolist() == [150, 75, 38] and worse[-1, 0].tolist() == [160, 80, 40]
    assert worse[0, -1].tolist() == [200, 200, 200]
    # Centers of small pixels lie at 1.5 and 5.5: x = 3 is 3/8 of the way from the first color to black.
    assert worse[-1, 3].tolist() == [100, 50, 25]


def test_blur_spreads_a_point_and_keeps_its_light() -> None:
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 10] = 255
    worse = worsen_image(image, SensorConfig(image_blur_px=1.0))
    assert 38 <= worse[10, 10, 0] <= 42  # 255 / (2 pi)
    assert worse[10, 11, 0] == worse[9, 10, 0] < worse[10, 10, 0] and worse[10, 14, 0] == 0


def test_compression_costs_detail_but_no_color() -> None:
    noise = np.repeat(np.random.default_rng(0).integers(0, 256, (64, 64, 1)).astype(np.uint8), 3, axis=2)
    good, bad = (np.abs(worsen_image(noise, SensorConfig(jpeg_quality=q)).astype(int) - noise).mean() for q in (95, 10))
    assert bad > 1.5 * good
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    np.testing.assert_allclose(worsen_image(flat, SensorConfig(jpeg_quality=50)).astype(int), flat, atol=6)


def test_a_sample_is_read_as_such_sensors_see_it(record: SampleRecord) -> None:
    lost = dataclasses.replace(record, cameras=(None, *record.cameras[1:]))
    whole, worse = (load_sample(lost, data(**sensor), cameras=True) for sensor in ({}, {"image_scale": 0.1}))
    np.testing.assert_array_equal(worse.images[3], worsen_image(whole.images[3], SensorConfig(image_scale=0.1)))
    assert (worse.images[3] != whole.images[3]).any() and not worse.images[0].any()
    np.testing.assert_array_equal(worse.points, whole.points)
    np.testing.assert_array_equal(worse.lidar2img, whole.lidar2img)
    fewer = load_sample(record, data(point_keep=0.5), cameras=False).points
    np.testing.assert_array_equal(fewer, keep_points(whole.points, 0.5, record.sample_token))
    assert load_sample(record, data(jpeg_quality=5), cameras=False).images.shape == (0, 0, 0, 3)


def test_packs_have_no_rings() -> None:
    with pytest.raises(ValueError, match="packs do not keep the points' rings"):
        DataConfig(packed="s3://bucket/pack", sensor=SensorConfig(lidar_beams=16))
    DataConfig(packed="s3://bucket/pack", sensor=SensorConfig(point_keep=0.5))
