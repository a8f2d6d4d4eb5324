"""Writes a hand-made folder in KITTI's object layout, and computes KITTI's projection in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 300, 100
P2 = [[200.0, 0, 148, 12.5], [0, 210.0, 46, -0.4], [0, 0, 1, 0.0027]]
TURN = 0.02  # rad about rect x, so that R0_rect is not the identity
R0 = [[1.0, 0, 0], [0, math.cos(TURN), -math.sin(TURN)], [0, math.sin(TURN), math.cos(TURN)]]
TR = [[0.0, -1, 0, -0.004], [0, 0, -1, -0.076], [1, 0, 0, -0.27]]
CAR = "Car 0.00 0 -1.58 140 45 160 60 1.50 1.70 4.20 1.00 1.70 15.00 -1.50"


def numbers(rows: Sequence[Sequence[float]]) -> str:
    return " ".join(f"{value:.12e}" for row in rows for value in row)


def calibration_text() -> str:
    return f"P0: {numbers(P2)}\nP2: {numbers(P2)}\nR0_rect: {numbers(R0)}\nTr_velo_to_cam: {numbers(TR)}\n\n"


def points_round(locations: Sequence[Sequence[float]], seed: int) -> np.ndarray:
    """(P, 4) velodyne points: ground, and 40 in the middle of each box; boxes are given by bottom centers in rect."""
    rng = np.random.default_rng(seed)
    ground = np.c_[rng.uniform(2, 60, 400), rng.uniform(-20, 20, 400), np.full(400, -1.73)]
    parts = [ground]
    for location in locations:
        rect = np.array(location) - [0, 0.75, 0] + rng.uniform(-0.2, 0.2, (40, 3))
        unrect = rect @ np.array(R0)  # R0 is a rotation: its transpose undoes it
        parts.append((unrect - np.array(TR)[:, 3]) @ np.array(TR)[:, :3])
    points = np.concatenate(parts)
    return np.c_[points, rng.uniform(0, 1, len(points))].astype("<f4")


def write(root: Path, labels: dict[str, list[str]]) -> None:
    """Write the folder; ``labels``: frame -> lines of its label file."""
    for name, lines in labels.items():
        files = {part: root / "training" / part / name for part in ("velodyne", "image_2", "calib", "label_2")}
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        locations = [[float(word) for word in line.split()[11:14]] for line in lines if not line.startswith("DontCare")]
        points_round(locations, int(name)).tofile(files["velodyne"].with_suffix(".bin"))
        image = np.random.default_rng(int(name)).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(files["image_2"].with_suffix(".png")), image)
        files["calib"].with_suffix(".txt").write_text(calibration_text())
        files["label_2"].with_suffix(".txt").write_text("".join(f"{line}\n" for line in lines))


def corners_rect(line: str) -> list[list[float]]:
    """The eight corners of a label's box in rect, as computeBox3D of KITTI's development kit."""
    h, w, length, x, y, z, ry = (float(word) for word in line.split()[8:15])
    found = []
    for dy in (0, -h):
        for dx, dz in ((length / 2, w / 2), (length / 2, -w / 2), (-length / 2, -w / 2), (-length / 2, w / 2)):
            found.append(
                [math.cos(ry) * dx + math.sin(ry) * dz + x, dy + y, -math.sin(ry) * dx + math.cos(ry) * dz + z]
            )
    return found


def project(p2: Sequence[Sequence[float]], point: Sequence[float]) -> tuple[float, float]:
    u, v, d = (sum(a * b for a, b in zip(row, (*point, 1.0), strict=True)) for row in p2)
    return u / d, v / d
