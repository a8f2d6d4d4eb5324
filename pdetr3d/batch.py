"""Defines the torch types that modules exchange: the models' inputs and outputs (NumPy types: ``schema.py``).

Legend: B samples, P points of all samples, N boxes (padded), K clicks (padded), V = 6 views, H x W pixels or
BEV cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The mean of a scalar over ranks. DDP averages gradients over ranks: dividing a rank's summed loss by the mean count of
# objects thus gives exactly the loss of the whole global batch.
RankMean = Callable[[Tensor], Tensor]

_NOT_PER_SAMPLE = {"token", "points", "point_sample", "weak_points", "weak_point_sample"}


@dataclass(frozen=True)
class Batch:
    """The input of a model, in each sample's (augmented) LIDAR_TOP frame; meters, radians, pixels.

    Attributes:
        token: (B,) bytes array of sample tokens (stays on the CPU).
        points: (P, 5) float32 x, y, z, intensity [0..255], dt [s]; point_sample: (P,) int64 in 0..B-1.
        weak_points, weak_point_sample: the same cloud before augmentation; empty unless the task asks for it.
        box_labeled: (B,) bool, samples all of whose boxes are known; a sample may have none.
        augmentation: (B, 4, 4) float32, lidar2augmented.
        images: (B, V, H, W, 3) uint8 RGB, or (B, 0, 0, 0, 3).
        lidar2img: (B, V, 4, 4) float32; camera_valid: (B, V) bool.
        box: (B, N, 7) float32 x, y, z, l, w, h, yaw; velocity: (B, N, 2) float32, NaN unknown; box_label: (B, N) int64;
        box_score, box_direction: (B, N) float32, as in ``Boxes3D``;
        box_source: (B, N) int64, SOURCE_HUMAN or SOURCE_PSEUDO; box_valid: (B, N) bool.
        click: (B, K, 3) float32; canonical_click: (B, K, 3) float32, before augmentation; click_label: (B, K) int64;
        click_box: (B, K) int64, index into the sample's boxes or -1; click_valid: (B, K) bool.
        known: (B, H, W) bool on the student's head grid, the cells where labels hold; other cells count neither as
            object nor as background. None: labels hold everywhere.
        unclicked: (B, classes, H, W) bool, the cells of the heatmaps that may show an object that nobody clicked, and
            do not count as background (``losses/unclicked.py``). None: there are none.
    """

    token: NDArray[np.bytes_]
    points: Tensor
    point_sample: Tensor
    weak_points: Tensor
    weak_point_sample: Tensor
    box_labeled: Tensor
    augmentation: Tensor
    images: Tensor
    lidar2img: Tensor
    camera_valid: Tensor
    box: Tensor
    velocity: Tensor
    box_label: Tensor
    box_score: Tensor
    box_direction: Tensor
    box_source: Tensor
    box_valid: Tensor
    click: Tensor
    canonical_click: Tensor
    click_label: Tensor
    click_box: Tensor
    click_valid: Tensor
    known: Tensor | None = None
    unclicked: Tensor | None = None

    def __len__(self) -> int:
        return len(self.augmentation)

    def to(self, device: torch.device) -> Batch:
        """Copy every tensor to the device (asynchronously where memory is pinned)."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "token")
        moved: dict[str, Any] = {
            name: None if value is None else value.to(device, non_blocking=True) for name, value in values
        }
        return Batch(self.token, **moved)

    @property
    def crops(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The arguments of ``PointCrop``: points, point_sample, click, click_label, click_valid."""
        return self.points, self.point_sample, self.click, self.click_label, self.click_valid

    def select(self, keep: Tensor) -> Batch:
        """The samples where ``keep``, (B,) bool, is true; possibly none."""
        place = keep.cumsum(0) - 1
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_PER_SAMPLE}
        chosen: dict[str, Any] = {name: value if value is None else value[keep] for name, value in values.items()}
        for cloud, owner in (("points", "point_sample"), ("weak_points", "weak_point_sample")):
            mine = keep[getattr(self, owner)]
            chosen |= {cloud: getattr(self, cloud)[mine], owner: place[getattr(self, owner)[mine]]}
        return Batch(token=self.token[keep.cpu().numpy()], **chosen)

    def objects(
        self, low_m: tuple[float, float], cell_m: float, grid: tuple[int, int], classes: tuple[int, ...]
    ) -> tuple[Cells, Tensor]:
        """The boxes of some classes whose centers lie on a BEV grid, except those in cells where labels do not hold.

        Args:
            low_m: (x, y) of the grid's low corner. cell_m: side of a cell. grid: (rows, columns). classes: labels.

        Returns:
            The boxes' cells, and their indices (N,) int64 into their samples' boxes.
        """
        cell = (self.box[..., :2] - self.box.new_tensor(low_m)) / cell_m
        mine = torch.isin(self.box_label, torch.tensor(classes, device=self.box_label.device))
        keep = self.box_valid & mine & (cell >= 0).all(-1) & (cell < cell.new_tensor(grid[::-1])).all(-1)
        sample, index = torch.nonzero(keep, as_tuple=True)
        column, row = cell[sample, index].long().unbind(1)
        if self.known is not None:
            held = self.known[sample, row, column]
            sample, row, column, index = sample[held], row[held], column[held], index[held]
        return Cells(sample, row, column), index

    def surroundings(
        self,
        low_m: tuple[float, float],
        cell_m: float,
        grid: tuple[int, int],
        classes: tuple[int, ...],
        reach: int,
    ) -> tuple[Cells, Tensor]:
        """As ``objects``, with all cells up to ``reach`` rows and columns away, from which a box may also be regressed.

        A cell that several boxes reach is listed once, for the box whose center is nearest to the cell's.
        """
        own, index = self.objects(low_m, cell_m, grid, classes)
        if reach == 0:
            return own, index
        step = torch.arange(-reach, reach + 1, device=index.device)
        rows = (own.row[:, None, None] + step[:, None]).expand(-1, len(step), len(step)).flatten()
        columns = (own.column[:, None, None] + step).expand(-1, len(step), len(step)).flatten()
        sample, index = (t.repeat_interleave(len(step) ** 2) for t in (own.sample, index))
        center = (self.box[sample, index, :2] - self.box.new_tensor(low_m)) / cell_m
        distance = (center - torch.stack([columns, rows], 1) - 0.5).norm(dim=1)
        distance[(rows < 0) | (rows >= grid[0]) | (columns < 0) | (columns >= grid[1])] = torch.inf
        key = (sample * grid[0] + rows) * grid[1] + columns
        order = distance.argsort(stable=True)
        order = order[key[order].argsort(stable=True)]  # by cell, nearest first
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = key[order][1:] != key[order][:-1]
        chosen = order[first & distance[order].isfinite()]
        return Cells(sample[chosen], rows[chosen], columns[chosen]), index[chosen]

    @staticmethod
    def from_arrays(arrays: dict[str, NDArray]) -> Batch:
        """Wrap the arrays of ``collate``; read-only arrays (from Ray's object store) are copied."""
        tensors = {k: torch.from_numpy(v if v.flags.writeable else v.copy()) for k, v in arrays.items() if k != "token"}
        return Batch(token=arrays["token"], **tensors)


@dataclass(frozen=True)
class Cells:
    """N cells of the head's grid: ``sample``, ``row``, ``column``, each (N,) int64."""

    sample: Tensor
    row: Tensor
    column: Tensor

    def corners(self, low_m: tuple[float, ...], cell_m: float) -> Tensor:
        """(N, 2) float32 x, y [m] of the cells' low corners on a grid that begins at ``low_m``."""
        return torch.stack([self.column, self.row], 1) * cell_m + torch.tensor(low_m[:2], device=self.row.device)


@dataclass(frozen=True)
class TaskMaps:
    """The outputs of one task of the center head (T classes).

    Attributes:
        heatmap: (B, T, H, W) logits.
        cells: N cells where boxes are regressed: the task's objects in training, the heatmap's peaks otherwise.
        regression: (N, 12) box codes (``geometry/center_code.py``).
    """

    heatmap: Tensor
    cells: Cells
    regression: Tensor


@dataclass(frozen=True)
class StudentOutput:
    """The student's output.

    Attributes:
        tasks: maps of each task.
        strong, weak: BEV features (B, C, H, W) of the two views that point guidance compares; weak is None without a
            weak view.
    """

    tasks: list[TaskMaps]
    strong: Tensor
    weak: Tensor | None


@dataclass(frozen=True)
class TeacherOutput:
    """The teacher's output for Q queries per sample; lists have one entry per decoder layer.

    Rows of padded clicks are meaningless.

    Attributes:
        box: (B, Q, 7) decoded boxes x, y, z, l, w, h, yaw.
        code: (B, Q, 10) the codes of the boxes (``decode_click_box``).
        quality: (B, Q) logits of the box's localization quality.
        anchor: (B, Q, 3) the point [m] to which the code is relative.
        frame: (B, Q, 2) cos and sin of the direction of x in the code's frame, in the LiDAR frame.
        logit: (B, Q, classes) class logits; an empty list if the clicks give the queries' classes.
        prior_size: (B, Q, 3) the l, w, h [m] to which the code is relative.
        click: (B, Q) int64, the query's click, or -1 (learned queries). The first queries of all clicks come first, in
            the order of the clicks; further queries of the clicks follow.
    """

    box: list[Tensor]
    code: list[Tensor]
    quality: list[Tensor]
    anchor: list[Tensor]
    frame: list[Tensor]
    logit: list[Tensor]
    prior_size: Tensor
    click: Tensor


def hashed_uniform(point: Tensor, count: int) -> Tensor:
    """Pseudo-random numbers that depend on a point alone (splitmix64's finalizer on the bits of its coordinates).

    Args:
        point: (..., 3), used as float32. count: vectors per point.

    Returns:
        (..., count, 3) float32 in [-1, 1).
    """
    bits = point.detach().float().contiguous().view(torch.int32).long()
    key = bits[..., 0] * 73856093 ^ bits[..., 1] * 19349663 ^ bits[..., 2] * 83492791
    counter = torch.arange(1, 3 * count + 1, device=point.device).view(count, 3) * -0x61C8864680B583EB
    z = key[..., None, None] + counter
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        z = (z ^ _shift_right(z, shift)) * factor
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 40).float() / 2**23 - 1  # the upper 24 bits


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift int64 to the right as if it were unsigned."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
