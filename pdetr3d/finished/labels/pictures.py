"""Draws a close-up of one pseudo label with the true box and the click: from above, and in the best camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pdetr3d.data.storage.files import atomic_path
from pdetr3d.geometry.boxes import corners
from pdetr3d.geometry.camera import in_image, project
from pdetr3d.schema import CAMERAS, Boxes3D, Sample
from pdetr3d.visualize import (
    BACKGROUND,
    CLICK,
    FAINT,
    PANEL,
    TEXT,
    draw_boxes_in_bev,
    draw_boxes_in_image,
    height_colors,
)

TRUE, PSEUDO, OTHER = "#5dff6e", "#ff4dd2", "#8a94a3"
SIDE_IN, WIDE_IN, GAP_IN = 5.0, 8.0, 0.1  # [inch]: bird's-eye view, camera, between them
HEAD_IN, FOOT_IN = 0.78, 0.4


def picture(
    sample: Sample, pseudo: Boxes3D, truth: Boxes3D, click_m: NDArray[np.floating], lines: tuple[str, str], out: Path
) -> Path:
    """Draw one pseudo label to ``out`` (PNG, written atomically).

    The pseudo label is magenta, the true box green, the click a white cross; other true boxes (``sample.boxes``) are
    thin and gray. The view from above states the side of a grid cell. It shows the ego vehicle as a white triangle, or
    points to it by an arrow.

    Args:
        sample: LIDAR_TOP frame; without images only the view from above is drawn.
        pseudo: one box. truth: one box, or none. click_m: (3,) [m]. All are in the sample's frame.
        lines: the title, and the line below it.

    Returns:
        ``out``.
    """
    both = Boxes3D.concatenate([truth, pseudo])
    figure = Figure((SIDE_IN + WIDE_IN + 3 * GAP_IN, SIDE_IN + HEAD_IN + FOOT_IN), dpi=100, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    width, height = figure.get_size_inches()
    left = GAP_IN + SIDE_IN + GAP_IN
    bev, tile = (
        figure.add_axes((x / width, FOOT_IN / height, w / width, SIDE_IN / height))
        for x, w in ((GAP_IN, SIDE_IN), (left, WIDE_IN))
    )
    for axes in (bev, tile):
        axes.set_facecolor(PANEL)
        for spine in axes.spines.values():
            spine.set_color(FAINT)
    _draw_bev(bev, sample, truth, pseudo, click_m)
    _draw_camera(tile, sample, truth, pseudo, both, click_m)
    for text, inch, size, color in ((lines[0], 0.24, 14, TEXT), (lines[1], 0.56, 10.5, "#9aa5b4")):
        figure.text(GAP_IN / width, 1 - inch / height, text, color=color, fontsize=size, va="center")
    _draw_legend(figure, len(truth) > 0)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", facecolor=BACKGROUND)
    return out


def best_camera(sample: Sample, boxes: Boxes3D) -> int | None:
    """The camera that shows the boxes best: an index into CAMERAS; None if no camera shows any.

    It shows the most corners and centers of the boxes; of equal cameras, it has them nearest to the image's middle.
    """
    if not len(sample.images):
        return None
    height, width = sample.images.shape[1:3]
    points = np.concatenate([corners(boxes.center_m, boxes.size_m, boxes.yaw_rad).reshape(-1, 3), boxes.center_m])
    best: tuple[int, float, int] | None = None
    for slot in np.nonzero(sample.camera_valid)[0]:
        uv, _ = project(sample.lidar2img[slot], points)
        seen = in_image(uv, (width, height))
        if seen.any():
            off = float(np.abs(uv[seen] / (width, height) - 0.5).max(axis=1).mean())
            best = max(best or (0, 0.0, 0), (int(seen.sum()), -off, int(slot)))
    return None if best is None else best[2]


def _draw_bev(axes: Axes, sample: Sample, truth: Boxes3D, pseudo: Boxes3D, click_m: NDArray[np.floating]) -> None:
    around = Boxes3D.concatenate([truth, pseudo])
    ground = corners(around.center_m, around.size_m, around.yaw_rad)[:, :4, :2].reshape(-1, 2)
    center = click_m[:2]
    half = max(3.0, 1.35 * float(np.abs(ground - center).max()))
    near = sample.points[np.abs(sample.points[:, :2] - center).max(axis=1) < half]
    for shown, size, alpha in (
        (near[near[:, 4] > 0], 5, 0.55),
        (near[near[:, 4] == 0], 16, 1.0),
    ):  # the keyframe on top
        shown = shown[np.argsort(shown[:, 2], kind="stable")]
        axes.scatter(shown[:, 0], shown[:, 1], c=height_colors(shown[:, 2]), s=size, linewidths=0, alpha=alpha)
    axes.set(xlim=(center[0] - half, center[0] + half), ylim=(center[1] - half, center[1] + half), aspect="equal")
    step = next(step for step in (1, 2, 5, 10, 20) if half / step <= 6)
    for axis, middle in ((axes.xaxis, center[0]), (axes.yaxis, center[1])):
        axis.set_ticks(np.arange(np.ceil((middle - half) / step), (middle + half) / step) * step)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.grid(color=FAINT, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    draw_boxes_in_bev(axes, sample.boxes, "-", OTHER, 0.8)
    draw_boxes_in_bev(axes, truth, "-", TRUE, 2.2)
    draw_boxes_in_bev(axes, pseudo, "-", PSEUDO, 2.2)
    _cross(axes, *click_m[:2])
    axes.plot(0, 0, marker="^", markersize=11, color="#f5f7fa", zorder=5, clip_on=True)  # the ego vehicle
    _note(axes, 0.015, 0.015, f"from above, grid {step} m, forward (y) is up", va="bottom")
    distance = float(np.linalg.norm(center))
    if distance > 1.5 * half:
        toward = np.array([0.91, 0.91]) - 0.055 * center / distance
        axes.annotate(
            "", toward, (0.91, 0.91), "axes fraction", arrowprops={"arrowstyle": "-|>", "color": TEXT, "linewidth": 1.4}
        )
        _note(axes, 0.91, 0.985, "ego", ha="center", va="top")


def _draw_camera(
    axes: Axes, sample: Sample, truth: Boxes3D, pseudo: Boxes3D, both: Boxes3D, click_m: NDArray[np.floating]
) -> None:
    axes.set(xticks=[], yticks=[])
    slot = best_camera(sample, both)
    if slot is None:
        axes.text(0.5, 0.5, "in no camera's view", transform=axes.transAxes, color=TEXT, ha="center", va="center")
        return
    height, width = sample.images.shape[1:3]
    lidar2img = sample.lidar2img[slot]
    axes.imshow(sample.images[slot], extent=(0, width, height, 0), interpolation="bilinear")
    x0, y0, x1, y1 = _crop(lidar2img, both, (width, height))
    axes.set(xlim=(x0, x1), ylim=(y1, y0), aspect="equal")
    keyframe = sample.points[sample.points[:, 4] == 0]
    uv, _ = project(lidar2img, keyframe[:, :3])
    seen = in_image(uv, (width, height))
    axes.scatter(uv[seen, 0], uv[seen, 1], c=height_colors(keyframe[seen, 2]), s=7, linewidths=0, alpha=0.75)
    draw_boxes_in_image(axes, truth, lidar2img, "-", TRUE)
    draw_boxes_in_image(axes, pseudo, lidar2img, "-", PSEUDO)
    _cross(axes, *project(lidar2img, click_m)[0])
    name = CAMERAS[slot].removeprefix("CAM_").replace("_", " ").lower()
    _note(axes, 0.01, 0.98, f"{name}, {width / (x1 - x0):.1f} x", va="top")


def _crop(lidar2img: NDArray, boxes: Boxes3D, size_px: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom [px] of a part of the image around the boxes, with the tile's aspect ratio."""
    width, height = size_px
    uv, _ = project(lidar2img, corners(boxes.center_m, boxes.size_m, boxes.yaw_rad).reshape(-1, 3))
    uv = np.clip(uv[~np.isnan(uv).any(1)], 0, size_px)
    low, high = uv.min(0), uv.max(0)
    aspect = WIDE_IN / SIDE_IN
    wide = max(2.2 * (high[0] - low[0]), 2.2 * aspect * (high[1] - low[1]), width / 6)
    wide = min(wide, width, height * aspect)
    tall = wide / aspect
    x, y = (low + high) / 2
    left, top = np.clip(x - wide / 2, 0, width - wide), np.clip(y - tall / 2, 0, height - tall)
    return float(left), float(top), float(left + wide), float(top + tall)


def _note(axes: Axes, x: float, y: float, text: str, **align: Any) -> None:
    frame = {"facecolor": "black", "alpha": 0.55, "linewidth": 0, "pad": 3}
    axes.text(x, y, text, transform=axes.transAxes, color="white", fontsize=9, zorder=7, bbox=frame, **align)


def _cross(axes: Axes, x: float, y: float) -> None:
    outline = [effects.withStroke(linewidth=4, foreground="black")]
    axes.plot(x, y, marker="x", markersize=10, markeredgewidth=2, color=CLICK, zorder=6, path_effects=outline)


def _draw_legend(figure: Figure, known: bool) -> None:
    handles = [Line2D([], [], color=PSEUDO, linewidth=2.5, label="pseudo label")]
    handles += [Line2D([], [], color=TRUE, linewidth=2.5, label="true box")] if known else []
    handles += [
        Line2D([], [], color=OTHER, linewidth=1, label="other true boxes"),
        Line2D([], [], color=CLICK, marker="x", linestyle="none", markeredgewidth=2, label="click"),
    ]
    figure.legend(
        handles=handles,
        loc="lower left",
        ncols=4,
        frameon=False,
        labelcolor=TEXT,
        fontsize=10,
        bbox_to_anchor=(0, -0.01),
    )
