"""The limits of a stream's data in memory equal values by hand."""

from __future__ import annotations

import pytest

from pdetr3d.config import DataConfig
from pdetr3d.training import flow

MIB = 1024**2


def test_batch_bytes_by_hand() -> None:
    data = DataConfig(num_sweeps=3, image_size_px=(256, 144))
    images, cloud = 6 * 256 * 144 * 3, 3 * 34_720 * 5 * 4
    assert flow.batch_bytes(data, 2, cameras=True) == 2 * (images + cloud)
    assert flow.batch_bytes(data, 4, cameras=False, clouds=2) == 4 * 2 * cloud


@pytest.mark.parametrize(
    ("batch_mib", "workers", "tasks", "steps"),
    [
        (8, 1, 4, 5),  # 64 batches: 512 MiB / (3 * 4 * 8) = 5.3
        (8, 2, 4, 8),  # twice the room: 10.7, but no more than eight
        (8, 1, 10, 2),
        (64, 1, 4, 2),  # not 64 batches, but 2 GiB / (3 * 4 * 64) = 2.7
        (1, 1, 64, 1),  # more than 64 batches: 256 MiB / (3 * 64 * 1) = 1.3
        (64, 1, 100, 1),  # one at least, even where not all tasks find room
        (8, 1, 0, 8),  # no CPU left for loading: one task works all the same
    ],
)
def test_steps_per_task_leave_room_for_all_tasks(batch_mib: int, workers: int, tasks: float, steps: int) -> None:
    assert flow.steps_per_task(batch_mib * MIB, workers, tasks) == steps
