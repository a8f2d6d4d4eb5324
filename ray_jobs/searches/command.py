"""The options of a search, the changes that they make to its space, its dataset and provenance. Imports no Ray."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdetr3d.config import Config
from pdetr3d.data.storage.files import text_digest
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from pdetr3d.simulator.simulate import simulate
from pdetr3d.tracking.provenance import git_state
from pdetr3d.training.run_dir import check_dataroot
from ray_jobs.searches.pretrained import with_pretrained
from ray_jobs.searches.space import SearchSpace
from ray_jobs.start.address import check_address
from ray_jobs.start.launch import ray_address


@dataclass(frozen=True)
class Asked:
    """The options of a search; ``pdetr3d search --help`` explains them. None or an empty value: not given."""

    space: str
    preset: str
    overrides: list[str]
    seeds: list[int]
    run_dir: Path | None = None
    out: Path = Path("results")
    variant: tuple[str, ...] = ()
    pretrained: Path | None = None
    trials: int | None = None
    concurrent: int | None = None
    budget: int | None = None
    samples: int | None = None
    final_samples: int | None = None
    verbose: bool = False


def seeds_and_overrides(words: Sequence[str]) -> tuple[list[int], list[str]]:
    """Split words of the command line into seeds (each once) and key=value words.

    Raises:
        DataError: for a word that is neither.
    """
    wrong = [word for word in words if "=" not in word and not word.isdecimal()]
    if wrong:
        raise DataError(f"{wrong[0]!r} is neither a seed (0, 1, ...) nor a key=value; see --help")
    return list(dict.fromkeys(int(word) for word in words if "=" not in word)), [w for w in words if "=" in w]


def changed(space: SearchSpace, args: Asked) -> SearchSpace:
    """The space with the changes of the command line: its trials, seeds, variants and sample counts.

    Raises:
        DataError: for a variant that the space does not have, or an option that does not fit its kind of search.
    """
    if args.trials is not None and space.search == "grid":
        raise DataError(f"--trials {args.trials}: {space.name} is a grid, which trains all {space.size} combinations")
    seeds = tuple(args.seeds) or space.seeds
    if len(seeds) > 1 and space.search != "grid":
        raise DataError(f"--seeds {args.seeds}: a {space.search} search takes one seed for all trials")
    if args.final_samples is not None and space.measured_on == "val":
        raise DataError(f"--final-samples {args.final_samples}: {space.name} is measured on the whole val split")
    if args.variant:
        space = only(space, args.variant)
    if args.pretrained is not None:
        space = with_pretrained(space, args.pretrained)
    given = {"trials": args.trials, "samples": args.samples, "final_samples": args.final_samples}
    return space.model_copy(update={k: v for k, v in given.items() if v is not None} | {"seeds": seeds})


def only(space: SearchSpace, chosen: Sequence[str]) -> SearchSpace:
    """The space with only the chosen variants, in their old order.

    Its name ends with those of the variants, so that its results do not overwrite those of the whole space.

    Raises:
        DataError: for a variant that the space does not have.
    """
    for name in chosen:
        if name not in space.variants:
            there = ", ".join(map(repr, space.variants)) or "none"
            raise DataError(f"--variant {name!r}: {space.name} has no such variant; allowed {there}")
    variants = {name: variant for name, variant in space.variants.items() if name in chosen}
    return space.model_copy(
        update={
            "variants": variants,
            "reference": space.reference if space.reference in variants else None,
            "name": "-".join([space.name, *(name.replace(" ", "_") for name in variants)]),
        }
    )


def open_world(folder: Path, args: Asked, settings: Sequence[str]) -> list[str]:
    """Return the overrides of every trial. Without ``data.dataroot``, simulate a world in the search's run directory.

    Args:
        folder: the run directory. args: the options. settings: overrides of the space; the user's come after them.

    Returns:
        The user's ``key=value`` words, and that of ``data.dataroot`` if a world was simulated.

    Raises:
        DataError: for a preset of a real dataset without ``data.dataroot``, or an unusable RAY_ADDRESS.
    """
    base, overrides = load(args.preset, [*settings, *args.overrides]), list(args.overrides)
    check_dataroot(base)
    check_address(ray_address())
    if not base.data.dataroot:
        simulate(folder / "world", base.sim, base.data.version)
        overrides.append(f"data.dataroot={folder / 'world'}")
    return overrides


def provenance(args: Asked, config: Config) -> dict[str, Any]:
    """The origin of results: preset, command line, commit (see ``commit``), config and its digest, date (UTC)."""
    text, program = config.to_json(), Path(sys.argv[0]).stem
    started = ["pdetr3d"] if program == "pdetr3d" else ["python", "-m", f"ray_jobs.{program}"]
    return {
        "preset": args.preset,
        "command": shlex.join([*started, *sys.argv[1:]]),
        "commit": commit(),
        "config": json.loads(text),
        "config_digest": text_digest(text),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def commit() -> str:
    """Commit id of the sources, followed by "+" if files differ from it; "" without git."""
    state = git_state()
    return state.get("git.commit", "") + ("+" if state.get("git.dirty") == "true" else "")
