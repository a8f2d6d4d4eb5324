"""Which samples make up step s: an endless chain of permutations, a pure function of (seed, step).

Position p of the chain is sample ``permutation(seed, p // N, ...)[p % N]``; step s takes positions s*B .. (s+1)*B - 1
and rank r the r-th equal share of them. So every sample is delivered exactly once per pass whatever the number of
workers, no remainder is dropped, and resuming or changing the world size moves nothing. With ``box_slots`` there are
two chains, and each batch takes a fixed number from either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import Config, OptimConfig
from pdetr3d.data.augmentation.augment import AugmentRange, augment
from pdetr3d.data.augmentation.corruption import corrupt
from pdetr3d.data.augmentation.grid_mask import grid_mask
from pdetr3d.data.augmentation.gt_sampling import open_database, paste
from pdetr3d.data.draws import keyed_rng
from pdetr3d.data.labels.clicks import redraw_clicks
from pdetr3d.data.loading.collate import collate
from pdetr3d.data.loading.load import load_sample
from pdetr3d.data.loading.record_list import has_regions
from pdetr3d.schema import DataError, Sample, SampleRecord


@dataclass(frozen=True)
class Plan:
    """Order of ``samples`` samples in global batches of ``batch_size`` over ``steps`` steps.

    ``repeats``: one sample may stand several times among them (``loading/cbgs.py``), and each is to be augmented anew.
    ``box_slots``: so many of every global batch come from the first ``boxed`` samples, the others from the rest, each
    part being a chain of permutations of its own; 0: all are one chain.
    """

    samples: int
    batch_size: int
    steps: int
    seed: int
    repeats: bool = False
    boxed: int = 0
    box_slots: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise DataError("there is no sample to train on: check label.ratio and data.train_split")
        if self.box_slots and not (0 < self.boxed < self.samples and self.box_slots < self.batch_size):
            raise ValueError(f"no such parts: {self}")

    def at(self, step: int, rank: int, world_size: int) -> list[tuple[int, int]]:
        """(sample index, pass number) of the rank's share of the step's global batch.

        With ``repeats`` the position in the chain takes the place of the pass number, by which draws are keyed.
        """
        local = self.batch_size // world_size
        if not self.box_slots:
            start = step * self.batch_size + rank * local
            return self._chain("order", 0, self.samples, range(start, start + local))
        rest = self.batch_size - self.box_slots
        whole = self._chain("order", 0, self.boxed, range(step * self.box_slots, (step + 1) * self.box_slots))
        whole += self._chain("rest", self.boxed, self.samples - self.boxed, range(step * rest, (step + 1) * rest))
        mixed = keyed_rng(self.seed, step, "plan", "mix").permutation(self.batch_size)  # no rank sees one kind alone
        return [whole[i] for i in mixed[rank * local : (rank + 1) * local]]

    def _chain(self, name: str, first: int, size: int, positions: range) -> list[tuple[int, int]]:
        """``at`` of one part: the samples first .. first + size - 1."""
        share = []
        for position in positions:
            number, index = divmod(position, size)
            order = permutation(self.seed, number, name, size)
            share.append((first + int(order[index]), position if self.repeats else number))
        return share


@lru_cache(maxsize=4)  # a step needs two passes of two parts at most; of a million samples, drawing one takes long
def permutation(seed: int, number: int, name: str, size: int) -> NDArray[np.int64]:
    """Order (size,) of one pass over a chain, read-only."""
    order = keyed_rng(seed, number, "plan", name).permutation(size)
    order.flags.writeable = False
    return order


# (records, their pass numbers, the step) -> the arrays of one Batch
LoadBatch = Callable[[Sequence[SampleRecord], Sequence[int], int], dict[str, NDArray]]


@dataclass(frozen=True)
class BatchLoader:
    """Reads, augments and collates one local batch; the same code in Ray Data tasks and in a torch DataLoader.

    Args:
        config: the run's configuration.
        stage: "teacher", "student" or "predict" (no augmentation, no second view; here ``config.corruption`` applies).
        cameras: whether images are read.
        weak_view: whether the unaugmented cloud is delivered too.
        gt_database: file of the objects that are pasted in steps before ``gt_until`` (``pasting``), into box-labeled
            samples alone unless ``paste_everywhere``.
        masks: whether a student's batches say where labels hold (``Batch.known``): where records have regions.
    """

    config: Config
    stage: str
    cameras: bool
    weak_view: bool = False
    gt_database: Path | None = None
    gt_until: int = 0
    paste_everywhere: bool = True
    masks: bool = False

    def pasting(self, database: Path, steps: int, everywhere: bool = True) -> BatchLoader:
        """The loader with GT sampling from ``database``, but for the last ``gt_sampling_fade_out`` of ``steps``;
        ``everywhere``: not into box-labeled samples alone."""
        until = steps - round(self.config.student.gt_sampling_fade_out * steps)
        return replace(self, gt_database=database, gt_until=until, paste_everywhere=everywhere)

    def for_records(self, records: Sequence[SampleRecord]) -> BatchLoader:
        """The loader of a stage that reads these: with masks where it needs them."""
        return replace(self, masks=self.stage == "student" and has_regions(records))

    def __call__(self, records: Sequence[SampleRecord], passes: Sequence[int], step: int = 0) -> dict[str, NDArray]:
        pairs = [self._load(record, number, step) for record, number in zip(records, passes, strict=True)]
        views = [view for _, view in pairs]
        arrays = collate(views, [weak for weak, _ in pairs] if self.weak_view else [])
        if self.stage != "student":
            return arrays
        if self.masks:
            return arrays | {"known": np.stack([self._known(view) for view in views])}
        if strange := [view.record.sample_token for view in views if view.regions]:
            raise ValueError(f"sample {strange[0]} has regions, but the loader is not the one ``for_records``")
        return arrays

    def _known(self, view: Sample) -> NDArray[np.bool_]:
        """(H, W) bool on the student's head grid."""
        low, cell, grid = self.config.model.range_m, self.config.student_cell_m, self.config.student_grid
        return np.ones(grid, bool) if view.regions is None else view.regions.known_cells(low, cell, grid)

    def _load(self, record: SampleRecord, number: int, step: int) -> tuple[Sample, Sample]:
        """The canonical sample and its augmented view; draws are keyed by (seed, pass, sample token).

        Objects are pasted before the views part: guidance compares features of the same scene.
        """
        sample = load_sample(record, self.config.data, self.cameras)
        seed = self.config.run.seed
        if self.stage == "predict":
            sample = corrupt(sample, self.config.corruption, seed)
            return sample, sample
        if self.stage == "teacher" and self.config.label.redraw_clicks:
            sample = Sample(**{**vars(sample), "clicks": redraw_clicks(record, seed, number)})
        if self.gt_database is not None and step < self.gt_until and (self.paste_everywhere or record.role == "box"):
            rng = keyed_rng(seed, number, record.sample_token, "gt_sampling")
            sample = paste(sample, open_database(self.gt_database), self.config.student.gt_sampling, rng)
        moved = augment(sample, self._range().draw(keyed_rng(seed, number, record.sample_token, "augment")))
        if self.stage == "teacher" and self.cameras and self.config.teacher.grid_mask:
            rng = keyed_rng(seed, number, record.sample_token, "grid_mask")
            moved = replace(moved, images=grid_mask(moved.images, self.config.teacher.grid_mask, rng))
        return sample, moved

    def _range(self) -> AugmentRange:
        x0, y0, x1, y1 = self.config.model.bev_range_m
        axes = math.isclose(-x0, x1), math.isclose(-y0, y1)  # elsewhere a mirrored cloud would leave the range
        if self.stage == "teacher":
            t = self.config.teacher
            return AugmentRange(t.augment_flip, t.augment_rotation_rad, t.augment_scale, flip_axes=axes)
        s = self.config.student
        return AugmentRange(s.augment_flip, s.augment_rotation_rad, s.augment_scale, s.augment_translation_m, axes)


def milestones(optim: OptimConfig, steps: int) -> list[int]:
    """Finished-step counts at which a checkpoint is kept: the last one, the others evenly from a share on."""
    first = steps * optim.checkpoints_from if optim.checkpoints > 1 else steps
    span = max(1, optim.checkpoints - 1)
    return sorted({round(first + (steps - first) * i / span) for i in range(optim.checkpoints)} - {0} | {steps})


def total_steps(epochs: float, train_samples: int, batch_size: int) -> int:
    """Optimizer steps: epochs count passes over the whole train split, so every label ratio trains equally long."""
    return max(1, round(epochs * train_samples / batch_size))
