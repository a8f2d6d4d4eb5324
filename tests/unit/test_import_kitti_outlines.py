"""Checks that labels whose 3D boxes contradict their rectangles are told, against KITTI's projection in plain loops."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pdetr3d.importers.kitti import import_kitti
from pdetr3d.importers.kitti_files import read_calibration, read_labels
from pdetr3d.importers.kitti_outlines import outlines_px
from tests.reference.tiny_kitti import HEIGHT, P2, WIDTH, corners_rect, project, write

BOXES = [f"1.50 1.70 4.20 {x} 1.70 {z} {yaw}" for x, z, yaw in [(1, 15, -1.5), (-4, 22, 0.3), (3, 18, 2.0)]]


def line(box: str) -> str:
    """A label line with the rectangle around the box, which KITTI's projection gives."""
    corners = [project(P2, corner) for corner in corners_rect(f"Car 0 0 0 0 0 0 0 {box}")]
    (left, top), (right, bottom) = np.min(corners, 0), np.max(corners, 0)
    right, bottom = min(right, WIDTH), min(bottom, HEIGHT)
    return f"Car 0.00 0 -1.58 {max(left, 0):.4f} {max(top, 0):.4f} {right:.4f} {bottom:.4f} {box}"


def test_outlines_are_those_of_kittis_projection(tmp_path: Path) -> None:
    write(tmp_path, {"000000": [line(box) for box in BOXES]})
    labels = read_labels(tmp_path / "training" / "label_2" / "000000.txt", [])
    calibration = read_calibration(tmp_path / "training" / "calib" / "000000.txt")
    found = outlines_px(labels, calibration, (WIDTH, HEIGHT))
    np.testing.assert_allclose(found, labels.rectangle_px, atol=1e-4)
    behind = read_labels(tmp_path / "training" / "label_2" / "000000.txt", [])
    behind.location_m[:, 2] = -9
    assert (outlines_px(behind, calibration, (WIDTH, HEIGHT)) == 0).all()


def swapped(text: str) -> str:
    """Length, width, height in place of height, width, length."""
    words = text.split()
    return " ".join([*words[:8], *words[8:11][::-1], *words[11:]])


def of_the_velodyne(text: str) -> str:
    """The place in the velodyne's axes (x forward, y left, z up)."""
    words = text.split()
    x, y, z = map(float, words[11:14])
    return " ".join([*words[:11], f"{z}", f"{-x}", f"{-y}", words[14]])


def without_rectangle(text: str) -> str:
    """As labels that were converted from a dataset of boxes alone."""
    words = text.split()
    return " ".join([*words[:4], "0 0 0 0", *words[8:]])


@pytest.mark.parametrize(
    ("change", "told"),
    [(str, False), (swapped, True), (of_the_velodyne, True), (without_rectangle, False)],
)
def test_boxes_that_do_not_project_into_their_rectangles_are_told(
    change: Callable[[str], str], told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [change(line(box)) for box in BOXES]
    write(tmp_path / "kitti", {"000000": lines, "000001": lines})
    with caplog.at_level(logging.WARNING):
        import_kitti(tmp_path / "kitti", tmp_path / "out")
    warned = [record.getMessage() for record in caplog.records if "rectangles" in record.getMessage()]
    assert bool(warned) == told
    if told:
        assert warned[0].startswith("6 of 6 3D boxes do not lie where the rectangles of their lines are")
        assert "label_2/000000.txt:" in warned[0] and "(height, width, length)" in warned[0]


def test_files_that_macos_writes_beside_frames_are_no_frames(tmp_path: Path) -> None:
    write(tmp_path / "kitti", {"000000": [line(box) for box in BOXES]})
    (tmp_path / "kitti" / "training" / "velodyne" / "._000000.bin").write_bytes(b"\0" * 4096)
    import_kitti(tmp_path / "kitti", tmp_path / "out")
    assert [file.name for file in (tmp_path / "out" / "samples" / "LIDAR_TOP").iterdir()] == ["000000.pcd.bin"]
