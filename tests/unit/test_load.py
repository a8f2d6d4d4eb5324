"""Tests of loading: equality with the devkit's multi-sweep loader and projection, and damaged files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import view_points
from PIL import Image
from pyquaternion import Quaternion

from pdetr3d.config import DataConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.loading.check import check_image
from pdetr3d.data.loading.load import check_header, decode_image, decode_scale, load_sample, read_lidar
from pdetr3d.geometry.camera import in_image, project
from pdetr3d.geometry.rigid import yaw_of
from pdetr3d.schema import CAMERAS, CameraRecord, DataError, SampleRecord


@pytest.fixture(scope="module")
def sim_index(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.open(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("index") / "index.arrow"))


@pytest.fixture
def record(sim_index: Index) -> SampleRecord:
    return sim_index.record(sim_index.tokens("sim_train")[1])


def _config(sweeps: int, size: tuple[int, int] = (160, 90)) -> DataConfig:
    return DataConfig(num_sweeps=sweeps, image_size_px=size)


def _assert_points_equal_devkit(nusc: NuScenes, record: SampleRecord, sweeps: int) -> int:
    ours = load_sample(record, _config(sweeps), cameras=False).points
    sample = nusc.get("sample", record.sample_token)
    cloud, times = LidarPointCloud.from_file_multisweep(
        nusc, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=sweeps, min_distance=1.0
    )
    assert ours.dtype == np.float32 and ours.shape == (cloud.points.shape[1], 5)
    np.testing.assert_allclose(ours[:, :3], cloud.points[:3].T, atol=1e-4, rtol=0)
    np.testing.assert_array_equal(ours[:, 3], cloud.points[3])
    np.testing.assert_allclose(ours[:, 4], times[0], atol=1e-5)
    return len(np.unique(ours[:, 4]))


@pytest.mark.parametrize("sweeps", [1, 2, 4, 10])
def test_sweeps_equal_the_devkits_with_a_turning_ego(sim_world: Path, sim_index: Index, sweeps: int) -> None:
    nusc = NuScenes("v1.0-sim", str(sim_world), verbose=False)
    records = [sim_index.record(token) for token in sim_index.tokens("sim_train")]
    turns = [abs(yaw_of(sweep.sweep2lidar)) for record in records for sweep in record.sweeps]
    assert max(turns) > np.deg2rad(10)  # degrees turned between keyframe and oldest sweep: else the test shows little
    read = [_assert_points_equal_devkit(nusc, record, sweeps) for record in records]
    assert max(read) == min(sweeps, 6)  # the second keyframe of a scene has 5 earlier sweeps; nothing is padded


def test_real_keyframe_points_and_projection(real_data: Path, tmp_path: Path) -> None:
    index = Index.open(build_index(real_data, "v1.0-mini", tmp_path / "index.arrow"))
    nusc = NuScenes("v1.0-mini", str(real_data), verbose=False)
    (token,) = index.tokens("mini_train")
    record = index.record(token)
    assert _assert_points_equal_devkit(nusc, record, 10) == 1
    assert _assert_pixels_equal_devkit(nusc, record, (400, 225)) > 10_000


def test_sim_projection_equals_the_devkits_through_each_cameras_own_pose(sim_world: Path, sim_index: Index) -> None:
    nusc = NuScenes("v1.0-sim", str(sim_world), verbose=False)
    records = [sim_index.record(token) for token in sim_index.tokens("sim_train")]
    assert sum(_assert_pixels_equal_devkit(nusc, record, (80, 30)) for record in records) > 1_000


def _assert_pixels_equal_devkit(nusc: NuScenes, record: SampleRecord, size: tuple[int, int]) -> int:
    sample = load_sample(record, _config(1, size), cameras=False)
    points, total = sample.points[:, :3], 0
    for slot, (channel, camera) in enumerate(zip(CAMERAS, record.cameras, strict=True)):
        assert camera is not None
        expected, depth = _devkit_pixels(nusc, record.sample_token, channel, points)
        uv, ours_depth = project(sample.lidar2img[slot], points)
        visible = (depth > 1) & in_image(expected, (camera.width_px, camera.height_px))
        scale = np.array([camera.width_px / size[0], camera.height_px / size[1]])
        np.testing.assert_allclose(scale * uv[visible], expected[visible], atol=0.01, rtol=0)
        np.testing.assert_allclose(ours_depth, depth, atol=1e-4)
        total += int(visible.sum())
    return total


def _devkit_pixels(nusc: NuScenes, token: str, channel: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The steps of ``NuScenesExplorer.map_pointcloud_to_image``, on float64 points (the devkit rounds to float32)."""
    sample = nusc.get("sample", token)
    lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
    cam = nusc.get("sample_data", sample["data"][channel])
    cloud = LidarPointCloud(np.vstack([points.T.astype(np.float64), np.zeros(len(points))]))
    for pose in (
        nusc.get("calibrated_sensor", lidar["calibrated_sensor_token"]),
        nusc.get("ego_pose", lidar["ego_pose_token"]),
    ):
        cloud.rotate(Quaternion(pose["rotation"]).rotation_matrix)
        cloud.translate(np.array(pose["translation"]))
    calibration = nusc.get("calibrated_sensor", cam["calibrated_sensor_token"])
    for pose in (nusc.get("ego_pose", cam["ego_pose_token"]), calibration):
        cloud.translate(-np.array(pose["translation"]))
        cloud.rotate(Quaternion(pose["rotation"]).rotation_matrix.T)
    pixels = view_points(cloud.points[:3], np.array(calibration["camera_intrinsic"]), normalize=True)
    return pixels[:2].T, cloud.points[2]


def test_sample_fields(record: SampleRecord) -> None:
    sample = load_sample(record, _config(2, (80, 45)), cameras=True)
    assert sample.images.shape == (6, 45, 80, 3) and sample.images.dtype == np.uint8 and sample.images.std() > 5
    assert sample.camera_valid.all() and sample.lidar2img.shape == (6, 4, 4)
    np.testing.assert_array_equal(sample.augmentation, np.eye(4))
    without = load_sample(record, _config(2, (80, 45)), cameras=False)
    assert without.images.shape == (0, 0, 0, 3)
    np.testing.assert_array_equal(without.lidar2img, sample.lidar2img)


def test_absent_camera_is_black_and_flagged(record: SampleRecord) -> None:
    partial = dataclasses.replace(record, cameras=(*record.cameras[:4], None, record.cameras[5]))
    sample = load_sample(partial, _config(1), cameras=True)
    assert sample.camera_valid.tolist() == [True] * 4 + [False, True]
    assert not sample.images[4].any() and sample.images[5].any()


def test_close_points_go_and_none_may_remain(record: SampleRecord, tmp_path: Path) -> None:
    # Inside the square, on its border, beyond it along one axis; the middle one is 1.2 m off but inside (|x|, |y| < 1).
    rows = np.array([[0.5, 0.5, 0, 1, 0], [0.9, -0.9, 2, 2, 0], [1, 0, 0, 3, 0], [0, -1.5, 0, 4, 0]], np.float32)
    path = tmp_path / "a.pcd.bin"
    rows.tofile(path)
    sample = load_sample(dataclasses.replace(record, lidar_path=str(path), sweeps=()), _config(10), cameras=False)
    np.testing.assert_array_equal(sample.points, rows[2:] * [1, 1, 1, 1, 0])
    rows[:2].tofile(path)
    assert load_sample(
        dataclasses.replace(record, lidar_path=str(path), sweeps=()), _config(1), False
    ).points.shape == (0, 5)


@pytest.mark.parametrize("size", [(400, 225), (256, 144), (1600, 900), (200, 112)])
def test_reduced_decoding_shows_the_same_picture_in_the_same_place(size: tuple[int, int], tmp_path: Path) -> None:
    x, y = np.meshgrid(np.arange(1600), np.arange(900))
    waves = [128 + 80 * np.sin(2 * np.pi * (x / period + y / (period + 31))) for period in (97, 151, 211)]
    pixels = np.stack(waves, -1).astype(np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    image = np.empty((size[1], size[0], 3), np.uint8)
    decode_image(CameraRecord(str(path), 1600, 900, np.eye(4)), path.read_bytes(), image)
    expected = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(float)
    # Half a pixel of shift at the smallest size would be 4 of 80 gray levels and more; channels differ by far more.
    assert np.abs(image - expected).mean() < 1.5


@pytest.mark.parametrize("size", [(1600, 900), (1600, 896), (160, 90), (161, 91)])
def test_the_decode_scale_is_the_largest_that_stays_above_the_target(size: tuple[int, int]) -> None:
    found = set()
    edges = [sorted({side // scale + step for scale in (1, 2, 4, 8) for step in (-1, 0, 1)}) for side in size]
    for width in (*edges[0], *range(1, size[0], 77)):
        for height in (*edges[1], *range(1, size[1], 55)):
            expected = 1
            for scale in (2, 4, 8):
                decoded = (size[0] / scale, size[1] / scale)
                if decoded[0] % 1 == decoded[1] % 1 == 0 and decoded[0] >= width and decoded[1] >= height:
                    expected = scale
            assert decode_scale(size, (width, height)) == expected, (width, height)
            found.add(expected)
    assert found == {(1600, 900): {1, 2, 4}, (1600, 896): {1, 2, 4, 8}, (160, 90): {1, 2}, (161, 91): {1}}[size]
    assert decode_scale((1600, 896), (200, 112)) == 8 and decode_scale((1600, 896), (201, 112)) == 4


def _broken_lidar(path: Path, value: float) -> None:
    rows = np.ones((5, 5), np.float32)
    rows[3, 1] = value
    rows.tofile(path)


def test_broken_lidar_files(tmp_path: Path, record: SampleRecord) -> None:
    path = tmp_path / "x.pcd.bin"
    with pytest.raises(DataError, match=r"x\.pcd\.bin: cannot read LiDAR file \(No such file"):
        read_lidar(path)
    for content, reason in ((b"", "empty"), (b"\0" * 39, "39 bytes, not a multiple of 20")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=reason):
            read_lidar(path)
    for value in (np.nan, np.inf):
        _broken_lidar(path, value)  # 1 of 5 points: left out, up to data.nan_limit
        assert read_lidar(path).tolist() == [[1.0] * 5] * 4
        with pytest.raises(DataError, match=r"x\.pcd\.bin: 1 of 5 points .* first point 3.*data.nan_limit=0.1 of"):
            read_lidar(path, DataConfig(nan_limit=0.1))
    path.write_bytes(b"\0" * 39)
    # A broken sweep is found only if sweeps are read.
    sweep = dataclasses.replace(record.sweeps[0], path=str(path))
    broken = dataclasses.replace(record, sweeps=(sweep,))
    with pytest.raises(DataError, match=r"x\.pcd\.bin"):
        load_sample(broken, _config(2), cameras=False)
    load_sample(broken, _config(1), cameras=False)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decoding_gives_the_pixels_of_pil(scale: int, mode: str, tmp_path: Path) -> None:
    """An EXIF orientation is ignored, since the tables refer to the image as the camera wrote it."""
    noise = np.random.default_rng(0).integers(0, 256, (160, 240, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.fromarray(noise).convert(mode).save(path, quality=90, exif=turned)
    with Image.open(path) as image:
        image.draft("RGB", (240 // scale, 160 // scale))
        expected = np.asarray(image.convert("RGB"))
    assert expected.shape == (160 // scale, 240 // scale, 3)
    found = np.empty_like(expected)
    decode_image(CameraRecord(str(path), 240, 160, np.eye(4)), path.read_bytes(), found)
    np.testing.assert_array_equal(found, expected)


def _with_sampling(jpeg: bytes, code: int) -> bytes:
    """The JPEG file with other luma sampling factors: high half byte horizontal, low half byte vertical."""
    frame = jpeg.index(b"\xff\xc0")
    return jpeg[: frame + 11] + bytes([code]) + jpeg[frame + 12 :]


@pytest.mark.parametrize("damage", ["zeros", "a jump"])
def test_damage_within_is_refused_where_it_can_be_mended(damage: str, record: SampleRecord) -> None:
    camera = record.cameras[0]
    assert camera is not None
    content, image = Path(camera.path).read_bytes(), np.zeros((90, 160, 3), np.uint8)
    middle = len(content) // 2
    damaged = content[:middle] + (bytes(200) if damage == "zeros" else b"") + content[middle + 200 :]
    with pytest.raises(DataError, match=r"broken JPEG \(Corrupt JPEG data: .*copy the file again"):
        decode_image(camera, damaged, image, strict=True)
    decode_image(camera, damaged, image)
    whole = np.empty_like(image)
    decode_image(camera, content, whole, strict=True)
    assert np.array_equal(image[:20], whole[:20]) and not np.array_equal(image, whole)


@pytest.mark.parametrize("strict", [False, True])
def test_padding_is_no_damage(strict: bool, record: SampleRecord) -> None:
    camera = record.cameras[0]
    assert camera is not None
    content, image, whole = Path(camera.path).read_bytes(), *np.empty((2, 90, 160, 3), np.uint8)
    decode_image(camera, content, whole, strict=True)
    for odd in (content[:-2] + bytes(3) + content[-2:], content + bytes(10)):
        decode_image(camera, odd, image, strict=strict)
        np.testing.assert_array_equal(image, whole)


@pytest.mark.parametrize("name", ["WEBP", "BMP", "GIF", "TIFF", "text"])
def test_images_of_another_format(name: str, tmp_path: Path, record: SampleRecord) -> None:
    """Both the decoder and the quick check of the ends name the found format and the required one."""
    camera, file = record.cameras[0], tmp_path / "image.jpg"
    assert camera is not None
    if name == "text":
        file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    else:
        Image.open(camera.path).save(file, format=name)
    camera = dataclasses.replace(camera, path=str(file))
    words = "a pointer of Git LFS .*" if name == "text" else f"a {name}"
    for act in (lambda: check_image(camera, decode=True), lambda: check_header(camera)):
        with pytest.raises(
            DataError, match=rf"image\.jpg: no JPEG or PNG, but {words}; write the images as PNG or JPEG"
        ):
            act()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_that_others_turn(kind: str, tmp_path: Path, record: SampleRecord) -> None:
    """OpenCV turns an image of orientation 3 by 180 degrees, and reads one of orientation 1 as it is stored."""
    camera, exif = record.cameras[0], Image.Exif()
    assert camera is not None
    for orientation in (1, 3):
        exif[0x0112] = orientation
        file = tmp_path / f"image{orientation}.{kind.lower()}"
        Image.open(camera.path).save(file, format=kind, exif=exif)
        mine = dataclasses.replace(camera, path=str(file))
        pixels = np.empty((camera.height_px, camera.width_px, 3), np.uint8)
        decode_image(mine, file.read_bytes(), pixels)
        theirs = cv2.imread(str(file))[..., ::-1].astype(int)
        if kind == "JPEG":  # whether OpenCV looks at the EXIF of a PNG depends on its version
            assert np.abs((theirs[::-1, ::-1] if orientation == 3 else theirs) - pixels).mean() < 2
        for act in (lambda c: check_image(c, decode=True), check_header):
            if orientation == 1:
                act(mine)
                continue
            with pytest.raises(DataError, match=r"image3\..* is to be turned \(orientation 3; allowed is 1\)\. Here"):
                act(mine)


def test_broken_images(tmp_path: Path, record: SampleRecord) -> None:
    camera = record.cameras[0]
    assert camera is not None
    content = Path(camera.path).read_bytes()
    image = np.empty((90, 160, 3), np.uint8)
    middle = len(content) // 2
    for name, data in {
        "cut": content[:middle],
        "end": content[:-1],
        "sampling": _with_sampling(content, 0x14),
        "sampled": _with_sampling(content, 0x42),
        "strange": b"no\x00image",
        "empty": b"",
    }.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}\.jpg: missing or broken JPEG"):
            decode_image(dataclasses.replace(camera, path=str(path)), data, image)
    gone = dataclasses.replace(camera, path=str(tmp_path / "none.jpg"))
    with pytest.raises(DataError, match=r"none\.jpg: cannot read image file \(No such file"):
        load_sample(dataclasses.replace(record, cameras=(gone, *record.cameras[1:])), _config(1), cameras=True)
    with pytest.raises(DataError, match=r"image is \(160, 90\), but sample_data.json says \(320, 90\)"):
        decode_image(dataclasses.replace(camera, width_px=320), content, image)
