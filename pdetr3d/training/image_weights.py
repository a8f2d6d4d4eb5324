"""Reads pretrained ResNet weights (torchvision's or mmdetection's names) from a local file, weights-only."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from pdetr3d.schema import DataError
from pdetr3d.training.checkpoint import read_weights_only
from pdetr3d.words import some

WRAPPERS = ("state_dict", "model")  # keys under which training frameworks store the weights in a checkpoint
PREFIXES = ("img_backbone.", "backbone.")  # of a detector's image backbone; the detector's other parts are ignored
CLASSIFIER = ("fc.",)  # the last layer of a classification network, which a backbone does not need


def read_image_weights(file: Path, backbone: nn.Module) -> dict[str, Tensor]:
    """Read the weights of every layer of ``backbone`` from ``file``.

    ResNets of torchvision, mmdetection and mmcv name their layers alike; prefixes are stripped. Weights do not tell
    whether a network was trained on RGB or BGR images, or with its strides in the 3x3 or the 1x1 convolutions ("caffe"
    style). The user must choose a file trained on RGB with the strides in the 3x3 convolutions, as torchvision's.

    Returns:
        Name in ``backbone``'s state dict -> tensor; all names except the batch counts of BatchNorm.

    Raises:
        DataError: when the file is missing, when it is no weights-only checkpoint (a pickled object could run code), or
            when it lacks weights, has additional ones, or has other shapes.
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
        text = "; ".join(f"{len(keys)} {what}: {some(keys)}" for what, keys in problems if keys)
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
    """The image backbone's weights by their names without prefix; the classifier and batch counts are left out."""
    state = {k.removeprefix("module."): v for k, v in state.items()}
    for prefix in PREFIXES:
        inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if inside:
            state = inside
            break
    return {k: v for k, v in state.items() if not k.startswith(CLASSIFIER) and not k.endswith("num_batches_tracked")}
