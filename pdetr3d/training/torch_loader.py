"""Loads the plan's batches by ``torch.utils.data.DataLoader`` (``data.loader=torch``), to compare Ray Data with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pdetr3d.data.loading.load import one_thread
from pdetr3d.schema import DataError, SampleRecord
from pdetr3d.training.plan import LoadBatch, Plan


@dataclass(frozen=True)
class PlannedBatches(Dataset):
    """A map-style dataset whose item i is the rank's local batch of step ``first + i``.

    Args:
        records: the stage's samples. plan: their order. load: reads a batch.
        rank: of this training worker. world_size: number of training workers. first: step of item 0.
    """

    records: Sequence[SampleRecord]
    plan: Plan
    load: LoadBatch
    rank: int
    world_size: int
    first: int

    def __len__(self) -> int:
        return max(0, self.plan.steps - self.first)

    def __getitem__(self, index: int) -> dict[str, NDArray | Tensor] | DataError:
        """The arrays of ``Batch`` as tensors, which processes pass on in shared memory; texts stay NumPy arrays.

        A DataError is returned, not raised, because DataLoader would replace its message by a traceback.
        """
        step = self.first + index
        share = self.plan.at(step, self.rank, self.world_size)
        try:
            arrays = self.load([self.records[i] for i, _ in share], [number for _, number in share], step)
        except DataError as error:
            return error
        return {k: v if v.dtype.kind in "SU" else torch.from_numpy(v) for k, v in arrays.items()}


def torch_batches(batches: PlannedBatches, processes: int) -> Iterator[dict[str, NDArray]]:
    """Yield the batches in order, as the arrays of ``Batch``.

    Args:
        processes: number of loading processes, which are forks of this one; 0 loads in this process. With processes,
            OpenCV works with one thread in this process from then on: a fork has none of its other threads, but
            would wait for them.

    Raises:
        DataError: when a sample cannot be read.
    """
    if processes:
        import cv2  # imported here, because not every process decodes images

        cv2.setNumThreads(1)
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=processes,
        collate_fn=_unchanged,
        worker_init_fn=_use_one_thread,
    )
    for arrays in loader:
        if isinstance(arrays, DataError):
            raise arrays
        yield {k: v.numpy() if isinstance(v, Tensor) else v for k, v in arrays.items()}


def _use_one_thread(_worker: int) -> None:
    one_thread()


def _unchanged(item: object) -> object:
    return item
