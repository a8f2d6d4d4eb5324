"""Reads search spaces from YAML files, and checks them with a preset. Imports no Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

import tune_spaces
from pdetr3d.config import Config, override, unknown_key
from pdetr3d.presets import load
from pdetr3d.run_files import SEED, VARIANT
from pdetr3d.schema import DataError
from pdetr3d.strict_yaml import read_yaml
from pdetr3d.training.label_source import fixed_by_manifest
from pdetr3d.words import close_to
from ray_jobs.searches.space import SearchSpace, Variant

FOLDER = Path(tune_spaces.__file__).parent


def names() -> list[str]:
    """The names of the spaces in ``tune_spaces/``, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_space(name: str) -> SearchSpace:
    """Read the space ``tune_spaces/NAME.yaml``, or the file of a path that ends with ``.yaml``.

    Raises:
        DataError: when the file does not exist or is no valid space; the message names file and key.
    """
    file = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not file.is_file():
        hint = close_to(name, names())
        raise DataError(f"no search space {name!r}{hint}: there are {', '.join(names())}, or name a .yaml file")
    try:
        document = read_yaml(file.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise DataError(f"{file}: a search space is a mapping (question, trains, metric, space); see its README")
        return SearchSpace(**document, name=file.stem)
    except yaml.YAMLError as error:
        raise DataError(f"{file} is not YAML: {error}") from error
    except ValidationError as error:
        lines = [": ".join(filter(None, (str(file), ".".join(map(str, e["loc"])), e["msg"]))) for e in error.errors()]
        raise DataError("\n".join(lines)) from error


def check_space(space: SearchSpace, preset: str, overrides: list[str]) -> Config:
    """Return the config that all trials vary, after all values of the space were checked with it.

    Args:
        overrides: the user's ``key=value`` words.

    Raises:
        DataError: for an unknown key (the message names the closest one), a value that is not allowed, a key that
            trials cannot vary, or a preset without the select split that the space needs.
    """
    base = trial_config(space, preset, overrides, {})
    known = base.flat()
    named = {_key(word) for variant in space.variants.values() for word in variant.overrides}
    fixed = {_key(word) for word in overrides} & (space.space.keys() | named)
    if fixed:
        raise DataError(f"{', '.join(sorted(fixed))}: the space {space.name} varies this key, so it cannot be set")
    seeded_keys = {_key(word) for word in (*overrides, *space.settings)} | named
    if seeded_keys & {"run.seed", "label.seed"}:
        wrong = ", ".join(sorted(seeded_keys & {"run.seed", "label.seed"}))
        raise DataError(f"{wrong}: trials are seeded by --seeds, or by seeds: in the space")
    if space.asha and space.optim(base).checkpoints == 1:
        raise DataError(
            f"search space {space.name}: asha compares trials at kept checkpoints before the last one, but "
            f"{'teacher.' if space.trains == 'teacher' else ''}optim.checkpoints is 1: set it to 2 or more"
        )
    fixed_by_manifest(base, [*space.space, *named, *map(_key, space.settings)])
    for key in (*space.space, *named):
        if key not in known:
            raise DataError(f"search space {space.name}: {unknown_key(key, list(known))}")
        if key.startswith(("sim.", "scaling.", "storage.", "data.dataroot", "run.", "label.seed")):
            how = "give seeds: instead" if key.endswith(".seed") else "set it for all of them"
            raise DataError(f"search space {space.name}: {key} is the same in all trials and cannot vary: {how}")
    for key, domain in space.domains.items():
        for value in domain.extremes:
            trial_config(space, preset, overrides, {key: value})
    for chosen in space.combinations() if space.search == "grid" else ():
        trial_config(space, preset, overrides, chosen)
    for key, values in space.evaluations.corruption.items():
        for number in values:
            override(base, [f"{key}={number:g}"])
    if not space.scored_on(base) and (space.asha or space.search != "grid"):
        raise DataError(
            f"preset {preset} has no data.select_split, on which trials are compared: set it to a split that is "
            "neither trained on nor reported, e.g. data.select_split=mini_val"
        )
    return base


def _key(word: str) -> str:
    return word.partition("=")[0]


def trial_config(space: SearchSpace, preset: str, overrides: Sequence[str], chosen: dict[str, Any]) -> Config:
    """The config of a trial.

    The preset is changed by the space's settings, then by the user's overrides, then by the trial's parameters.

    Args:
        overrides: the user's ``key=value`` words. chosen: the parameters: config key, SEED or VARIANT -> value.
    """
    variant = space.variants[chosen[VARIANT]] if VARIANT in chosen else Variant()
    words = [f"{key}={json.dumps(value)}" for key, value in chosen.items() if key not in (SEED, VARIANT)]
    seeds = [f"run.seed={chosen[SEED]}", f"label.seed={chosen[SEED]}"] if SEED in chosen else []
    arms = space.arms_of(chosen)
    trained = [f"run.arms={json.dumps(arms)}"] if arms else []
    return override(load(preset, [*space.settings, *overrides]), [*variant.overrides, *words, *trained, *seeds])
