"""What a stage depends on, by flat config key: runs that agree in it may share the stage."""

from __future__ import annotations

from pdetr3d.config import Config

# Keys that neither the teacher nor its pseudo labels depend on, nor the student that it may start from.
NOT_IN_LABELS = ("scaling.", "storage.", "run.name", "run.arms")
OF_POINT_LABELS = ("label.click_share", "label.snap", "label.pseudo_for")  # unknown to who learns from boxes alone
STUDENT_KEYS = ("student.", "optim.")  # they count for a teacher that starts from a student, but for these:
NOT_IN_PRETRAINING = (
    "student.guidance",
    "student.mask_sigma",
    "student.pseudo_weight",
    "student.score_power",
    "student.box_share",
    "student.gt_sampling_pseudo_score",
    "student.self_training",
    "student.mean_teacher",
    "student.unclicked",
)


def labels_key(config: Config) -> dict[str, object]:
    """What teacher and pseudo labels of a dataset depend on, by flat key."""
    return _without_keys(config, STUDENT_KEYS if config.teacher.lidar_init == "none" else NOT_IN_PRETRAINING)


def teacher_key(config: Config) -> dict[str, object]:
    """What a teacher depends on, by flat key: of ``labels_key`` what box-labeled samples know."""
    return {key: value for key, value in labels_key(config).items() if key not in OF_POINT_LABELS}


def pretraining_key(config: Config) -> dict[str, object]:
    """What the student that a teacher's LiDAR weights start from (arm "boxes_only") depends on, by flat key."""
    return _without_keys(config, (*NOT_IN_PRETRAINING, "teacher.", *OF_POINT_LABELS))


def _without_keys(config: Config, skip: tuple[str, ...]) -> dict[str, object]:
    return {key: value for key, value in config.flat().items() if not key.startswith((*NOT_IN_LABELS, *skip))}
