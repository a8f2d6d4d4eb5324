"""The rule of early stopping: it depends on the kept checkpoints' scores alone, not on when each score is known."""

from __future__ import annotations

import math
from collections.abc import Sequence


def stop_after(scores: Sequence[float], patience: int) -> int | None:
    """The number of checkpoints after which training stops, or None while it goes on.

    This number is the smallest n for which none of the last ``patience`` of the first n scores exceeds the best score
    before them. Later scores do not matter: checkpoints that were trained while earlier ones were still being scored
    are discarded.

    Args:
        scores: of the kept checkpoints in training order; higher is better. patience: at least 1.
    """
    best, since = -math.inf, 0
    for count, score in enumerate(scores, start=1):
        best, since = (score, 0) if score > best else (best, since + 1)
        if since == patience:
            return count
    return None
