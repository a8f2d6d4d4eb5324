"""Draws README's picture: a val sample from above and in one camera, with clicks and boxes of teacher and student.

python tools/system_picture.py runs/quickstart docs/system.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pdetr3d.data.index.index import Index
from pdetr3d.data.loading.load import load_sample
from pdetr3d.geometry.camera import in_image, project
from pdetr3d.inference.student import StudentPredictor
from pdetr3d.inference.teacher import TeacherPredictor
from pdetr3d.schema import CAMERAS
from pdetr3d.visualize import draw_boxes_in_bev, draw_boxes_in_image, height_colors

CAMERA, SPLIT, RANGE_M, MIN_SCORE = "CAM_FRONT", "sim_val", 26.0, 0.3
CLICK, TEACHER, STUDENT = "#ffffff", "#ffb000", "#33d17a"


def main(run: Path, out: Path, row: int = 0) -> None:
    """Draw sample ``row`` of the split with clicks at the true boxes' centers plus noise of 0.2 m (seed 0)."""
    index = Index.open(run / "data" / "index.arrow")
    record = index.record(index.tokens(SPLIT)[row])
    truth = index.annotations(record.sample_token)
    clicks = truth.box[:, :3] + np.random.default_rng(0).normal(0, 0.2, (len(truth.box), 3)) * [1, 1, 0]
    teacher, student = TeacherPredictor.load(run), StudentPredictor.load(run)
    at_clicks, found = teacher.boxes(record, clicks, truth.label), student.boxes(record)
    found = found[found.score > MIN_SCORE]
    sample = load_sample(record, teacher.config.data, cameras=True)

    figure = Figure(figsize=(11, 4.4), facecolor="#10141a", dpi=110)
    FigureCanvasAgg(figure)
    bev, camera = figure.subplots(1, 2, width_ratios=(1, 1.6))
    points = sample.points[np.abs(sample.points[:, :2]).max(1) < RANGE_M]
    bev.scatter(points[:, 0], points[:, 1], c=height_colors(points[:, 2]), s=1.2, linewidths=0, alpha=0.5)
    draw_boxes_in_bev(bev, at_clicks, "-", TEACHER, 2.2)
    draw_boxes_in_bev(bev, found, "-", STUDENT, 1.1)
    bev.scatter(clicks[:, 0], clicks[:, 1], marker="x", s=22, c=CLICK, zorder=5)
    bev.set(xlim=(-RANGE_M, RANGE_M), ylim=(-RANGE_M, RANGE_M), aspect="equal", facecolor="#0b0e13")
    slot = CAMERAS.index(CAMERA)
    height, width = sample.images.shape[1:3]
    camera.imshow(sample.images[slot], extent=(0, width, height, 0))
    for boxes, color in ((at_clicks, TEACHER), (found, STUDENT)):
        draw_boxes_in_image(camera, boxes, sample.lidar2img[slot], "-", color)
    uv, _ = project(sample.lidar2img[slot], clicks)
    uv = uv[in_image(uv, (width, height))]
    camera.scatter(uv[:, 0], uv[:, 1], marker="x", s=30, c=CLICK, zorder=5)
    camera.set(xlim=(0, width), ylim=(height, 0))
    for axes in (bev, camera):
        axes.set(xticks=[], yticks=[])
    legend = ((0.40, "× click", CLICK), (0.51, "teacher's box at the click", TEACHER))
    for x, text, color in (*legend, (0.74, "student's box, without clicks", STUDENT)):
        figure.text(x, 0.08, text, color=color, fontsize=11, weight="bold")
    figure.subplots_adjust(0.01, 0.02, 0.99, 0.98, 0.02)
    figure.savefig(out, facecolor=figure.get_facecolor())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
