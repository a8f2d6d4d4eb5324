"""Initializes a teacher with one that was trained on other data, e.g. a simulated world (``teacher.start_from``)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from pdetr3d.config import Config
from pdetr3d.schema import DataError
from pdetr3d.training import checkpoint
from pdetr3d.words import some

KEY = "teacher.start_from"
OWN = "prior_size_m"  # the classes' mean sizes always come from the data of the new training


def start_weights(config: Config) -> dict[str, Tensor] | None:
    """The weights of the teacher that ``teacher.start_from`` names, without its class sizes; None if the key is empty.

    Raises:
        DataError: when there is no such checkpoint, or it was trained on other classes.
    """
    if not config.teacher.start_from:
        return None
    file = Path(config.teacher.start_from)
    if not file.is_file():
        raise DataError(f"{KEY} {file}: no such file; name a teacher's checkpoint (RUN_DIR/teacher/step_*.pt)")
    state = checkpoint.load(file)
    theirs = checkpoint.config_of(state, file).classes.names
    if theirs != config.classes.names:
        raise DataError(
            f"{KEY} {file} was trained on the classes {', '.join(theirs)}, but data.classes has "
            f"{', '.join(config.classes.names)}: train it with this data.classes, or name another one"
        )
    return {name: value for name, value in checkpoint.best_weights(state).items() if not name.endswith(OWN)}


def initialize_start(model: nn.Module, weights: dict[str, Tensor], kind: str, config: Config) -> None:
    """Copy ``start_weights`` into a freshly built model.

    Args:
        kind: the model's stage, "teacher" or "crops". For "crops" only the crop branch is copied: a teacher does not
            keep the heads that the branch was trained with.

    Raises:
        DataError: when the weights do not fit the model; names the weights.
    """
    part = "crops." if kind == "crops" and config.teacher.model != "crop" else ""
    own = {k: v for k, v in model.state_dict().items() if k.startswith(part) and not k.endswith(OWN)}
    wrong = sorted(name for name in own if name not in weights or weights[name].shape != own[name].shape)
    if wrong:
        raise DataError(
            f"{KEY} {config.teacher.start_from}: {len(wrong)} of the {len(own)} weights of this run's {kind} are "
            f"missing in it or have another shape: {some(wrong)}; "
            "it must have been trained with the same model.* and teacher.* keys"
        )
    model.load_state_dict({**model.state_dict(), **{name: weights[name] for name in own}})
