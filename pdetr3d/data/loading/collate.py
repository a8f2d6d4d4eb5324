"""Collates samples into the padded NumPy arrays of one ``Batch``; Ray Data carries such arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pdetr3d.schema import BOXES_KNOWN, Sample


def _pad(rows: Sequence[NDArray], width: int, fill: float = 0) -> NDArray:
    """Stack B arrays (n_i, ...) into (B, width, ...), padded with ``fill``."""
    out = np.full((len(rows), width, *rows[0].shape[1:]), fill, rows[0].dtype)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out


def collate(samples: Sequence[Sample], weak: Sequence[Sample] = ()) -> dict[str, NDArray]:
    """The arrays of ``Batch`` (which documents their shapes) for B >= 1 samples.

    Args:
        samples: the augmented samples. weak: the same samples before augmentation; empty where they are not needed.
    """
    counts = [len(s.boxes) for s in samples]
    click_counts = [len(s.clicks) for s in samples]
    n, k = max(counts), max(click_counts)
    canonical = [(s.clicks.xyz_m - s.augmentation[:3, 3]) @ np.linalg.inv(s.augmentation[:3, :3]).T for s in samples]
    return {
        "token": np.array([s.record.sample_token for s in samples], dtype=np.bytes_),
        "points": np.concatenate([s.points for s in samples]),
        "point_sample": np.repeat(np.arange(len(samples)), [len(s.points) for s in samples]),
        "weak_points": np.concatenate([s.points for s in weak]) if weak else np.zeros((0, 5), np.float32),
        "weak_point_sample": np.repeat(np.arange(len(weak)), [len(s.points) for s in weak]).astype(np.int64),
        "box_labeled": np.array([s.record.role in BOXES_KNOWN for s in samples], bool),
        "augmentation": np.stack([s.augmentation for s in samples]).astype(np.float32),
        "images": np.stack([s.images for s in samples]),
        "lidar2img": np.stack([s.lidar2img for s in samples]).astype(np.float32),
        "camera_valid": np.stack([s.camera_valid for s in samples]),
        "box": _pad([s.boxes.rows for s in samples], n).astype(np.float32),
        "velocity": _pad([s.boxes.velocity_m_s for s in samples], n, np.nan),
        "box_label": _pad([s.boxes.label for s in samples], n),
        "box_score": _pad([s.boxes.score for s in samples], n),
        "box_direction": _pad([s.boxes.direction for s in samples], n),
        "box_source": _pad([s.boxes.source.astype(np.int64) for s in samples], n),
        "box_valid": np.arange(n) < np.array(counts)[:, None],
        "click": _pad([s.clicks.xyz_m for s in samples], k).astype(np.float32),
        "canonical_click": _pad(canonical, k).astype(np.float32),
        "click_label": _pad([s.clicks.label for s in samples], k),
        "click_box": _pad([s.clicks.box_index for s in samples], k, -1),
        "click_valid": np.arange(k) < np.array(click_counts)[:, None],
    }
