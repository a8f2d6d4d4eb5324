"""Trains LiDAR 3D object detectors from point clicks.

The names of the Python API (``pdetr3d/api.py``) are also here. They are loaded at first use, so that importing one part
of the package loads no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdetr3d.api import Picture as Picture
    from pdetr3d.api import decode_maps as decode_maps
    from pdetr3d.api import draw as draw
    from pdetr3d.api import load_config as load_config
    from pdetr3d.api import load_sample as load_sample
    from pdetr3d.api import load_student as load_student
    from pdetr3d.api import load_teacher as load_teacher
    from pdetr3d.api import open_index as open_index
    from pdetr3d.api import run_pipeline as run_pipeline

API = (
    *("Picture", "decode_maps", "draw", "load_config", "load_sample", "load_student", "load_teacher", "open_index"),
    "run_pipeline",
)


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module 'pdetr3d' has no attribute {name!r}; the Python API: {', '.join(API)}")
    from importlib import import_module

    return getattr(import_module("pdetr3d.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *API])
