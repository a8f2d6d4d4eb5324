"""The student studies: which arms and settings each compares; imports no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pdetr3d.config import Config
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from ray_jobs.studies import seeded


@dataclass(frozen=True)
class Variant:
    """An arm of the pipeline (``ray_jobs.stages.ARMS``) under overrides of the preset."""

    arm: str
    overrides: tuple[str, ...] = ()


# Point-DETR lifted to 3D (LiDAR alone, learned reference points), its student without guidance by the clicks.
POINT_DETR = (
    "teacher.query_init=implicit",
    "teacher.matching=direct",
    "teacher.point_crop=false",
    "teacher.fusion=none",
    "student.guidance=none",
)

# Study -> variant name -> variant.
STUDENT_STUDIES: dict[str, dict[str, Variant]] = {
    "guidance": {
        guidance: Variant("ours", (f"student.guidance={guidance}",))
        for guidance in ("none", "full", "partial", "gaussian", "box", "segmentation")
    },
    "headline": {
        "boxes only": Variant("boxes_only"),
        "self-training": Variant("self_training"),
        "mean teacher": Variant("mean_teacher"),
        "Point-DETR teacher": Variant("ours", POINT_DETR),
        "ours": Variant("ours"),
        "boxes everywhere": Variant("full"),
    },
}


def student_study(name: str, only: Sequence[str] | None = None) -> dict[str, Variant]:
    """The variants of a study, or ``only`` these.

    Raises:
        DataError: when there is none of this name.
    """
    if name not in STUDENT_STUDIES:
        raise DataError(f"unknown study {name!r}: allowed {', '.join(STUDENT_STUDIES)}")
    variants = STUDENT_STUDIES[name]
    for wrong in set(only or ()) - set(variants):
        raise DataError(f"--variant {wrong!r} is not of study {name}: allowed {', '.join(map(repr, variants))}")
    return {key: variant for key, variant in variants.items() if not only or key in only}


def variant_config(preset: str, overrides: list[str], variant: Variant, seed: int) -> Config:
    """Config of one run: preset, the user's overrides, the variant's, the seed (also the labels')."""
    return load(preset, [*overrides, *variant.overrides, *seeded(folder_name(preset, variant), seed)])


def folder_name(preset: str, variant: Variant) -> str:
    """Of the runs of a variant: variants that change nothing of the preset share ``base``, whatever their arms."""
    base = load(preset)
    changes = [word for word in variant.overrides if load(preset, [word]) != base]
    return "_".join(changes) or "base"
