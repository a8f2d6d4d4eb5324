"""Defines the error for wrong input. This module imports nothing, so that ``pdetr3d --help`` is quick."""

from __future__ import annotations


class DataError(ValueError):
    """The user's data or configuration is wrong; the message names file or key, value, what is allowed, the fix."""
