"""Training data of the crop branch: the LiDAR points and the image around each click whose box is known.

They are cut out once. Training then needs neither whole images nor whole clouds, so that the model can see each of the
few human boxes many times at little cost (``CropLoader``). Clicks without a box are cut out to be labeled
(``pipeline/crop_labels.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import DataConfig
from pdetr3d.data.draws import keyed_uniform
from pdetr3d.data.labels.clicks import place_clicks
from pdetr3d.data.loading.load import load_sample
from pdetr3d.geometry.camera import in_image, project
from pdetr3d.geometry.crops import REACH_FACTOR, REACH_M, SIDE_FACTOR
from pdetr3d.geometry.rigid import chain
from pdetr3d.schema import SOURCE_PSEUDO, Boxes3D, Sample, SampleRecord

CLICK_REACH = 1 / 6  # a click is at most this share of a side from the box's center (method.md 1.3)
THREADS = 4  # threads that read samples
WINDOW_PX = 64  # width and height of a window
WINDOW_MARGIN = 1.2  # the window is wider by this factor: parts that are nearer than the object's center look larger
MOST_POINTS = 1024  # points of a stored crop; more are thinned out evenly


@dataclass(frozen=True)
class Crops:
    """N crops in the LIDAR_TOP frame of their samples [m].

    Attributes:
        points: (P, 5) float32 x, y, z, intensity, dt. start: (N + 1,) int64, crop i is points[start[i]:start[i + 1]].
        box: (N, 7) float64 x, y, z, l, w, h, yaw. label: (N,) int64. click: (N, 3) float64, the stored click.
        window: (N, V, WINDOW_PX, WINDOW_PX, 3) uint8 RGB, the part of a camera's image around the object; V is 1, or 0
            without cameras. lidar2window: (N, V, 4, 4) float64, projection to window pixels, as ``Sample.lidar2img``.
            seen: (N, V) bool, whether a camera sees the object.
        click_id: (N,) str. redrawn: (N,) bool, simulated clicks, which may be drawn anew.
        source: (N,) int8, who made the box: SOURCE_HUMAN, or SOURCE_PSEUDO for a model. direction: (N,) float32, the
            probability that the box's direction is right; 0.5: unknown.
    """

    points: NDArray[np.float32]
    start: NDArray[np.int64]
    box: NDArray[np.float64]
    label: NDArray[np.int64]
    click: NDArray[np.float64]
    window: NDArray[np.uint8]
    lidar2window: NDArray[np.float64]
    seen: NDArray[np.bool_]
    click_id: NDArray[np.str_]
    redrawn: NDArray[np.bool_]
    source: NDArray[np.int8]
    direction: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, chosen: NDArray[np.int64]) -> Crops:
        """The crops numbered ``chosen``."""
        counts = np.diff(self.start)[chosen]
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.arange(start[-1]) + np.repeat(self.start[chosen] - start[:-1], counts)
        rest = {f.name: getattr(self, f.name)[chosen] for f in fields(Crops) if f.name not in ("start", "points")}
        return Crops(start=start, points=self.points[rows], **rest)

    @staticmethod
    def concatenate(parts: Sequence[Crops]) -> Crops:
        """Join one or more parts in order."""
        counts = np.concatenate([np.diff(p.start) for p in parts])
        rest = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Crops) if f.name != "start"}
        return Crops(start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), **rest)


def cut_crops(
    record: SampleRecord, data: DataConfig, prior_size_m: NDArray[np.float32], *, cameras: bool, boxed: bool = True
) -> Crops:
    """Cut the crops of a sample's clicks whose box is known, or of those whose box is unknown.

    A crop is large enough for ``PointCrop`` at every click that may be drawn for its box.

    Args:
        record: of the sample. data: how it is read. prior_size_m: (C, 3) mean l, w, h per class.
        cameras: whether to cut windows from images, too. boxed: False for the clicks without a known box. Their boxes
            are class-mean boxes at the clicks, with yaw 0 and an unknown direction.
    """
    sample = load_sample(record, data, cameras=cameras)
    points = sample.points
    known = np.nonzero((record.clicks.box_index >= 0) == boxed)[0]
    label, click = record.clicks.label[known], record.clicks.xyz_m[known]
    prior = prior_size_m[label].astype(np.float64)
    found = record.boxes[record.clicks.box_index[known]] if boxed else _guessed(click, prior, label)
    box = found.rows.astype(np.float64)
    side = box[:, 3:6]
    drift = np.maximum(np.linalg.norm(side, axis=1) * CLICK_REACH, np.linalg.norm(click - box[:, :3], axis=1))
    radius = REACH_FACTOR * np.linalg.norm(prior[:, :2], axis=1) + REACH_M + drift
    height = prior[:, 2] + REACH_M + drift
    pieces, start = [], [0]
    for center, far, high in zip(box[:, :3], radius, height, strict=True):
        offset = points[:, :3] - center
        near = np.nonzero((np.hypot(offset[:, 0], offset[:, 1]) <= far) & (np.abs(offset[:, 2]) <= high))[0]
        if len(near) > MOST_POINTS:
            near = near[(np.arange(MOST_POINTS) * len(near)) // MOST_POINTS]
        pieces.append(points[near])
        start.append(start[-1] + len(near))
    reach = WINDOW_MARGIN * (SIDE_FACTOR * np.linalg.norm(prior, axis=1) / 2 + drift)
    windows = [cut_window(sample, center, r) for center, r in zip(box[:, :3], reach, strict=True)] if cameras else []
    views = 1 if cameras else 0
    return Crops(
        window=np.array([w for w, _, _ in windows], np.uint8).reshape(len(box), views, WINDOW_PX, WINDOW_PX, 3),
        lidar2window=np.array([m for _, m, _ in windows], np.float64).reshape(len(box), views, 4, 4),
        seen=np.array([s for _, _, s in windows], bool).reshape(len(box), views),
        points=np.concatenate([np.zeros((0, 5), np.float32), *pieces]),
        start=np.array(start, np.int64),
        box=box,
        label=label,
        click=click,
        click_id=record.clicks.click_id[known].astype(np.str_),
        redrawn=np.array([boxed and not str(n).startswith("human") for n in record.clicks.click_id[known]], bool),
        source=found.source,
        direction=found.direction,
    )


def _guessed(click: NDArray[np.float64], size_m: NDArray[np.float64], label: NDArray[np.int64]) -> Boxes3D:
    """Boxes at clicks (N, 3), with yaw 0 and an unknown direction."""
    zero, unknown = np.zeros(len(label)), np.full(len(label), 0.5)
    return Boxes3D.build(click, size_m, zero, label, direction=unknown, source=SOURCE_PSEUDO)


def cut_window(
    sample: Sample, center_m: NDArray[np.float64], reach_m: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64], bool]:
    """Cut a square image window around a place, from the camera in whose image the place is nearest to the middle.

    Args:
        sample: with images. center_m: (3,) the place, LIDAR_TOP [m]. reach_m: half the side of the window.

    Returns:
        The window (WINDOW_PX, WINDOW_PX, 3) uint8: never enlarged, and 0 outside the image; its lidar2img (4, 4); and
        whether a camera sees the place. If none does, the window is 0.
    """
    import cv2  # imported here, because only samples with images need it

    height, width = sample.images.shape[1:3]
    ray = center_m[:2] / max(float(np.linalg.norm(center_m[:2])), 1e-6)
    ends = center_m + np.array([[0, 0, 0], [ray[1], -ray[0], 0], [0, 0, 1]]) * reach_m
    best, window, matrix = np.inf, np.zeros((WINDOW_PX, WINDOW_PX, 3), np.uint8), np.eye(4)
    for image, lidar2img, valid in zip(sample.images, sample.lidar2img, sample.camera_valid, strict=True):
        uv, _ = project(lidar2img, ends)
        off = abs(uv[0, 0] / width - 0.5)
        if not (valid and in_image(uv[:1], (width, height))[0] and off < best):
            continue
        best, reach_px = off, float(np.nanmax(np.linalg.norm(uv[1:] - uv[0], axis=1)))
        scale = min(1.0, WINDOW_PX / (2 * reach_px))
        move = np.array([[scale, 0, 0], [0, scale, 0]])
        move[:, 2] = WINDOW_PX / 2 - scale * uv[0]
        smooth = cv2.blur(image, (round(1 / scale),) * 2) if scale < 0.6 else image
        window = np.asarray(cv2.warpAffine(smooth, move, (WINDOW_PX, WINDOW_PX)), np.uint8)
        into = np.eye(4)
        into[:2, :3] = move
        matrix = chain(lidar2img, into)
    return window, matrix, bool(np.isfinite(best))


def crops_of(
    records: Sequence[SampleRecord],
    data: DataConfig,
    prior_size_m: NDArray[np.float32],
    *,
    cameras: bool,
    boxed: bool = True,
) -> Crops:
    """``cut_crops`` of all these samples, in order; THREADS samples are read at a time."""
    cut = partial(cut_crops, data=data, prior_size_m=prior_size_m, cameras=cameras, boxed=boxed)
    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(cut, records))
    return Crops.concatenate(parts)


@dataclass(frozen=True)
class CropLoader:
    """Makes the arrays of a ``Batch`` from crops: each crop is a sample with one click, whose image is the window.

    In training a crop is rotated by a random angle and mirrored or not; a click with ``Crops.redrawn`` is drawn anew.
    The draws are keyed by (seed, pass, click_id).

    Args:
        crops: the training data. seed: of the run. redraw: ``label.redraw_clicks``.
    """

    crops: Crops
    seed: int
    redraw: bool = True

    def __call__(self, chosen: Sequence[int], passes: Sequence[int]) -> dict[str, NDArray]:
        """The arrays of the crops numbered ``chosen`` (B,), drawn for the passes ``passes`` (B,)."""
        index = np.asarray(chosen, np.int64)
        keys = [f"{number}/{name}" for number, name in zip(passes, self.crops.click_id[index], strict=True)]
        draws = keyed_uniform(self.seed, 0, keys, "crop", 5)
        click, box = self.crops.click[index], self.crops.box[index]
        if self.redraw:
            drawn = place_clicks(box[:, :3], box[:, 3:6], box[:, 6], draws[:, :3])
            click = np.where(self.crops.redrawn[index][:, None], drawn, click)
        angle, mirror = 2 * np.pi * draws[:, 3], np.where(draws[:, 4] < 0.5, -1.0, 1.0)
        cos, sin = np.cos(angle), np.sin(angle)
        return self.arrays(index, click, np.stack([cos, -sin * mirror, sin, cos * mirror], 1).reshape(-1, 2, 2))

    def as_stored(self, chosen: Sequence[int]) -> dict[str, NDArray]:
        """The arrays of the crops numbered ``chosen`` (B,) without augmentation, with the stored clicks."""
        index = np.asarray(chosen, np.int64)
        return self.arrays(index, self.crops.click[index], np.broadcast_to(np.eye(2), (len(index), 2, 2)))

    def arrays(
        self, index: NDArray[np.int64], click: NDArray[np.float64], linear: NDArray[np.float64]
    ) -> dict[str, NDArray]:
        """The arrays of crops ``index`` (B,) with clicks (B, 3); x and y are multiplied by ``linear`` (B, 2, 2)."""
        crops, n = self.crops, len(index)
        counts = np.diff(crops.start)[index]
        sample = np.repeat(np.arange(n), counts)
        row = np.arange(len(sample)) + np.repeat(crops.start[index] - (np.cumsum(counts) - counts), counts)
        points, box, click = crops.points[row], crops.box[index].copy(), click.copy()
        points[:, :2] = np.einsum("pij,pj->pi", linear.astype(np.float32)[sample], points[:, :2])
        heading = np.einsum("nij,nj->ni", linear, np.stack([np.cos(box[:, 6]), np.sin(box[:, 6])], 1))
        box[:, 6] = np.arctan2(heading[:, 1], heading[:, 0])
        canonical = click.copy()
        for moved in (box, click):
            moved[:, :2] = np.einsum("nij,nj->ni", linear, moved[:, :2])
        augmentation = np.tile(np.eye(4, dtype=np.float32), (n, 1, 1))
        augmentation[:, :2, :2] = linear
        back = augmentation.astype(np.float64).swapaxes(1, 2)[
            :, None
        ]  # turned or mirrored: its inverse is its transpose
        one, label = np.ones((n, 1), bool), crops.label[index][:, None]
        return {
            "token": crops.click_id[index].astype(np.bytes_),
            "points": points,
            "point_sample": sample,
            "weak_points": np.zeros((0, 5), np.float32),
            "weak_point_sample": np.zeros(0, np.int64),
            "box_labeled": one[:, 0],
            "augmentation": augmentation,
            "images": crops.window[index],
            "lidar2img": (crops.lidar2window[index] @ back).astype(np.float32),
            "camera_valid": crops.seen[index],
            "box": box.astype(np.float32)[:, None],
            "velocity": np.full((n, 1, 2), np.nan, np.float32),
            "box_label": label,
            "box_score": np.ones((n, 1), np.float32),
            "box_direction": crops.direction[index][:, None],
            "box_source": crops.source[index].astype(np.int64)[:, None],
            "box_valid": one,
            "click": click.astype(np.float32)[:, None],
            "canonical_click": canonical.astype(np.float32)[:, None],
            "click_label": label,
            "click_box": np.zeros((n, 1), np.int64),
            "click_valid": one,
        }
