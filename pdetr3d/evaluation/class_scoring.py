"""The devkit's detection score for any list of classes; the devkit's own types refuse classes other than its ten.

The types below take their classes from the config. Matching and averaging are the same (``matching``). Tests compare
the score of nuScenes' ten classes, given as a list of own classes, with the devkit's.
"""

from __future__ import annotations

import math
from typing import Any

from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBox, EvalBoxes
from nuscenes.eval.detection.constants import TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionConfig, DetectionMetrics

from pdetr3d.class_list import ClassList
from pdetr3d.evaluation.means import mean_of


class ClassConfig(DetectionConfig):
    """A ``DetectionConfig`` whose classes are the keys of ``class_range``, whatever they are."""

    def __init__(self, class_range: dict[str, float], *others: Any) -> None:
        devkit = config_factory("detection_cvpr_2019")
        super().__init__(devkit.class_range, *others)
        self.class_range, self.class_names = class_range, class_range.keys()


class ClassBox(DetectionBox):
    """A ``DetectionBox`` of any class and attribute."""

    def __init__(
        self,
        sample_token: str = "",
        translation: tuple[float, float, float] = (0, 0, 0),
        size: tuple[float, float, float] = (0, 0, 0),
        rotation: tuple[float, float, float, float] = (0, 0, 0, 0),
        velocity: tuple[float, float] = (0, 0),
        ego_translation: tuple[float, float, float] = (0, 0, 0),
        num_pts: int = -1,
        detection_name: str = "",
        detection_score: float = -1.0,
        attribute_name: str = "",
    ) -> None:
        EvalBox.__init__(self, sample_token, translation, size, rotation, velocity, ego_translation, num_pts)
        self.detection_name, self.detection_score = detection_name, detection_score
        self.attribute_name = attribute_name


class ClassMetrics(DetectionMetrics):
    """``DetectionMetrics`` that leaves out errors that are undefined for every class (e.g. without velocities).

    The devkit counts such errors as 1. Here NDS has fewer terms instead.
    """

    @property
    def tp_errors(self) -> dict[str, float]:
        """Each error's mean over the classes for which it is defined; NaN if there are none."""
        found = {}
        for metric in TP_METRICS:
            mean = mean_of([self.get_label_tp(name, metric) for name in self.cfg.class_names])
            found[metric] = math.nan if mean is None else mean
        return found

    @property
    def tp_scores(self) -> dict[str, float]:
        """1 - error, at least 0, of the defined errors; ``DetectionMetrics.nd_score`` averages these."""
        return {name: max(0.0, 1.0 - error) for name, error in self.tp_errors.items() if not math.isnan(error)}


def scoring_config(classes: ClassList) -> DetectionConfig:
    """The devkit's configuration ``detection_cvpr_2019`` with these classes and their ranges [m]."""
    devkit = config_factory("detection_cvpr_2019")
    if not classes.own:
        return devkit
    return ClassConfig.deserialize(devkit.serialize() | {"class_range": dict(classes.range_m)})


def ground_truth(nusc: NuScenes, sample_tokens: list[str], classes: ClassList) -> EvalBoxes:
    """Load the annotations of the classes, as the devkit's ``load_gt_of_sample_tokens`` does for its ten.

    Returns:
        Boxes in the global frame by sample token.
    """
    attribute = {row["token"]: row["name"] for row in nusc.attribute}
    found = EvalBoxes()
    for token in sample_tokens:
        boxes = []
        for annotation_token in nusc.get("sample", token)["anns"]:
            row = nusc.get("sample_annotation", annotation_token)
            name = classes.class_of(row["category_name"])
            if name is None:
                continue
            of_object = [attribute[each] for each in row["attribute_tokens"]]
            boxes.append(
                ClassBox(
                    sample_token=token,
                    translation=row["translation"],
                    size=row["size"],
                    rotation=row["rotation"],
                    velocity=nusc.box_velocity(annotation_token)[:2],
                    num_pts=row["num_lidar_pts"] + row["num_radar_pts"],
                    detection_name=name,
                    attribute_name=of_object[0] if of_object else "",
                )
            )
        found.add_boxes(token, boxes)
    return found
