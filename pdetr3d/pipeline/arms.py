"""The student arms of a run, and the check whether its labels allow them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pdetr3d.config import Config
from pdetr3d.schema import DataError
from pdetr3d.training.label_source import unknown_boxes
from pdetr3d.training.run_dir import Data

# The order in which lanes start the students. The teacher may need boxes_only, and self_training waits for it.
ARMS = ("full", "mean_teacher", "boxes_only", "self_training", "ours")


def possible_arms(data: Data, config: Config, warn: Callable[[str], object] = print) -> list[str]:
    """The students of ``run.arms``; without "full", if not all boxes of the train split are known.

    Args:
        warn: called with a message if "full" is left out.

    Raises:
        DataError: when "full" is the only student and not all boxes are known.
    """
    asked: list[str] = list(config.run.arms)
    if asked == ["full"]:
        check_arms(asked, data, config)
    unknown = unknown_boxes(data.index, data.manifest, config) if "full" in asked else 0
    if not unknown:
        return asked
    warn(f"arm full is left out: the boxes of {unknown} of {len(data.manifest.roles)} train samples are not known")
    return [arm for arm in asked if arm != "full"]


def check_arms(arms: Sequence[str], data: Data, config: Config) -> None:
    """Check that arm "full" can be trained.

    Raises:
        DataError: when ``arms`` has "full" and not all boxes of the train split are known.
    """
    if "full" in arms and (unknown := unknown_boxes(data.index, data.manifest, config)):
        raise DataError(
            f"the student on boxes everywhere (arm full) cannot be trained: the boxes of {unknown} of "
            f"{len(data.manifest.roles)} train samples are not known; leave it out, e.g. "
            'run.arms=["boxes_only","ours"]'
        )
