"""Adds variants whose teachers start from those of the same search on another dataset. Imports no Ray."""

from __future__ import annotations

import json
from pathlib import Path

from pdetr3d.run_files import SEED, VARIANT, RunFiles
from pdetr3d.schema import DataError
from ray_jobs.searches.results import FILE, trial_names
from ray_jobs.searches.space import SearchSpace, Variant


def with_pretrained(space: SearchSpace, folder: Path) -> SearchSpace:
    """The space with a second variant NAME-pretrained for each variant NAME.

    Its teacher starts from the teacher of variant NAME in another search; of several seeds, the lowest is taken.

    Args:
        space: of teachers. folder: run directory of the other search.

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
    """The last checkpoint of the variant's trained teacher with the lowest seed."""
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
