"""What all browser tabs of one `pdetr3d click` share: the session, the frames as they are loaded, the models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdetr3d.click.click_file import Click
from pdetr3d.click.session import Session
from pdetr3d.click.sheet import Tile, tiles
from pdetr3d.config import DataConfig
from pdetr3d.data.loading.load import load_sample
from pdetr3d.schema import Boxes3D, SampleRecord

IMAGE_WIDTH_PX = 1600  # larger images are shown at this width
CLICKED_M = 2.0  # a suggestion with a click of any class nearer than this to its center, from above, is clicked

# A record, places (K, 3) float64 [m] and labels (K,) int64 of its clicks -> K boxes, in the LIDAR_TOP frame.
Teacher = Callable[[SampleRecord, NDArray[np.float64], NDArray[np.int64]], Boxes3D]
# A record -> boxes with scores.
Student = Callable[[SampleRecord], Boxes3D]


@dataclass(frozen=True)
class Frame:
    """One keyframe as it is shown.

    Attributes:
        points: (P, 3) float32 in the LIDAR_TOP frame [m]. tiles, images: of the cameras it has; RGB (H, W, 3) uint8.
    """

    record: SampleRecord
    points: NDArray[np.float32]
    tiles: list[Tile]
    images: list[NDArray[np.uint8]]


class Desk:
    """See the module.

    Attributes:
        token: the frame that was shown last; a reloaded page goes on there.
        teacher, student: None where they were not asked for. turn: who holds it may ask one of them.
    """

    def __init__(
        self, session: Session, sweeps: int = 1, teacher: Teacher | None = None, student: Student | None = None
    ) -> None:
        self.session, self.sweeps = session, sweeps
        self.teacher, self.student = teacher, student
        self.turn = asyncio.Lock()
        self.token = session.next_open()

    def load(self, token: str) -> Frame:
        """Read a frame's files: those that the index names.

        Raises:
            DataError: for a missing or broken file.
        """
        record = self.session.index.record(token)
        there = [camera for camera in record.cameras if camera is not None]
        size = (there[0].width_px, there[0].height_px) if there else (1, 1)
        if size[0] > IMAGE_WIDTH_PX:
            size = (IMAGE_WIDTH_PX, round(IMAGE_WIDTH_PX * size[1] / size[0]))
        data = DataConfig(num_sweeps=self.sweeps, image_size_px=size)
        sample = load_sample(record, data, cameras=bool(there))
        shown = tiles(record.cameras)
        images = [sample.images[record.cameras.index(tile.camera)] for tile in shown]
        return Frame(record, np.ascontiguousarray(sample.points[:, :3]), shown, images)


def open_suggestions(boxes: Boxes3D, clicks: Sequence[Click], skipped: Collection[int]) -> list[int]:
    """Rows of the suggested boxes that are neither clicked nor skipped, the most confident first."""
    places = np.array([click.xyz_m for click in clicks]).reshape(-1, 3)
    found = []
    for row in np.argsort(-boxes.score, kind="stable").tolist():
        away = np.linalg.norm(places[:, :2] - boxes.center_m[row, :2], axis=1)
        if row not in skipped and not (away < CLICKED_M).any():
            found.append(row)
    return found
