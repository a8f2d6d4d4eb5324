"""Variants that begin with the teachers of the same search on another world. Imports no Ray."""

from __future__ import annotations

import json
from pathlib import Path

from pdetr3d.run_files import RunFiles
from pdetr3d.schema import DataError
from ray_jobs.searches.results import FILE, trial_names
from ray_jobs.searches.space import SEED, VARIANT, SearchSpace, Variant


def with_pretrained(space: SearchSpace, folder: Path) -> SearchSpace:
    """Every variant twice: as it is, and as NAME-pretrained, which begins with the teacher of that variant (of its
    lowest seed) in ``folder``, the run directory of another search.

    Raises:
        DataError: for a space of students or without variants, or when a variant has no trained teacher there.
    """
    if space.trains != "teacher" or not space.variants:
        raise DataError(f"--pretrained {folder}: {space.name} has no variants of a teacher")
    started = {
        f"{name}-pretrained": Variant(
            overrides=(*variant.overrides, f"teacher.start_from={json.dumps(str(_teacher(folder, name)))}")
        )
        for name, variant in space.variants.items()
    }
    return space.model_copy(update={"variants": space.variants | started})


def _teacher(folder: Path, variant: str) -> Path:
    """Checkpoint of the variant's teacher of the lowest seed that is trained."""
    seeds = {}
    for name in trial_names(folder):
        place = folder / "trials" / name
        parameters = json.loads((place / FILE).read_text())["parameters"]
        if parameters.get(VARIANT) == variant and RunFiles(place).checkpoints("teacher"):
            seeds[parameters[SEED]] = place
    if not seeds:
        raise DataError(
            f"--pretrained {folder}: no trained teacher of variant {variant!r} is there; name the run directory "
            "(--run-dir) of a search of the same space"
        )
    return RunFiles(seeds[min(seeds)]).checkpoints("teacher")[-1].resolve()
