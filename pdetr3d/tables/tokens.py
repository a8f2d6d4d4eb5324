"""Makes the tokens of table rows that this project writes; the same input gives the same tokens."""

from __future__ import annotations

import hashlib


def token(*parts: object) -> str:
    """A token of 32 hexadecimal digits that depends only on the texts of ``parts`` (seed, scene, kind, ...)."""
    return hashlib.md5("/".join(str(part) for part in parts).encode(), usedforsecurity=False).hexdigest()
