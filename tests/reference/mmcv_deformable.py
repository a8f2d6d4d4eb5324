"""mmcv's PyTorch multi-scale deformable attention, taken from the installed package's source.

``mmcv.ops`` cannot be imported without its compiled part, but this one function needs only torch.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

NAME = "multi_scale_deformable_attn_pytorch"


def mmcv_deformable() -> Callable[..., torch.Tensor]:
    """(value (B, sum of H W, M, C / M), shapes [(H, W)], location, weight) -> (B, Q, C); the last two are as ours."""
    spec = importlib.util.find_spec("mmcv")
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parent / "ops" / "multi_scale_deform_attn.py"
    tree = ast.parse(file.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == NAME]
    names = {"torch": torch, "F": F}
    exec(compile(tree, str(file), "exec"), names)  # noqa: S102 - the installed package's own code
    return names[NAME]  # type: ignore[return-value]


def flatten_maps(values: list[torch.Tensor], heads: int) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Convert L maps (B, C, H, W) to mmcv's ``value`` and ``value_spatial_shapes``."""
    rows = [v.flatten(2).unflatten(1, (heads, -1)).permute(0, 3, 1, 2) for v in values]
    return torch.cat(rows, 1), [(v.shape[2], v.shape[3]) for v in values]
