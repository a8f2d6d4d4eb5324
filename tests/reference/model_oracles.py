"""Slow oracles of model parts, in plain loops."""

from __future__ import annotations

import math

import numpy as np


def bilinear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """The map (C, H, W) at continuous (x, y) [px] with corners at integers; zero outside."""
    channels, height, width = image.shape
    x, y = x - 0.5, y - 0.5
    total = np.zeros(channels)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += image[:, row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def deformable(values: list[np.ndarray], location: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``models.deformable.deformable_sample`` in loops."""
    b, q, m, levels, s, _ = location.shape
    channels = values[0].shape[1]
    result = np.zeros((b, q, channels))
    width = channels // m
    for i in range(b):
        for j in range(q):
            for h in range(m):
                part = slice(h * width, (h + 1) * width)
                for level in range(levels):
                    value = values[level][i, part]
                    for k in range(s):
                        x, y = location[i, j, h, level, k]
                        sample = bilinear(value, x * value.shape[2], y * value.shape[1])
                        result[i, j, part] += weight[i, j, h, level, k] * sample
    return result


def pillar_of(point: np.ndarray, low: tuple[float, float], pillar_m: float) -> tuple[int, int]:
    """The (row, column) of a point's pillar."""
    return math.floor((point[1] - low[1]) / pillar_m), math.floor((point[0] - low[0]) / pillar_m)


def heatmap(centers: list[tuple[int, int]], radii: list[int], rows: int, columns: int) -> np.ndarray:
    """CornerNet's Gaussians (sigma = diameter / 6), cut at the radius; the maximum where they overlap."""
    result = np.zeros((rows, columns))
    for (row, column), radius in zip(centers, radii, strict=True):
        sigma = (2 * radius + 1) / 6
        for i in range(max(0, row - radius), min(rows, row + radius + 1)):
            for j in range(max(0, column - radius), min(columns, column + radius + 1)):
                value = math.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * sigma**2))
                result[i, j] = max(result[i, j], value)
    return result


def overlap_after_shift(length: float, width: float, shift: float) -> float:
    """The smallest IoU of a box with one whose corners are moved by ``shift``: grown, shrunk or displaced."""
    area = length * width
    grown = area / ((length + 2 * shift) * (width + 2 * shift))
    shrunk = max(0.0, length - 2 * shift) * max(0.0, width - 2 * shift) / area
    common = max(0.0, length - shift) * max(0.0, width - shift)
    return min(grown, shrunk, common / (2 * area - common))


def greedy_nms(overlap: np.ndarray, score: np.ndarray, iou: float) -> list[int]:
    """The kept indices, by falling score."""
    kept: list[int] = []
    for i in sorted(range(len(score)), key=lambda i: -score[i]):
        if all(overlap[i, j] <= iou for j in kept):
            kept.append(i)
    return kept
