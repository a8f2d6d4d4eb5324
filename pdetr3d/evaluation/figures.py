"""Names of the figures that tables show: scores of students on a split, qualities of boxes at clicks."""

from __future__ import annotations

SCORES = ("mAP", "NDS", "SPNDS", "mATE", "mASE", "mAOE")  # of ``nuscenes_eval.score``
QUALITY_NAMES = {  # of ``pseudo_label_quality``: key -> heading of a table
    "bev_iou": "BEV IoU",
    "iou_3d": "3D IoU",
    "center_error_m": "center [m]",
    "size_error": "size",
    "yaw_error_rad": "yaw [rad]",
    "axis_error_rad": "axis [rad]",
    "reversed": "turned",
}
QUALITIES = tuple(QUALITY_NAMES)
QUALITY = QUALITIES[:5]  # without the two kinds of wrong headings
# Figures in the tables of searches, which have a row for each variant.
OF_TEACHERS = ("bev_iou", "yaw_error_rad", "size_error", "center_error_m")
OF_STUDENTS = ("mAP", "NDS", "SPNDS")
# Arms of students, and the sources of boxes at clicks, as people read them.
ARM_NAMES = {
    "boxes_only": "(a) boxes alone",
    "ours": "(b) ours: boxes, clicks",
    "full": "(c) boxes everywhere",
    "self_training": "(d) self-training",
    "mean_teacher": "(e) mean teacher",
}
FLOOR_NAMES = {
    "class_mean": "class-mean box at the click",
    "class_mean_pca": "the same along nearby LiDAR points (PCA)",
}


def in_searches(stage: str) -> tuple[str, ...]:
    """The final figures of a stage ("teacher", "student_ARM") that the tables of searches show."""
    return OF_TEACHERS if stage == "teacher" else OF_STUDENTS
