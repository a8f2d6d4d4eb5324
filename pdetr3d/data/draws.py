"""Random draws that are a function of their key: (seed, epoch, sample token, purpose)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def keyed_rng(seed: int, epoch: int, token: str, purpose: str) -> np.random.Generator:
    """The generator of one random draw: a function of its key only, never of worker or call order."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{token}/{purpose}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def keyed_uniform(seed: int, epoch: int, tokens: Iterable[str], purpose: str, count: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), (len(tokens), count) float64 with ``count`` <= 8. A row depends on its key only.

    The numbers are the bits of the keys' digests: for many tokens this is much faster than one generator per token.
    """
    keys = [f"{seed}/{epoch}/{token}/{purpose}".encode() for token in tokens]
    bits = [hashlib.blake2b(key, digest_size=8 * count).digest() for key in keys]
    return (np.frombuffer(b"".join(bits), "<u8").reshape(-1, count) >> 11) * 2.0**-53
