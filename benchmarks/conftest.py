"""The benchmarks use the tests' simulated world and their rules for machines without a GPU."""

from __future__ import annotations

from tests.conftest import _torch_threads, pytest_collection_modifyitems, sim_world

__all__ = ["_torch_threads", "pytest_collection_modifyitems", "sim_world"]
