"""Draws a sample as one picture: bird's-eye view beside six cameras, with boxes, clicks and LiDAR points."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon

from pdetr3d.class_list import ClassList
from pdetr3d.data.storage.files import atomic_path
from pdetr3d.geometry.boxes import EDGES, corners, rotate_z
from pdetr3d.geometry.camera import in_image, project, project_segments
from pdetr3d.schema import CAMERAS, SOURCE_HUMAN, Boxes3D, Sample

SHOWN_M = (-51.2, -51.2, 51.2, 51.2)  # x0, y0, x1, y1 that the bird's-eye view shows ...
MARGIN_M = 0.8  # ... with this margin around it
RINGS_M = (10, 20, 30, 40, 50)
# The top row has the cameras to the front, the bottom row those to the back.
CAMERA_ROWS = (("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"), ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"))
# A color for each of the ten classes in order; further classes repeat them. They differ on dark ground and on images.
COLORS = ("#3fa7ff", "#ff9f1c", "#d4b106", "#ff4d6d", "#c77dff", "#b0bec5", "#00e5c0", "#a3ff12", "#ff66c4", "#ff6d00")
BACKGROUND, PANEL, TEXT, FAINT, CLICK = "#10141a", "#0b0e13", "#d8dee9", "#3a4350", "#ffffff"
HEIGHT_M = (-2.6, 3.0)  # of the points' color scale, LIDAR_TOP z
SCORES = 60  # at most this many predictions have their score written beside them
NAME = 40  # characters of a sample's name that are shown: enough for a token, but not for every path
POINT_COLORS = matplotlib.colormaps["turbo"]


def color_of(label: int) -> str:
    """The color of a class."""
    return COLORS[label % len(COLORS)]


def inspect_sample(
    sample: Sample,
    out: Path,
    predictions: Boxes3D | None = None,
    range_m: tuple[float, float, float, float] = SHOWN_M,
    *,
    classes: ClassList,
) -> Path:
    """``draw_sample`` to the file ``out`` (PNG, written atomically); returns ``out``."""
    png = draw_sample(sample, predictions, range_m, classes=classes)
    with atomic_path(Path(out)) as temporary:
        temporary.write_bytes(png)
    return Path(out)


def draw_sample(
    sample: Sample,
    predictions: Boxes3D | None = None,
    range_m: tuple[float, float, float, float] = SHOWN_M,
    *,
    classes: ClassList,
) -> bytes:
    """Draw a sample as a PNG.

    Boxes are solid, colored by class, with a tick along the heading; pseudo labels are thinner. Predictions are dashed,
    and the best SCORES of them have their scores beside them. Clicks are white crosses. The bird's-eye view has x to
    the right and y (forward) up. A dashed line surrounds the region where objects are annotated; regions to ignore are
    hatched. Without images only the bird's-eye view is drawn; rows and columns without any camera are left out.

    Args:
        sample: to draw. predictions: boxes in the sample's frame.
        range_m: x0, y0, x1, y1 that the bird's-eye view, a square, shows at least.
        classes: names of ``Boxes3D.label``.

    Returns:
        The content of the PNG file.
    """
    with_cameras = len(sample.images) == len(CAMERAS)
    figure = Figure(facecolor=BACKGROUND, dpi=120)
    FigureCanvasAgg(figure)
    shown = _shown(sample) if with_cameras else []
    bev, *tiles = _layout(figure, shown, sample.images.shape[2] / sample.images.shape[1] if with_cameras else 0.0)
    groups = [(sample.boxes, "-")] + ([] if predictions is None else [(predictions, (0, (3, 2)))])
    _draw_bev(bev, sample, groups, range_m)
    if predictions is not None:
        _write_scores(bev, predictions)
    for tile, name in zip(tiles, [name for row in shown for name in row], strict=True):
        _draw_camera(tile, sample, name, groups)
    _draw_legend(figure, sample, predictions, classes)
    record = sample.record
    counts = f"{len(sample.points):,} points   {len(sample.boxes)} boxes   {len(sample.clicks)} clicks"
    counts += "" if predictions is None else f"   {len(predictions)} predictions"
    role = f"{record.role}-labeled" if record.role in ("box", "point") else record.role
    size = 12 if len(shown) > 1 else 8.5
    name = record.sample_token if len(record.sample_token) <= NAME else f"…{record.sample_token[1 - NAME :]}"
    figure.text(0.006, 0.97, f"{name}   {role}", color=TEXT, fontsize=size, weight="bold", va="center")
    figure.text(0.994, 0.97, counts, color=TEXT, fontsize=size - 1, va="center", ha="right")
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor=BACKGROUND)
    return png.getvalue()


def _shown(sample: Sample) -> list[list[str]]:
    """CAMERA_ROWS without empty rows and columns; all of them if the sample has no camera."""
    there = np.array([[sample.camera_valid[CAMERAS.index(name)] for name in row] for row in CAMERA_ROWS])
    if not there.any():
        return [list(row) for row in CAMERA_ROWS]
    return [list(row[there.any(0)]) for row in np.array(CAMERA_ROWS)[there.any(1)]]


def _layout(figure: Figure, shown: list[list[str]], aspect: float) -> list[Axes]:
    """The axes of a square bird's-eye view and of tiles beside it for the cameras ``shown``.

    Args:
        aspect: width / height of an image.
    """
    columns = len(shown[0]) if shown else 0
    side, gap, top, bottom = 7.4, 0.06, 0.5, 0.42 if columns > 1 else 0.8  # inches
    tile = (side - gap) / 2
    width, height = side + 2 * gap + columns * (tile * aspect + gap), side + top + bottom
    figure.set_size_inches(width, height)
    places = [(gap, bottom, side, side)]
    step = tile * aspect + gap
    places += [
        (side + 2 * gap + column * step, bottom + (1 - row) * (tile + gap), tile * aspect, tile)
        for row in range(len(shown))
        for column in range(columns)
    ]
    return [figure.add_axes((x / width, y / height, w / width, h / height)) for x, y, w, h in places]


def height_colors(z_m: np.ndarray) -> np.ndarray:
    """RGBA (P, 4) of points at heights (P,) [m] above the LiDAR."""
    share = np.clip((z_m - HEIGHT_M[0]) / (HEIGHT_M[1] - HEIGHT_M[0]), 0, 1)
    return POINT_COLORS(0.12 + 0.76 * share)  # without the dark ends, which are not visible on dark ground


def _box_colors(boxes: Boxes3D) -> list[str]:
    return [color_of(label) for label in boxes.label]


def _draw_bev(axes: Axes, sample: Sample, groups: list, range_m: tuple[float, float, float, float]) -> None:
    axes.set_facecolor(PANEL)
    low, high = np.array(range_m).reshape(2, 2)
    middle, half = (low + high) / 2, (high - low).max() / 2 + MARGIN_M
    points = sample.points[np.abs(sample.points[:, :2] - middle).max(1, initial=0) < half]
    points = points[np.argsort(points[:, 2], kind="stable")]  # high points on top
    axes.scatter(points[:, 0], points[:, 1], c=height_colors(points[:, 2]), s=1.4, linewidths=0, alpha=0.8)
    for radius in RINGS_M:
        axes.add_patch(Circle((0, 0), radius, fill=False, color=FAINT, linewidth=0.7, linestyle=(0, (4, 4))))
        axes.text(
            radius * 0.7071, -radius * 0.7071, f"{radius} m", color="#7d8896", fontsize=8, ha="center", va="center",
            clip_on=True,
        )  # fmt: skip
    ego = Polygon([(-0.95, -2.2), (-0.95, 1.6), (0, 2.6), (0.95, 1.6), (0.95, -2.2)], color="#f5f7fa", zorder=5)
    axes.add_patch(ego)
    if sample.regions is not None:
        for corners_m in sample.regions.valid or ():
            axes.add_patch(Polygon(corners_m, fill=False, edgecolor=TEXT, linewidth=0.8, linestyle=(0, (6, 4))))
        for corners_m in sample.regions.ignore:
            axes.add_patch(Polygon(corners_m, fill=False, edgecolor="#7d8896", linewidth=0.6, hatch="////"))
    for boxes, style in groups:
        draw_boxes_in_bev(axes, boxes, style, _box_colors(boxes), np.where(boxes.source == 0, 1.6, 1.0))
    clicks = sample.clicks
    axes.scatter(
        clicks.xyz_m[:, 0], clicks.xyz_m[:, 1], marker="x", s=16, linewidths=1.0, zorder=4, c=CLICK,
    )  # fmt: skip
    x_span, y_span = ((center - half, center + half) for center in middle)
    axes.set(xlim=x_span, ylim=y_span, xticks=[], yticks=[], aspect="equal")
    axes.text(0.5, 0.985, "forward (y)", transform=axes.transAxes, color="#7d8896", fontsize=9, ha="center", va="top")
    for spine in axes.spines.values():
        spine.set_color(FAINT)


def _write_scores(axes: Axes, boxes: Boxes3D) -> None:
    """Write the scores of the best SCORES boxes beside them."""
    for place in np.argsort(-boxes.score, kind="stable")[:SCORES]:
        x, y = boxes.center_m[place, :2]
        axes.annotate(
            f"{boxes.score[place]:.2f}", (x, y), (5, -6), textcoords="offset points", color=TEXT, fontsize=5.5,
            zorder=6, clip_on=True, annotation_clip=True,
        )  # fmt: skip


def draw_boxes_in_bev(axes: Axes, boxes: Boxes3D, style: object, colors: object, width: object) -> None:
    """Draw outlines seen from above, with a tick along each heading.

    Args:
        style: matplotlib's line style. colors, width [pt]: of all boxes together, or of each.
    """
    outline = corners(boxes.center_m, boxes.size_m, boxes.yaw_rad)[:, [0, 1, 2, 3, 0], :2]
    axes.add_collection(LineCollection(list(outline), colors=colors, linewidths=width, linestyles=style, zorder=3))
    # A tick leads from the center through the front by a fixed length, so that it is readable on a cone, too.
    length = np.stack([boxes.size_m[:, 0] / 2 + 0.8, np.zeros(len(boxes))], 1)
    tip = boxes.center_m[:, :2] + rotate_z(length, boxes.yaw_rad)
    ticks = np.stack([boxes.center_m[:, :2], tip], 1)
    axes.add_collection(LineCollection(list(ticks), colors=colors, linewidths=width, zorder=3))


def _draw_camera(axes: Axes, sample: Sample, name: str, groups: list) -> None:
    slot = CAMERAS.index(name)
    height, width = sample.images.shape[1:3]
    lidar2img = sample.lidar2img[slot]
    # Continuous coordinates with corners at integers: the image spans 0..width, 0..height.
    axes.imshow(sample.images[slot], extent=(0, width, height, 0), interpolation="antialiased")
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    label = name.removeprefix("CAM_").replace("_", " ").lower()
    axes.text(
        0.015, 0.97, label if sample.camera_valid[slot] else f"{label}: no image", transform=axes.transAxes,
        color="white", fontsize=10, va="top", bbox={"facecolor": "black", "alpha": 0.55, "linewidth": 0, "pad": 3},
    )  # fmt: skip
    if not sample.camera_valid[slot]:
        return
    keyframe = sample.points[sample.points[:, 4] == 0]  # in earlier sweeps moving objects are at other places
    uv, _ = project(lidar2img, keyframe[:, :3])
    seen = in_image(uv, (width, height))
    axes.scatter(uv[seen, 0], uv[seen, 1], c=height_colors(keyframe[seen, 2]), s=1.3, linewidths=0, alpha=0.4)
    for boxes, style in groups:
        draw_boxes_in_image(axes, boxes, lidar2img, style)
    uv, _ = project(lidar2img, sample.clicks.xyz_m)
    seen = in_image(uv, (width, height))
    axes.scatter(uv[seen, 0], uv[seen, 1], marker="x", s=46, linewidths=2.6, c="black", alpha=0.6, zorder=4)
    axes.scatter(uv[seen, 0], uv[seen, 1], marker="x", s=36, linewidths=1.3, c=CLICK, zorder=5)


def draw_boxes_in_image(
    axes: Axes, boxes: Boxes3D, lidar2img: np.ndarray, style: object, color: str | None = None
) -> None:
    """Draw edges and heading of each box in an image.

    Args:
        lidar2img: (4, 4). style: matplotlib's line style. color: of all boxes, which are then thicker; None: by class.
    """
    shape = corners(boxes.center_m, boxes.size_m, boxes.yaw_rad)
    for i in np.argsort(-np.linalg.norm(boxes.center_m, axis=1)):  # near boxes over far ones
        segments = project_segments(lidar2img, shape[i][EDGES])
        hue, width = color or color_of(boxes.label[i]), 1.8 if color else 1.4 if boxes.source[i] == 0 else 0.9
        axes.add_collection(LineCollection(list(segments), colors="black", linewidths=width + 1.2, alpha=0.35))
        axes.add_collection(LineCollection(list(segments), colors=hue, linewidths=width, linestyles=style))
        # The heading is drawn from the middle of the bottom face to the middle of the front's bottom edge.
        heading = np.stack([shape[i, :4].mean(0), shape[i, :2].mean(0)])
        axes.add_collection(LineCollection(list(project_segments(lidar2img, heading)), colors=hue, linewidths=width))


def _draw_legend(figure: Figure, sample: Sample, predictions: Boxes3D | None, classes: ClassList) -> None:
    wide = len(sample.images) > 0
    parts = [sample.boxes.label, sample.clicks.label] + ([] if predictions is None else [predictions.label])
    present = set(np.concatenate(parts).tolist())
    handles = [
        Line2D(
            [],
            [],
            color=color_of(label),
            linewidth=4,
            label=name.replace("_", " "),
            alpha=1 if label in present else 0.35,
        )
        for label, name in enumerate(classes.names)
    ]
    handles.append(Line2D([], [], color=CLICK, marker="x", linestyle="none", label="click"))
    if predictions is not None:
        known = "truth" if (sample.boxes.source == SOURCE_HUMAN).all() else "label"
        handles.append(Line2D([], [], color=TEXT, label=f"solid: {known}"))
        handles.append(Line2D([], [], color=TEXT, linestyle=(0, (3, 2)), label="dashed: prediction"))
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles) if wide else 5, frameon=False, labelcolor=TEXT,
        fontsize=10 if wide else 8, handlelength=1.4, bbox_to_anchor=(0.5, -0.004),
    )  # fmt: skip
