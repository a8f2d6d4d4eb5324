"""Pretrained ResNet weights from a local file, weights-only: torchvision's and mmdetection's names."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from pdetr3d.schema import DataError
from pdetr3d.training.checkpoint import read_weights_only

WRAPPERS = ("state_dict", "model")  # where training frameworks keep the weights of a checkpoint
PREFIXES = ("img_backbone.", "backbone.")  # of a detector's image backbone; other parts of it are left out
CLASSIFIER = ("fc.",)  # of a classification network
LISTED = 5


def read_image_weights(file: Path, backbone: nn.Module) -> dict[str, Tensor]:
    """The tensors of ``file`` by the names of ``backbone``'s state dict; all of them or an error.

    torchvision's ResNet, mmdetection's and mmcv's name their layers alike; prefixes are stripped. Whether a network was
    trained on RGB or BGR, with its strides in the 3x3 or in the 1x1 ("caffe"), cannot be seen from its weights: ours is
    RGB with torchvision's strides.

    Raises:
        DataError: when the file is missing, is no weights-only checkpoint (a pickled object would run code: refused),
            or lacks a weight, has others, or other shapes.
    """
    found = _strip(_read(Path(file)))
    expected = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    shapes = [
        f"{k} {tuple(found[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in sorted(expected.keys() & found.keys())
        if found[k].shape != expected[k].shape
    ]
    if missing or unexpected or shapes:
        problems = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        text = "; ".join(
            f"{len(keys)} {what}: {', '.join(keys[:LISTED])}{' ...' if len(keys) > LISTED else ''}"
            for what, keys in problems
            if keys
        )
        raise DataError(
            f"teacher.image_weights {file}: {len(expected) - len(missing)} of {len(expected)} weights match; {text}; "
            "the file must hold the weights of teacher.image_backbone (ResNet without deformable convolutions)"
        )
    return {name: found[name] for name in expected}


def _read(file: Path) -> dict[str, Tensor]:
    state = read_weights_only(file, "teacher.image_weights", "name a file, or leave it empty")
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DataError(f"teacher.image_weights {file} must hold a state dict (name -> tensor)")
    return state


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without prefix, of the image backbone alone, without classifier and batch counts."""
    state = {k.removeprefix("module."): v for k, v in state.items()}
    for prefix in PREFIXES:
        inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if inside:
            state = inside
            break
    return {k: v for k, v in state.items() if not k.startswith(CLASSIFIER) and not k.endswith("num_batches_tracked")}
