"""Loads a Sample from the files of its SampleRecord: keyframe and sweeps in one LiDAR frame, six decoded images."""

from __future__ import annotations

import functools
import io
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pdetr3d.config import DataConfig
from pdetr3d.data.loading.packed import open_pack
from pdetr3d.data.loading.sensor import keep_beams, keep_points, worsen_image
from pdetr3d.data.storage.points import read_file, read_lidar
from pdetr3d.formats import format_of
from pdetr3d.geometry.camera import resize_lidar2img
from pdetr3d.geometry.rigid import move_points
from pdetr3d.schema import CAMERAS, CameraRecord, DataError, Sample, SampleRecord

if TYPE_CHECKING:
    from PIL import Image

CLOSE_M = 1.0  # points in the square of this half side around the sensor lie on the car itself (devkit: min_distance)
JPEG_END = b"\xff\xd9"  # cannot occur inside JPEG data: there 0xff is followed by 0x00 or a restart marker
TAIL_BYTES = 64  # the end marker is searched in this many last bytes: some writers pad after it
PADDED = re.compile(r"\b1?\d extraneous bytes before marker 0xd9")  # libjpeg's warning about padding before the end
PNG_START = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # the tag of EXIF that says how an image is to be turned; 1: it is as it is stored
PNG_END = b"IEND\xaeB`\x82"  # the last chunk's name and checksum


@functools.cache
def one_thread() -> None:
    """Make OpenCV and BLAS work in the calling thread only, for processes that load samples side by side.

    There, threads of all processes would wait for each other, which doubles the CPU time per sample.
    """
    import cv2  # imported here, because not every process decodes images

    cv2.setNumThreads(1)
    threadpool_limits(1, user_api="blas")


def load_sample(record: SampleRecord, data: DataConfig, cameras: bool) -> Sample:
    """Read and decode one sample, from its files or from the pack ``data.packed``.

    Points: the keyframe and up to ``data.num_sweeps - 1`` earlier sweeps, as the devkit's
    ``LidarPointCloud.from_file_multisweep`` returns them for ``nsweeps = data.num_sweeps``; missing sweeps are not
    padded. Images: RGB of ``data.image_size_px``, with ``lidar2img`` scaled accordingly; without ``cameras`` none are
    read. Points and images are degraded to the sensors of ``data.sensor``.

    A camera that the record lacks (None) is masked in training and in prediction: its pixels are black and
    ``camera_valid`` is False, which models multiply with. A camera whose file is missing is an error, so that data is
    not lost unnoticed.

    Raises:
        DataError: for a missing, truncated or broken file, or numbers that are not finite.
    """
    jpegs: list[bytes | None] | None = None
    if data.packed:
        points, jpegs = open_pack(data.packed).read(record.sample_token, data.num_sweeps, cameras)
    else:
        points = np.concatenate(read_sweeps(record, data))
    points = keep_points(points, data.sensor.point_keep, record.sample_token)
    images, lidar2img, valid = _read_cameras(record, data.image_size_px, cameras, jpegs)
    if cameras and data.sensor.worse_images:
        images = np.stack([worsen_image(image, data.sensor) for image in images])
    return Sample(
        record=record,
        points=points,
        images=images,
        lidar2img=lidar2img,
        camera_valid=valid,
        boxes=record.boxes,
        clicks=record.clicks,
        augmentation=np.eye(4),
        regions=record.regions,
    )


def read_sweeps(record: SampleRecord, data: DataConfig) -> list[NDArray[np.float32]]:
    """Points of the keyframe and of up to ``data.num_sweeps - 1`` earlier sweeps, in the keyframe's LIDAR_TOP frame.

    Returns:
        One array (P_i, 5) float32 x, y, z [m], intensity, dt [s] per sweep, reduced to ``data.sensor.lidar_beams``.
    """
    sweeps = [_read_sweep(Path(record.lidar_path), None, 0.0, data)]
    sweeps += [_read_sweep(Path(s.path), s.sweep2lidar, s.dt_s, data) for s in record.sweeps[: data.num_sweeps - 1]]
    return sweeps


def _read_sweep(
    path: Path, sweep2lidar: NDArray[np.float64] | None, dt_s: float, data: DataConfig
) -> NDArray[np.float32]:
    return place_sweep(keep_beams(read_lidar(path, data), data.sensor, path), sweep2lidar, dt_s)


def place_sweep(
    points: NDArray[np.float32], sweep2lidar: NDArray[np.float64] | None, dt_s: float
) -> NDArray[np.float32]:
    """Make a sweep part of a keyframe's cloud: remove points on the car, move the others, put the age into column 5.

    Args:
        points: (P, 5) x, y, z [m], intensity and an unused column, in the sweep's frame. sweep2lidar: (4, 4), or None
            for the keyframe itself. dt_s: the sweep's age.
    """
    # Points on the car are near the origin only in the sweep's own frame, so they are removed before the move.
    far = (np.abs(points[:, 0]) >= CLOSE_M) | (np.abs(points[:, 1]) >= CLOSE_M)
    points = np.compress(far, points, axis=0)  # it copies in a third of the time of points[far]
    if sweep2lidar is not None:
        move_points(sweep2lidar, points)
    points[:, 4] = dt_s
    return points


def _read_cameras(
    record: SampleRecord, size_px: tuple[int, int], cameras: bool, jpegs: list[bytes | None] | None
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.bool_]]:
    """Images (V, H, W, 3), lidar2img (V, 4, 4) and which cameras exist (V,).

    Args:
        jpegs: the files' contents from a pack; None: read the files.
    """
    width, height = size_px
    lidar2img = np.tile(np.eye(4), (len(CAMERAS), 1, 1))
    valid = np.array([camera is not None for camera in record.cameras])
    images = np.zeros((len(CAMERAS), height, width, 3) if cameras else (0, 0, 0, 3), np.uint8)
    for slot, camera in enumerate(record.cameras):
        if camera is None:
            continue
        lidar2img[slot] = resize_lidar2img(camera.lidar2img, width / camera.width_px, height / camera.height_px)
        if cameras:
            jpeg = read_file(Path(camera.path), "image") if jpegs is None else jpegs[slot]
            decode_image(camera, jpeg or b"", images[slot])
    return images, lidar2img, valid


def decode_image(camera: CameraRecord, jpeg: bytes, image: NDArray[np.uint8], *, strict: bool = False) -> None:
    """Decode a camera's JPEG or PNG file into ``image``, RGB (H, W, 3) uint8, scaled to its size.

    When the target is at most 1/2, 1/4 or 1/8 of the original, libjpeg decodes at that scale, which saves most of the
    time. Only exact divisors are used, so that pixels stay where ``lidar2img`` says.

    Args:
        camera: the image's record. jpeg: the file's content. image: receives the pixels. strict: refuse a complete file
            with damaged data, or one that EXIF says is to be turned. By default a damaged file decodes to wrong pixels
            after the damage, as in other libraries, and no image is turned.

    Raises:
        DataError: when the file is no JPEG or PNG, is cut, or has another size than the tables say.
    """
    height, width = image.shape[:2]
    whole = (camera.width_px, camera.height_px)
    _refuse_format(camera, jpeg)
    if strict and (b"Exif" in jpeg or b"eXIf" in jpeg):
        from PIL import Image

        with suppress(OSError, SyntaxError), Image.open(io.BytesIO(jpeg), formats=["JPEG", "PNG"]) as opened:
            _refuse_turned(camera, opened)
    if jpeg.startswith(PNG_START):
        _shrink(_decode_png(camera, jpeg), image)
        return
    try:
        found = simplejpeg.decode_jpeg_header(jpeg)[1::-1]
        _check_image_size(camera, found)
        scale = decode_scale(whole, (width, height))
        least = {"min_width": whole[0] // scale, "min_height": whole[1] // scale, "min_factor": 1}
        place = image if (width * scale, height * scale) == whole else None
        try:
            pixels = simplejpeg.decode_jpeg(jpeg, "RGB", buffer=place, **least)
        except ValueError as warning:  # libjpeg's warnings, too; the second call raises only errors
            if JPEG_END not in jpeg[-TAIL_BYTES:]:
                raise ValueError(f"truncated: {warning}") from warning
            if strict and not PADDED.search(str(warning)):
                raise
            pixels = simplejpeg.decode_jpeg(jpeg, "RGB", buffer=place, strict=False, **least)
    except DataError:
        raise
    except (ValueError, KeyError) as error:  # KeyError: a color subsampling that simplejpeg does not know
        advice = "copy the file again, or write it anew if it is whole, with colors sampled 4:2:0 or 4:4:4, or as PNG"
        raise DataError(f"{camera.path}: missing or broken JPEG ({error}); {advice}") from error
    if place is None:
        _shrink(pixels, image)


def check_header(camera: CameraRecord) -> None:
    """Raise DataError unless the file is a JPEG or PNG of the tables' size with an end marker; nothing is decoded."""
    from PIL import Image  # imported here, because only this check and PNG files need it

    path = Path(camera.path)
    try:
        with path.open("rb") as file:
            _refuse_format(camera, file.read(TAIL_BYTES))
        with Image.open(path, formats=["JPEG", "PNG"]) as image:
            _refuse_turned(camera, image)
            _check_image_size(camera, image.size)
            end = JPEG_END if image.format == "JPEG" else PNG_END
        with path.open("rb") as file:
            file.seek(-min(TAIL_BYTES, path.stat().st_size), os.SEEK_END)
            if end not in file.read():
                raise DataError(f"{path}: truncated {image.format} (no end marker); copy the file again")
    except OSError as error:  # PIL: no image, truncated; also a missing file
        raise DataError(
            f"{path}: missing or broken JPEG or PNG ({error.strerror or error}); copy the file again"
        ) from error


def _refuse_format(camera: CameraRecord, raw: bytes) -> None:
    other = format_of(raw)
    if other and other not in ("a JPEG", "a PNG"):
        raise DataError(f"{camera.path}: no JPEG or PNG, but {other}; write the images as PNG or JPEG")


def _refuse_turned(camera: CameraRecord, image: Image.Image) -> None:
    """Refuse an image that other programs turn before they show it, or calibrate with it."""
    turned = image.getexif().get(ORIENTATION, 1) if "exif" in image.info else 1
    if turned in range(2, 9):
        raise DataError(
            f"{camera.path}: EXIF says that it is to be turned (orientation {turned}; allowed is 1). Here pixels are "
            "read as they are stored, but OpenCV and other programs turn them, so the calibration may be for either; "
            "write the image turned (mogrify -auto-orient), or remove the tag (exiftool -Orientation=)"
        )


def _check_image_size(camera: CameraRecord, found: tuple[int, int]) -> None:
    whole = (camera.width_px, camera.height_px)
    if found != whole:
        raise DataError(
            f"{camera.path}: image is {found}, but sample_data.json says {whole} (width, height); mend the table, or "
            "write the image of the size that the calibration is for"
        )


def _decode_png(camera: CameraRecord, png: bytes) -> NDArray[np.uint8]:
    """Decode a PNG to RGB (H, W, 3) uint8: the upper 8 of 16 bits, without an alpha channel."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            _check_image_size(camera, image.size)
            if image.mode.startswith("I"):  # 16 bits of gray, which PIL clips instead of scaling
                gray = (np.asarray(image, np.int32) >> 8).astype(np.uint8)
                return np.repeat(gray[:, :, None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises SyntaxError for a wrong checksum
        raise DataError(f"{camera.path}: broken PNG ({error}); copy the file again") from error


def _shrink(pixels: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
    import cv2

    height, width = image.shape[:2]
    # Down to half the size linear interpolation uses every pixel; averaging areas takes five times as long.
    halves = pixels.shape[1] <= 2 * width and pixels.shape[0] <= 2 * height
    cv2.resize(pixels, (width, height), dst=image, interpolation=cv2.INTER_LINEAR if halves else cv2.INTER_AREA)


def decode_scale(size_px: tuple[int, int], target_px: tuple[int, int]) -> int:
    """The largest factor 1, 2, 4 or 8 by which a JPEG's decoder may shrink an image: it divides both sides, and the
    result is not smaller than the target. ``size_px``, ``target_px``: width, height [px]."""
    for scale in (8, 4, 2):
        divides = size_px[0] % scale == 0 and size_px[1] % scale == 0
        if divides and size_px[0] >= scale * target_px[0] and size_px[1] >= scale * target_px[1]:
            return scale
    return 1
