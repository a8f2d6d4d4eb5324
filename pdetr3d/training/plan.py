"""Decides which samples make up each training step, as a pure function of (seed, step), and loads them as a batch.

The N samples form an endless chain of permutations: position p is sample ``permutation(seed, p // N, ...)[p % N]``.
Step s takes the positions s*B .. (s+1)*B - 1 for its global batch of B, and rank r takes the r-th equal share of them.
Every sample is thus delivered exactly once per pass for any number of workers, no remainder is dropped, and resuming or
changing the number of workers does not change the order. With ``box_slots`` there are two chains, and each batch takes
a fixed number of samples from each.
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
    """The order of the samples in the global batches of one training.

    Attributes:
        samples: number of samples. batch_size: samples of a global batch. steps: number of steps. seed: of the order.
        repeats: True when a record may occur several times among the samples (``loading/cbgs.py``); each occurrence is
            then augmented differently.
        boxed: the number of box-labeled samples, which come first.
        box_slots: the number of samples of each global batch that come from the first ``boxed`` samples; the others
            come from the rest. Each part is a chain of its own. 0: all samples form one chain.

    Raises:
        DataError: when there are no samples.
        ValueError: when ``boxed`` and ``box_slots`` leave one of the two parts empty.
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
        """The rank's share of a step's global batch, as (sample index, pass number).

        The pass number keys the random draws of augmentation. With ``repeats`` it is the position in the chain instead.
        """
        local = self.batch_size // world_size
        if not self.box_slots:
            start = step * self.batch_size + rank * local
            return self._chain("order", 0, self.samples, range(start, start + local))
        rest = self.batch_size - self.box_slots
        whole = self._chain("order", 0, self.boxed, range(step * self.box_slots, (step + 1) * self.box_slots))
        whole += self._chain("rest", self.boxed, self.samples - self.boxed, range(step * rest, (step + 1) * rest))
        # Without mixing, some ranks would get box-labeled samples alone.
        mixed = keyed_rng(self.seed, step, "plan", "mix").permutation(self.batch_size)
        return [whole[i] for i in mixed[rank * local : (rank + 1) * local]]

    def _chain(self, name: str, first: int, size: int, positions: range) -> list[tuple[int, int]]:
        """(sample index, pass number) at positions of the chain of the samples first .. first + size - 1."""
        share = []
        for position in positions:
            number, index = divmod(position, size)
            order = permutation(self.seed, number, name, size)
            share.append((first + int(order[index]), position if self.repeats else number))
        return share


@lru_cache(maxsize=4)  # a step needs at most two passes of two chains; drawing one of a million samples is slow
def permutation(seed: int, number: int, name: str, size: int) -> NDArray[np.int64]:
    """The order (size,) int64 of pass ``number`` over the chain ``name``, read-only."""
    order = keyed_rng(seed, number, "plan", name).permutation(size)
    order.flags.writeable = False
    return order


# (records, their pass numbers, the step) -> the arrays of one Batch
LoadBatch = Callable[[Sequence[SampleRecord], Sequence[int], int], dict[str, NDArray]]


@dataclass(frozen=True)
class BatchLoader:
    """Reads, augments and collates one local batch; Ray Data tasks and the torch DataLoader share this code.

    Args:
        config: the run's configuration.
        stage: "teacher", "student" or "predict" (no augmentation, no second view; here ``config.corruption`` applies).
        cameras: whether images are read.
        weak_view: whether the unaugmented cloud is delivered, too.
        gt_database: file of objects to paste into the samples (GT sampling). None: no pasting.
        gt_until: objects are pasted in the steps before this one.
        paste_everywhere: False pastes into box-labeled samples alone.
        masks: whether a student's batches have ``Batch.known``, the cells where labels hold; needed when records have
            regions (``for_records``).

    Raises (when called):
        DataError: when a sample's file cannot be read; the message names it.
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
        """The loader with GT sampling from ``database``, except in the last ``student.gt_sampling_fade_out`` of the
        ``steps`` (PointAugmenting's fade strategy). ``everywhere``: False pastes into box-labeled samples alone."""
        until = steps - round(self.config.student.gt_sampling_fade_out * steps)
        return replace(self, gt_database=database, gt_until=until, paste_everywhere=everywhere)

    def for_records(self, records: Sequence[SampleRecord]) -> BatchLoader:
        """The loader for a stage that reads these records: with masks if it is a student's and a record has regions."""
        return replace(self, masks=self.stage == "student" and has_regions(records))

    def __call__(self, records: Sequence[SampleRecord], passes: Sequence[int], step: int = 0) -> dict[str, NDArray]:
        """Load these records as the arrays of one ``Batch``; ``passes[i]`` is the pass number of ``records[i]``."""
        pairs = [self._load(record, number, step) for record, number in zip(records, passes, strict=True)]
        views = [view for _, view in pairs]
        arrays = collate(views, [weak for weak, _ in pairs] if self.weak_view else [])
        if self.stage != "student":
            return arrays
        if self.masks:
            return arrays | {"known": np.stack([self._known(view) for view in views])}
        if regional := [view.record.sample_token for view in views if view.regions]:
            raise ValueError(f"sample {regional[0]} has regions, but the loader was not made by ``for_records``")
        return arrays

    def _known(self, view: Sample) -> NDArray[np.bool_]:
        """(H, W) bool on the student's head grid: the cells where the sample's labels hold."""
        low, cell, grid = self.config.model.range_m, self.config.student_cell_m, self.config.student_grid
        return np.ones(grid, bool) if view.regions is None else view.regions.known_cells(low, cell, grid)

    def _load(self, record: SampleRecord, number: int, step: int) -> tuple[Sample, Sample]:
        """The canonical sample and its augmented view; random draws are keyed by (seed, pass, sample token).

        Objects are pasted before the two views are made, because guidance compares features of the same scene.
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
        moved = augment(sample, self.augment_range().draw(keyed_rng(seed, number, record.sample_token, "augment")))
        if self.stage == "teacher" and self.cameras and self.config.teacher.grid_mask:
            rng = keyed_rng(seed, number, record.sample_token, "grid_mask")
            moved = replace(moved, images=grid_mask(moved.images, self.config.teacher.grid_mask, rng))
        return sample, moved

    def augment_range(self) -> AugmentRange:
        """The stage's ranges of augmentation. A cloud is mirrored only along axes that the range is symmetric in."""
        x0, y0, x1, y1 = self.config.model.bev_range_m
        axes = math.isclose(-x0, x1), math.isclose(-y0, y1)
        if self.stage == "teacher":
            t = self.config.teacher
            return AugmentRange(t.augment_flip, t.augment_rotation_rad, t.augment_scale, flip_axes=axes)
        s = self.config.student
        return AugmentRange(s.augment_flip, s.augment_rotation_rad, s.augment_scale, s.augment_translation_m, axes)


def milestones(optim: OptimConfig, steps: int) -> list[int]:
    """The numbers of finished steps at which a checkpoint is kept, in ascending order.

    They are ``optim.checkpoints`` evenly spaced steps from ``optim.checkpoints_from`` of the training to its end.
    """
    first = steps * optim.checkpoints_from if optim.checkpoints > 1 else steps
    span = max(1, optim.checkpoints - 1)
    return sorted({round(first + (steps - first) * i / span) for i in range(optim.checkpoints)} - {0} | {steps})


def total_steps(epochs: float, train_samples: int, batch_size: int) -> int:
    """The number of optimizer steps, at least 1.

    One epoch is a pass over the whole train split, not over its labeled part: all label ratios train equally long.

    Args:
        epochs: number of passes. train_samples: of the whole train split. batch_size: of the global batch.
    """
    return max(1, round(epochs * train_samples / batch_size))
