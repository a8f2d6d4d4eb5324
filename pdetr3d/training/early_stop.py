"""When training stops early: a function of the kept checkpoints' scores alone, not of when they are known."""

from __future__ import annotations

import math
from collections.abc import Sequence


def stop_after(scores: Sequence[float], patience: int) -> int | None:
    """The number of checkpoints after which training stops, or None while it goes on.

    It is the first n so that none of the ``patience`` scores up to the n-th exceeds the best one before them. Later
    scores do not matter: whoever trains on while checkpoints are being scored throws the surplus away.
    """
    best, since = -math.inf, 0
    for count, score in enumerate(scores, start=1):
        best, since = (score, 0) if score > best else (best, since + 1)
        if since == patience:
            return count
    return None
