"""Makes perfect predictions for tests of scores."""

from __future__ import annotations

from nuscenes import NuScenes

from pdetr3d.class_list import ClassList
from pdetr3d.evaluation.nuscenes_eval import split_samples
from pdetr3d.evaluation.results_format import Poses, ground_truth_boxes, read_poses
from pdetr3d.schema import Boxes3D


def ground_truth_predictions(
    nusc: NuScenes, split: str, classes: ClassList
) -> tuple[dict[str, Boxes3D], dict[str, Poses]]:
    """The scored objects as perfect predictions, and their samples' poses: arguments of ``score``.

    Returns:
        Sample token -> boxes in its LIDAR_TOP frame, and sample token -> (lidar2ego, ego2global).
    """
    tokens = split_samples(nusc, split)
    poses = read_poses(nusc, tokens)
    return {token: ground_truth_boxes(nusc, token, poses[token], classes) for token in tokens}, poses
