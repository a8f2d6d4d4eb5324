"""The teacher studies: which variants each compares; imports no Ray.

A variant is a name and a list of overrides. A name that several studies use has the same overrides in all of them: its
teachers are then trained once per run directory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from pdetr3d.config import Config
from pdetr3d.presets import load
from pdetr3d.schema import DataError

# No student is trained, and curves need checkpoints from early on; the user's overrides may change these two counts.
COMMON = ("teacher.optim.checkpoints=12", "teacher.optim.checkpoints_from=0.02")
ALWAYS = ("teacher.lidar_init=none",)


@dataclass(frozen=True)
class Study:
    """Variants: name -> overrides. ``reference``: the variant whose final quality others are timed against.
    ``troubles``: name -> (key, values) of prediction only, under which each variant's last checkpoint is evaluated.
    ``settings``: overrides of every variant; the user's come after them."""

    reference: str
    variants: dict[str, tuple[str, ...]]
    troubles: dict[str, tuple[str, tuple[float, ...]]] = field(default_factory=dict)
    settings: tuple[str, ...] = ()

    def pretrained(self, folder: Path) -> Study:
        """Every variant twice: as it is, and beginning with the teacher of that name in the run directory of another
        study, on another world (of its lowest seed).

        Raises:
            DataError: when there is no such teacher.
        """
        started = {
            f"{name}-pretrained": (*changes, f"teacher.start_from={_first_teacher(folder / name)}")
            for name, changes in self.variants.items()
        }
        return replace(self, variants=self.variants | started)


def _first_teacher(folder: Path) -> Path:
    from pdetr3d.inference.teacher import teacher_file  # torch

    seeds = sorted(folder.glob("seed*"), key=lambda path: (len(path.name), path.name))
    return teacher_file(seeds[0] if seeds else folder / "seed0").resolve()


def _queries(init: str, matching: str) -> tuple[str, ...]:
    """As in the paper: what a query knows of its click is where it is, and its class; nothing of the points there."""
    alone = ("teacher.point_crop=false", "teacher.heading_start=forward")
    return (f"teacher.query_init={init}", f"teacher.matching={matching}", *alone)


_OURS = ("teacher.query_init=explicit", "teacher.matching=direct", "teacher.point_crop=true")
# Each with the value that changes nothing, so that a curve begins where nothing is wrong.
_TROUBLES: dict[str, tuple[str, tuple[float, ...]]] = {
    "click error [x drawn]": ("corruption.click_noise_factor", (0, 1, 2, 4)),
    "cameras missing": ("corruption.missing_cameras", (0, 1, 2, 3, 4, 5, 6)),
    "extrinsics off by [deg]": ("corruption.extrinsics_deg", (0, 0.5, 1, 2, 5)),
    "blur [px]": ("corruption.blur_px", (0, 1, 2, 4)),
}

STUDIES = {
    "initialization": Study(
        "explicit-direct",
        {
            f"{init}-{matching}": _queries(init, matching)
            for init, matching in (
                ("explicit", "direct"),
                ("explicit", "hungarian"),
                ("implicit", "direct"),
                ("implicit", "hungarian"),
                ("learned", "hungarian"),
                ("group", "direct"),
            )
        }
        # Boxes of its only layer are relative to the click, those of a later one to where the query looked, which is
        # learned (method.md 8). Shows what is lost by looking elsewhere, and what by answering from there.
        | {"implicit-direct-one-layer": (*_queries("implicit", "direct"), "teacher.decoder_layers=1")}
        | {"explicit-direct-crop": _OURS},
    ),
    "fusion": Study("d_roi", {f: (*_OURS, f"teacher.fusion={f}") for f in ("none", "concat", "d_roi")}),
    "robustness": Study("d_roi", {"d_roi": (*_OURS, "teacher.fusion=d_roi")}, _TROUBLES),
    "baselines": Study(
        "explicit-direct-crop",
        {
            "crop": ("teacher.model=crop",),
            "point-detr-in-3d": (*_queries("implicit", "direct"), "teacher.fusion=none"),
            "explicit-direct-crop": _OURS,
        },
    ),
    # Boxes of some drives, clicks of the others; a seed is a fold (``label.folds``).
    "kitti_clicks": Study(
        "d_roi",
        {"crop": ("teacher.model=crop",)} | {f: (*_OURS, f"teacher.fusion={f}") for f in ("none", "d_roi")},
        settings=("label.split_by=scene", "label.folds=3", "data.train_split=kitti_all"),
    ),
}


def study(name: str) -> Study:
    """The study of this name.

    Raises:
        DataError: when there is none.
    """
    if name not in STUDIES:
        raise DataError(f"unknown study {name!r}: allowed {', '.join(STUDIES)}")
    return STUDIES[name]


def variant_config(
    preset: str,
    overrides: list[str],
    variant: tuple[str, ...],
    name: str,
    seed: int,
    settings: tuple[str, ...] = (),
) -> Config:
    """Config of one run: preset, then the study's settings, the user's, the variant's, the seed (also the labels')."""
    return load(preset, [*COMMON, *settings, *overrides, *variant, *ALWAYS, *seeded(name, seed)])


def seeded(name: str, seed: int) -> tuple[str, str, str]:
    """Overrides that give a run its seed, which is also that of its labels and clicks, and its name."""
    return f"run.seed={seed}", f"label.seed={seed}", f"run.name={name}-seed{seed}"
