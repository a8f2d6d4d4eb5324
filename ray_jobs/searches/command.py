"""The search command: its words, what they change of a space, its world, its provenance. Imports no Ray."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pdetr3d.config import Config
from pdetr3d.config_file import with_file
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from pdetr3d.simulator.simulate import simulate
from pdetr3d.tracking.provenance import git_state
from pdetr3d.training.run_dir import check_dataroot
from ray_jobs.searches.pretrained import with_pretrained
from ray_jobs.searches.space import SearchSpace
from ray_jobs.searches.space_files import names
from ray_jobs.start.address import check_address
from ray_jobs.start.launch import add_config, ray_address

COUNTS = ("trials", "concurrent", "budget", "samples")


def parse(arguments: list[str] | None, description: str) -> argparse.Namespace:
    """The command line. Overrides that follow the seeds are told apart from them, and those of ``--config`` come before
    them.

    Raises:
        DataError: for words that are neither options, seeds nor overrides, a count below 1, or a wrong ``--config``.
    """
    command = argparse.ArgumentParser(description=description)
    add = command.add_argument
    add("space", help=f"one of {', '.join(names())}, or a .yaml file")
    add_config(command)
    add("--run-dir", type=Path, help="of the world and all trials; default runs/search-SPACE-PRESET")
    add("--out", type=Path, default=Path("results"), help="folder of SPACE.json")
    add("--seeds", nargs="+", default=[], help="of weights, order, labels and clicks; default: those of the space")
    add("--variant", action="append", metavar="NAME", help="only this one of the space; repeatable")
    add("--pretrained", type=Path, metavar="DIR", help="run directory of this search on another world: teachers also "
        "begin with its teachers")  # fmt: skip
    add("--trials", type=int, help="of a random or Optuna search; default: what the space says")
    add("--concurrent", type=int, help="trials at once; default: what the cluster has room for")
    add("--budget", type=int, metavar="SAMPLES", help="training samples after which the search ends")
    add("--samples", type=int, metavar="N", help="samples behind curves at clicks, and behind trouble")
    add("--final-samples", type=int, metavar="N", help="point-labeled samples behind final figures; 0: all")
    add("overrides", nargs="*", metavar="key=value", help="config keys, for every trial")
    args = command.parse_intermixed_args(arguments)  # options and overrides in any order
    words = [*args.seeds, *args.overrides]  # argparse gives --seeds everything that follows it
    overrides = [word for word in words if "=" in word]
    wrong = [word for word in words if "=" not in word and not word.isdecimal()]
    if wrong:
        raise DataError(f"{wrong[0]!r} is neither a seed (0, 1, ...) nor a key=value; see --help")
    args.seeds = list(dict.fromkeys(int(word) for word in args.seeds if "=" not in word))
    for name in COUNTS:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise DataError(f"--{name} {getattr(args, name)}: must be at least 1")
    if args.final_samples is not None and args.final_samples < 0:
        raise DataError(f"--final-samples {args.final_samples}: must be at least 0")
    args.preset, args.overrides = with_file(args.config, args.preset, overrides)
    return args


def changed(space: SearchSpace, args: argparse.Namespace) -> SearchSpace:
    """The space with what the command line says of its trials.

    Raises:
        DataError: for a variant that the space does not have, or words that do not fit its kind of search.
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
    """The space of some of its variants, in its order; its name says which, so that it does not take the place of all.

    Raises:
        DataError: for a variant that the space does not have.
    """
    for name in chosen:
        if name not in space.variants:
            there = ", ".join(map(repr, space.variants)) or "none"
            raise DataError(f"--variant {name!r} is not of {space.name}: allowed {there}")
    variants = {name: variant for name, variant in space.variants.items() if name in chosen}
    return space.model_copy(
        update={
            "variants": variants,
            "reference": space.reference if space.reference in variants else None,
            "name": "-".join([space.name, *(name.replace(" ", "_") for name in variants)]),
        }
    )


def open_world(args: argparse.Namespace, settings: Sequence[str]) -> tuple[Path, list[str]]:
    """(run directory of the search, overrides of every trial); simulates the world if there is no dataroot.

    Args:
        settings: overrides that come before the user's.

    Raises:
        DataError: for a preset of a real dataset without ``data.dataroot``, or an unusable RAY_ADDRESS.
    """
    base, overrides = load(args.preset, [*settings, *args.overrides]), list(args.overrides)
    check_dataroot(base)
    check_address(ray_address())
    folder: Path = args.run_dir.resolve()
    if not base.data.dataroot:
        simulate(folder / "world", base.sim, base.data.version)
        overrides.append(f"data.dataroot={folder / 'world'}")
    return folder, overrides


def provenance(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """With what figures were made: preset, command line, commit ("+": with changes), config, its digest, date."""
    text = config.to_json()
    return {
        "preset": args.preset,
        "command": shlex.join(["python", "-m", f"ray_jobs.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "commit": commit(),
        "config": json.loads(text),
        "config_digest": hashlib.sha256(text.encode()).hexdigest()[:16],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def commit() -> str:
    """Commit id of the sources, "+" behind it where files differ from it; "" without git."""
    state = git_state()
    return state.get("git.commit", "") + ("+" if state.get("git.dirty") == "true" else "")
