"""Cuts out the LiDAR points around each click and a picture of it, for tests of the simulated world.

The frame is LIDAR_TOP. A crop has no ground (the simulated ground is a plane), and no information of the label except
the class and place of the click.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import DataConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.labels.clicks import draw_click
from pdetr3d.data.loading.load import load_sample
from pdetr3d.data.loading.records import inspection_record
from pdetr3d.geometry.camera import in_image, project
from pdetr3d.geometry.rigid import apply
from pdetr3d.schema import FALLBACK_SIZE_M, Sample

PICTURE_PX = 32
GROUND_M = 0.12  # points lower than this above the simulated ground are ground
MAX_POINTS = 128


@dataclass(frozen=True)
class Crops:
    """The crops of N clicks.

    Attributes:
        points: (P, 5) float32 offset from the click [m], intensity 0..1, age [s], one click after the other.
        count: (N,) int64 points of each click. click: (N, 3) float32 [m]. label: (N,) int64.
        box: (N, 7) float32 x, y, z, l, w, h, yaw. speed_m_s: (N,) float32, NaN unknown.
        picture: (N, 32, 32, 3) uint8, black where no camera sees the click.
        pixel_m: (N,) float32 width of an image pixel at the click [m]; NaN: in no image.
    """

    points: NDArray[np.float32]
    count: NDArray[np.int64]
    click: NDArray[np.float32]
    label: NDArray[np.int64]
    box: NDArray[np.float32]
    speed_m_s: NDArray[np.float32]
    picture: NDArray[np.uint8]
    pixel_m: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def distance_m(self) -> NDArray[np.float64]:
        """(N,) distances of the boxes' centers from the LiDAR, seen from above."""
        return np.linalg.norm(self.box[:, :2].astype(np.float64), axis=1)

    def take(self, chosen: NDArray[np.int64]) -> Crops:
        """The crops numbered ``chosen``."""
        start = np.cumsum(self.count) - self.count
        count = self.count[chosen]
        inside = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        rest = {f.name: getattr(self, f.name)[chosen] for f in fields(self) if f.name != "points"}
        return Crops(points=self.points[np.repeat(start[chosen], count) + inside], **rest)


def cut_split(dataroot: Path, split: str, data: DataConfig, folder: Path, *, keyframes: int = 0) -> Crops:
    """The crops of every kept object of a split, with one click each, drawn by (split); cached as a file in ``folder``.

    Args:
        data: number of sweeps, and size of images. keyframes: number of the first keyframes that are used; 0: all.
    """
    file = folder / f"{split}-{keyframes}-{data.image_size_px[0]}x{data.image_size_px[1]}.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        index_file = folder / "index.arrow"
        if not index_file.exists():
            build_index(dataroot, "v1.0-sim", index_file)
        index, rng = Index.open(index_file), np.random.default_rng(len(split))
        tokens = index.tokens(split)[: keyframes or None]
        parts = [cut(load_sample(inspection_record(index, token), data, cameras=True), rng) for token in tokens]
        arrays = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Crops)}
        np.savez(file, **arrays)
    with np.load(file) as arrays:
        return Crops(**{f.name: arrays[f.name] for f in fields(Crops)})


def cut(sample: Sample, rng: np.random.Generator) -> Crops:
    """The crops of one sample's boxes."""
    boxes = sample.boxes
    click = draw_click(boxes.center_m, boxes.size_m, boxes.yaw_rad, rng).astype(np.float32)
    size = FALLBACK_SIZE_M[boxes.label]
    height = apply(sample.record.lidar2ego, sample.points[:, :3].astype(np.float64))[:, 2]
    above = sample.points[height > GROUND_M]
    pieces, pictures, pixels = [], [], []
    for xyz, lwh in zip(click, size, strict=True):
        offset = above[:, :3] - xyz
        near = np.hypot(offset[:, 0], offset[:, 1]) < 0.6 * np.hypot(lwh[0], lwh[1]) + 0.5
        near = np.flatnonzero(near & (np.abs(offset[:, 2]) < lwh[2] + 0.5))
        near = np.sort(rng.permutation(near)[:MAX_POINTS])
        pieces.append(np.column_stack([offset[near], above[near, 3] / 255, above[near, 4]]).astype(np.float32))
        picture, pixel_m = take_picture(sample, xyz.astype(np.float64), 1.5 * float(np.linalg.norm(lwh)))
        pictures.append(picture)
        pixels.append(pixel_m)
    return Crops(
        points=np.concatenate([np.zeros((0, 5), np.float32), *pieces]),
        count=np.array([len(piece) for piece in pieces], np.int64),
        click=click,
        label=boxes.label,
        box=boxes.rows.astype(np.float32),
        speed_m_s=np.linalg.norm(boxes.velocity_m_s, axis=1),
        picture=np.stack(pictures) if pictures else np.zeros((0, PICTURE_PX, PICTURE_PX, 3), np.uint8),
        pixel_m=np.array(pixels, np.float32),
    )


def take_picture(sample: Sample, xyz_m: NDArray[np.float64], side_m: float) -> tuple[NDArray[np.uint8], float]:
    """A square of ``side_m`` around a place, from the camera with the place nearest to its middle; a pixel's width."""
    height, width = sample.images.shape[1:3]
    ray = xyz_m[:2] / np.linalg.norm(xyz_m[:2])
    across = np.array([ray[1], -ray[0], 0.0])  # to the right as seen from the sensor
    best, picture, pixel_m = np.inf, np.zeros((PICTURE_PX, PICTURE_PX, 3), np.uint8), np.nan
    for image, matrix in zip(sample.images, sample.lidar2img, strict=True):
        uv, _ = project(matrix, np.stack([xyz_m, xyz_m + across / 2, xyz_m + (0, 0, 0.5)]))
        if not in_image(uv[:1], (width, height))[0] or abs(uv[0, 0] - width / 2) >= best:
            continue
        best = abs(uv[0, 0] - width / 2)
        per_m = 2 * np.abs([uv[1, 0] - uv[0, 0], uv[2, 1] - uv[0, 1]])
        scale = PICTURE_PX / (side_m * per_m)
        move = np.array([[scale[0], 0, 0], [0, scale[1], 0]])
        move[:, 2] = PICTURE_PX / 2 - scale * uv[0]
        smooth = cv2.blur(image, tuple(int(max(1, round(1 / s))) for s in scale)) if scale.min() < 0.6 else image
        picture = cv2.warpAffine(smooth, move, (PICTURE_PX, PICTURE_PX), flags=cv2.INTER_LINEAR)
        pixel_m = 1 / per_m[0]
    return picture, float(pixel_m)
