"""GridMask: hides a regular grid of squares in the images, so that the teacher does not depend on single details."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

KEPT_SHARE = 0.5  # the kept share of each period, along rows and along columns (method.md 2.4: ratio)
FILL = (124, 116, 104)  # the mean color of the image normalization, rounded: about zero after normalization


def grid_mask(images: NDArray[np.uint8], probability: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Hide the same squares in all views, with ``probability`` (mode 1, no rotation: method.md 2.4).

    The period d [px] is drawn from 2 .. H - 1, and the grid's origin within one period. A pixel is hidden when it lies
    outside the kept stripes of rows and outside those of columns. So squares of side d / 2 are hidden, a quarter of
    the image.

    Args:
        images: (V, H, W, 3) uint8. rng: the generator of this sample and pass.

    Returns:
        The images themselves, or a masked copy.
    """
    height, width = images.shape[1:3]
    if not len(images) or height < 3 or rng.random() >= probability:
        return images
    import cv2

    period = int(rng.integers(2, height))
    kept = min(max(round(period * KEPT_SHARE), 1), period - 1)
    first_row, first_column = rng.integers(0, period, 2)
    row = (np.arange(height) - first_row) % period >= kept
    column = (np.arange(width) - first_column) % period >= kept
    masked, hidden = images.copy(), (row[:, None] & column).view(np.uint8)
    for image in masked:
        cv2.copyTo(_fill(height, width), hidden, image)
    return masked


@functools.lru_cache(maxsize=1)
def _fill(height: int, width: int) -> NDArray[np.uint8]:
    return np.tile(np.array(FILL, np.uint8), (height, width, 1))
