"""Makes the table of pseudo labels from a teacher's boxes: one row per click, joined by click_id (design section 6)."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pdetr3d.class_list import ClassList
from pdetr3d.geometry.boxes import in_range, rotate_z
from pdetr3d.geometry.crops import axes_from_points
from pdetr3d.geometry.rigid import apply, chain
from pdetr3d.schema import BOX_COLUMNS, SOURCE_PSEUDO, Boxes3D, PointLabels, SampleRecord

RANGE_M = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)  # method.md 1.5
CLICK_TOLERANCE_M = 0.1  # a box contains its click if the box grown by this much on every side does
SNAP_MAX_M = 0.5  # longest move of a box onto its click
MAX_GAP_S = 1.5  # longest time between neighboring boxes of a track, as in the devkit's ``NuScenes.box_velocity``
SIZE_RATIO_MAX = 3.0  # a side may differ from the class's mean by this factor
SNAPPED = "snapped"  # the reason of a row that is accepted after a move
FLOORS = ("class_mean", "class_mean_pca")  # boxes without training, which reports measure beside the teacher's

# Column order and dtypes of pseudo_labels.parquet. Float32 is pandas' nullable type, so that Parquet has null, not NaN.
COLUMNS = {
    "click_id": "string",
    "sample_token": "string",
    **dict.fromkeys(BOX_COLUMNS, "float32"),
    **dict.fromkeys(("vx", "vy"), "Float32"),
    "class": "string",
    "score": "float32",
    "direction": "float32",
    "accepted": "bool",
    "reason": "string",
    "teacher_digest": "string",
}


def class_mean_boxes(
    clicks: PointLabels, prior_size_m: NDArray[np.floating], yaw_rad: NDArray[np.floating] | None = None
) -> Boxes3D:
    """The floor that a teacher must beat: the class-mean box at each click, which heads forward (+y) by default.

    Args:
        clicks: K clicks, LIDAR_TOP frame.
        prior_size_m: (C, 3) mean (l, w, h) [m] per class.
        yaw_rad: (K,) headings [rad]; default pi / 2, the heading of most traffic around the ego vehicle.

    Returns:
        K pseudo labels in the order of the clicks, score 1.
    """
    yaw = np.full(len(clicks), np.pi / 2) if yaw_rad is None else yaw_rad
    return Boxes3D.build(clicks.xyz_m, np.asarray(prior_size_m)[clicks.label], yaw, clicks.label, source=SOURCE_PSEUDO)


def class_mean_pca_boxes(clicks: PointLabels, prior_size_m: NDArray[np.floating], points_m: NDArray) -> Boxes3D:
    """A stronger floor: ``class_mean_boxes`` that head along the LiDAR points around each click.

    The axis is that of ``geometry.crops.axes_from_points``; of its two directions, the forward one (+y) is taken. A
    click without an axis gets a box that heads forward.

    Args:
        clicks, prior_size_m: as ``class_mean_boxes``. points_m: (P, 3+) LiDAR points of the sample, LIDAR_TOP frame.
    """
    sizes = np.asarray(prior_size_m, np.float32)[clicks.label]
    arrays = (np.asarray(a, np.float32) for a in (points_m, clicks.xyz_m, sizes))
    cos, sin = axes_from_points(*map(torch.from_numpy, arrays)).numpy().T
    yaw = np.where((cos == 0) & (sin == 0), np.pi / 2, np.arctan2(sin, cos) / 2 % np.pi)
    return class_mean_boxes(clicks, prior_size_m, yaw)


def contains_click(
    boxes: Boxes3D, xyz_m: NDArray[np.floating], tolerance_m: float = CLICK_TOLERANCE_M
) -> NDArray[np.bool_]:
    """Whether box i, grown by ``tolerance_m`` on every side, contains point i of (N, 3) [m]: (N,) bool."""
    offset = np.asarray(xyz_m, dtype=np.float64).reshape(-1, 3) - boxes.center_m
    local = rotate_z(offset, -boxes.yaw_rad.astype(np.float64))
    return (np.abs(local) <= boxes.size_m / 2 + tolerance_m).all(axis=1)


def snap_to_clicks(boxes: Boxes3D, xyz_m: NDArray[np.floating]) -> tuple[Boxes3D, NDArray[np.bool_]]:
    """Move each box that misses its click by at most SNAP_MAX_M onto it.

    The move is the shortest after which the click lies on the box's surface. Boxes that contain their click within the
    tolerance stay.

    Args:
        boxes: N boxes. xyz_m: (N, 3) their clicks [m], in the same frame.

    Returns:
        The boxes, and (N,) bool: which of them were moved.
    """
    offset = np.asarray(xyz_m, dtype=np.float64).reshape(-1, 3) - boxes.center_m
    local = rotate_z(offset, -boxes.yaw_rad.astype(np.float64))
    move = np.sign(local) * np.maximum(np.abs(local) - boxes.size_m / 2, 0)
    moved = ~contains_click(boxes, xyz_m) & (np.linalg.norm(move, axis=1) <= SNAP_MAX_M)
    center = boxes.center_m + rotate_z(move, boxes.yaw_rad.astype(np.float64))
    center = np.where(moved[:, None], center, boxes.center_m).astype(np.float32)
    return dataclasses.replace(boxes, center_m=center), moved


def to_pseudo_labels(
    record: SampleRecord,
    boxes: Boxes3D,
    prior_size_m: NDArray[np.floating],
    teacher_digest: str,
    range_m: tuple[float, float, float, float, float, float] = RANGE_M,
    *,
    snap: bool = False,
    classes: ClassList,
) -> pd.DataFrame:
    """One row per click of a sample, in the order of its clicks; columns and dtypes are ``COLUMNS``.

    Args:
        record: the sample; its clicks are used.
        boxes: one box per click, in the order of the clicks, LIDAR_TOP frame; the boxes' labels are ignored.
        prior_size_m, teacher_digest, range_m, snap, classes: as ``pseudo_label_rows``.

    Raises:
        ValueError: when there is not exactly one box per click.
    """
    return pseudo_label_rows([record], [boxes], prior_size_m, teacher_digest, range_m, snap=snap, classes=classes)


def pseudo_label_rows(
    records: Sequence[SampleRecord],
    boxes: Sequence[Boxes3D],
    prior_size_m: NDArray[np.floating],
    teacher_digest: str,
    range_m: tuple[float, float, float, float, float, float] = RANGE_M,
    *,
    snap: bool = False,
    classes: ClassList,
) -> pd.DataFrame:
    """``to_pseudo_labels`` for several samples, whose rows follow each other.

    The class is the click's. The velocity is null, since the teacher's is not trained; ``with_track_velocity`` adds
    velocities from tracks. A row is kept but not ``accepted`` in these cases; ``reason`` is the first that applies:
    "outside range": the box's center is outside ``range_m``. "outside regions": it is outside the sample's valid region
    or in a region to ignore. "implausible size": a side is below 1/3 or above 3 times the class prior's. "click outside
    box": the box grown by 0.1 m does not contain its click. With ``snap`` a box that misses its click by at most 0.5 m
    is first moved onto it (``snap_to_clicks``): the row holds the moved box, with reason "snapped" if it is accepted.
    Other accepted rows have reason "".

    Args:
        records, boxes: of the same samples; see ``to_pseudo_labels``.
        prior_size_m: (C, 3) mean (l, w, h) [m] per class.
        teacher_digest: identifies the teacher: the digest of the run that trained it.
        range_m: (x0, y0, z0, x1, y1, z1) [m], with both ends.
        snap: ``label.snap``. classes: the classes of the labels.

    Raises:
        ValueError: when a sample does not have exactly one box per click.
    """
    for record, mine in zip(records, boxes, strict=True):
        if len(mine) != len(record.clicks):
            raise ValueError(
                f"sample {record.sample_token}: {len(mine)} boxes for {len(record.clicks)} clicks; must be one each"
            )
    clicks, made = PointLabels.concatenate([record.clicks for record in records]), Boxes3D.concatenate(list(boxes))
    moved = np.zeros(len(made), bool)
    if snap:
        made, moved = snap_to_clicks(made, clicks.xyz_m)
    ratio = made.size_m / np.asarray(prior_size_m, dtype=np.float64)[clicks.label]
    inside_range = in_range(made.center_m, range_m)
    plausible = ((ratio >= 1 / SIZE_RATIO_MAX) & (ratio <= SIZE_RATIO_MAX)).all(axis=1)
    owner, held = np.repeat(np.arange(len(records)), [len(mine) for mine in boxes]), np.ones(len(made), bool)
    for number, record in enumerate(records):
        if record.regions is not None:
            held[owner == number] = record.regions.known_at(made.center_m[owner == number])
    reason = np.select(
        [~inside_range, ~held, ~plausible, ~contains_click(made, clicks.xyz_m), moved],
        ["outside range", "outside regions", "implausible size", "click outside box", SNAPPED],
        default="",
    )
    geometry = np.column_stack([made.center_m, made.size_m, made.yaw_rad])
    frame = pd.DataFrame(
        {
            "click_id": clicks.click_id,
            "sample_token": np.repeat([r.sample_token for r in records], [len(r.clicks) for r in records]),
            **dict(zip(BOX_COLUMNS, geometry.T, strict=True)),
            "vx": pd.NA,
            "vy": pd.NA,
            "class": np.array(classes.names, dtype=object)[clicks.label],
            "score": made.score,
            "direction": made.direction,
            "accepted": np.isin(reason, ("", SNAPPED)),
            "reason": reason,
            "teacher_digest": teacher_digest,
        },
        index=range(len(clicks)),
    )
    return frame.astype(COLUMNS)


def with_track_velocity(
    table: pd.DataFrame, track_of: Mapping[str, str], records: Iterable[SampleRecord]
) -> pd.DataFrame:
    """Add velocities (vx, vy) to accepted boxes whose click has a track_id; other velocities stay null.

    As in the devkit's ``NuScenes.box_velocity``, the velocity is the distance between the centers of the track's
    previous and next accepted boxes in the scene, divided by the time between them; at an end of a track, the box
    itself and its one neighbor are used. The velocity is null if that time exceeds 1.5 s per neighbor, or without a
    neighbor. It is computed in the global frame, so that the ego vehicle's motion does not count, and written in the
    axes of the box's LIDAR_TOP frame.

    Args:
        table: rows of ``to_pseudo_labels`` of any number of samples, with an index 0, 1, 2 ...
        track_of: click_id -> track_id. Equal track_ids in different scenes are different objects.
        records: the samples of the table.
    """
    record_of = {record.sample_token: record for record in records}
    tracks: dict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)  # -> (time [us], row)
    columns = (table[name] for name in ("click_id", "sample_token", "class", "accepted"))
    for row, (click, token, name, accepted) in enumerate(zip(*columns, strict=True)):
        if accepted and click in track_of:
            record = record_of[token]
            tracks[record.scene_token, name, track_of[click]].append((record.timestamp_us, row))
    result = table.copy()
    for track in tracks.values():
        rows = [row for _, row in sorted(track)]
        for row, velocity in zip(rows, _track_velocity(table.iloc[rows], record_of), strict=True):
            if np.isfinite(velocity).all():
                result.loc[row, ["vx", "vy"]] = velocity.astype(np.float32)
    return result.astype(COLUMNS)


def _track_velocity(rows: pd.DataFrame, record_of: Mapping[str, SampleRecord]) -> NDArray[np.float64]:
    """(N, 2) velocities [m/s] of the N boxes of a track in order of time, each in its LIDAR_TOP axes; NaN = unknown."""
    records = [record_of[token] for token in rows["sample_token"]]
    lidar2global = [chain(record.lidar2ego, record.ego2global) for record in records]
    centers = [apply(pose, center) for pose, center in zip(lidar2global, rows[["x", "y", "z"]].to_numpy(), strict=True)]
    velocity = np.full((len(rows), 2), np.nan)
    for i, pose in enumerate(lidar2global):
        first, last = max(i - 1, 0), min(i + 1, len(rows) - 1)
        gap_s = 1e-6 * (records[last].timestamp_us - records[first].timestamp_us)
        if 0 < gap_s <= MAX_GAP_S * (last - first):
            velocity[i] = (pose[:3, :3].T @ (centers[last] - centers[first]) / gap_s)[:2]
    return velocity
