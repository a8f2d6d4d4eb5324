"""The state that all browser tabs of one `pdetr3d click` share: the session, loading of frames, the models."""

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
CLICKED_M = 2.0  # a suggestion counts as clicked if a click of any class is nearer to its center, seen from above

# (record, places (K, 3) float64 [m], labels (K,) int64 of its clicks) -> K boxes in the LIDAR_TOP frame
Teacher = Callable[[SampleRecord, NDArray[np.float64], NDArray[np.int64]], Boxes3D]
# record -> boxes with scores in the LIDAR_TOP frame
Student = Callable[[SampleRecord], Boxes3D]


@dataclass(frozen=True)
class Frame:
    """A loaded keyframe.

    Attributes:
        record: of the sample. points: (P, 3) float32 in the LIDAR_TOP frame [m].
        tiles: places of the images of its cameras. images: the same images, RGB (H, W, 3) uint8.
    """

    record: SampleRecord
    points: NDArray[np.float32]
    tiles: list[Tile]
    images: list[NDArray[np.uint8]]


class Desk:
    """The shared state of all tabs.

    Attributes:
        session: of the annotator. sweeps: number of LiDAR sweeps to show.
        token: the frame that was shown last, with which a reloaded page begins.
        teacher, student: None if they were not asked for.
        turn: the lock that a tab holds while it asks a model.
    """

    def __init__(
        self, session: Session, sweeps: int = 1, teacher: Teacher | None = None, student: Student | None = None
    ) -> None:
        self.session, self.sweeps = session, sweeps
        self.teacher, self.student = teacher, student
        self.turn = asyncio.Lock()
        self.token = session.next_open()

    def load(self, token: str) -> Frame:
        """Load a frame from the files that the index names.

        Raises:
            DataError: for a missing or broken file.
        """
        record = self.session.index.record(token)
        present = [camera for camera in record.cameras if camera is not None]
        size = (present[0].width_px, present[0].height_px) if present else (1, 1)
        if size[0] > IMAGE_WIDTH_PX:
            size = (IMAGE_WIDTH_PX, round(IMAGE_WIDTH_PX * size[1] / size[0]))
        data = DataConfig(num_sweeps=self.sweeps, image_size_px=size)
        sample = load_sample(record, data, cameras=bool(present))
        shown = tiles(record.cameras)
        images = [sample.images[record.cameras.index(tile.camera)] for tile in shown]
        return Frame(record, np.ascontiguousarray(sample.points[:, :3]), shown, images)


def open_suggestions(boxes: Boxes3D, clicks: Sequence[Click], skipped: Collection[int]) -> list[int]:
    """The rows of the suggested boxes that are neither clicked nor skipped, the most confident first.

    Args:
        boxes: the student's. clicks: of the same frame. skipped: rows of skipped boxes.
    """
    places = np.array([click.xyz_m for click in clicks]).reshape(-1, 3)
    found = []
    for row in np.argsort(-boxes.score, kind="stable").tolist():
        away = np.linalg.norm(places[:, :2] - boxes.center_m[row, :2], axis=1)
        if row not in skipped and not (away < CLICKED_M).any():
            found.append(row)
    return found
