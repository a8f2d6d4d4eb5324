"""Tests of objects' visibility, by hand. The camera looks along +y; f = 100 px, image 200 x 100 px."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdetr3d.config import DataConfig
from pdetr3d.data.loading.load import load_sample
from pdetr3d.evaluation.visibility import visibility
from pdetr3d.schema import CAMERAS, SOURCE_HUMAN, Boxes3D, CameraRecord, PointLabels, SampleRecord
from tests.unit.test_camera import LIDAR2IMG


def record(folder: Path, boxes: list[list[float]], points: list[list[float]]) -> SampleRecord:
    rows, n = np.array(boxes, np.float32), len(boxes)
    (folder / "x.pcd.bin").write_bytes(np.array([[*p, 0, 0] for p in points], np.float32).tobytes())
    return SampleRecord(
        sample_token="s",
        scene_token="c",
        timestamp_us=0,
        role="box",
        lidar_path=str(folder / "x.pcd.bin"),
        sweeps=(),
        cameras=(CameraRecord("x.jpg", 200, 100, LIDAR2IMG), *[None] * (len(CAMERAS) - 1)),
        lidar2ego=np.eye(4),
        ego2global=np.eye(4),
        boxes=Boxes3D(
            rows[:, :3],
            rows[:, 3:6],
            rows[:, 6],
            np.zeros((n, 2), np.float32),
            np.zeros(n, np.int64),
            np.ones(n, np.float32),
            np.ones(n, np.float32),
            np.full(n, SOURCE_HUMAN, np.int8),
        ),
        clicks=PointLabels.empty(),
    )


def test_visibility_by_hand(tmp_path: Path) -> None:
    boxes = [
        [0, 21, 0, 4, 2, 2, 0],  # its near face, 20 m away: 4 * 50 / 20 = 10 px wide, 2 * 50 / 20 = 5 px high
        [0, -21, 0, 4, 2, 2, 0],  # behind the camera
        [0, 45, 0, 2, 4, 2, np.pi / 2],  # turned: 4 m wide at 44 m
        [30, 25, 0, 4, 2, 2, 0],  # before the camera, its center 10 px right of the image
        [0, 60, 0, 4, 2, 2, 0],  # farther than any bin
    ]
    points = [[0, 20.5, 0], [1.9, 21.9, 0.9], [-1, 21, 0], [0, 45, 0.5], [0, 60, 0], [5, 5, 0]]
    data = DataConfig(num_sweeps=1, image_size_px=(100, 50))
    found = visibility([load_sample(record(tmp_path, boxes, points), data, cameras=False)], data.image_size_px)
    assert found.objects.to_dict() == {"0-10": 0, "10-20": 0, "20-30": 2, "30-40": 1, "40-52": 1}
    near, far = found.loc["20-30"], found.loc["40-52"]
    assert (near.points, near.in_view) == (1.5, 0.5)  # 3 and 0
    assert (near.width_px, near.height_px) == pytest.approx((10, 5))
    assert (far.points, far.in_view) == (1, 1)
    assert (far.width_px, far.height_px) == pytest.approx((4 * 50 / 44, 2 * 50 / 44))
    assert found.loc["30-40", "in_view"] == 0
    assert found.loc["0-10", ["points", "in_view", "width_px"]].isna().all()
