"""What the commands of studies and sweeps share: words, world, provenance. Imports no Ray."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pdetr3d.config import Config
from pdetr3d.config_file import with_file
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from pdetr3d.simulator.simulate import simulate
from pdetr3d.tracking.provenance import git_state
from pdetr3d.training.run_dir import check_dataroot
from ray_jobs.address import check_address
from ray_jobs.launch import add_config, ray_address


def parser(
    doc: str, names: Iterable[str], kind: str = "study", folder: str = "studies-PRESET"
) -> argparse.ArgumentParser:
    """Options that all of them take.

    Args:
        doc: docstring of the job, whose first line describes it. names: what there is of the ``kind``. folder: default
            run directory, under runs/.
    """
    command = argparse.ArgumentParser(description=doc.splitlines()[0])
    command.set_defaults(kind=kind)
    command.add_argument(kind, help=f"one of {', '.join(names)}")
    add_config(command)
    command.add_argument("--run-dir", type=Path, help=f"of the world and all that is trained; default runs/{folder}")
    command.add_argument("--seeds", nargs="+", default=["0", "1", "2"], help="of weights, order, labels and clicks")
    command.add_argument(
        "--out", type=Path, default=Path("results"), help=f"folder of {kind.upper()}.json and pictures"
    )
    command.add_argument("overrides", nargs="*", metavar="key=value", help="config keys, for every variant")
    return command


def parse_words(command: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Parse; overrides that follow the seeds are told apart from them, and those of ``--config`` come before them.

    Raises:
        DataError: for words that are neither options, seeds nor overrides, or a wrong ``--config``.
    """
    args = command.parse_intermixed_args(arguments)  # options and overrides in any order
    # argparse gives --seeds everything that follows it.
    words = [*args.seeds, *args.overrides]
    overrides = [word for word in words if "=" in word]
    wrong = [word for word in words if "=" not in word and not word.isdecimal()]
    if wrong:
        raise DataError(f"{wrong[0]!r} is neither a seed (0, 1, ...) nor a key=value; see --help")
    args.seeds = list(dict.fromkeys(int(word) for word in args.seeds if "=" not in word))
    if not args.seeds and command.get_default("seeds"):
        raise DataError("--seeds needs at least one number")
    args.preset, args.overrides = with_file(args.config, args.preset, overrides)
    return args


def open_world(args: argparse.Namespace, settings: Sequence[str] = ()) -> tuple[Config, Path, list[str]]:
    """(config without variants, folder of the study, overrides for every variant); simulates the world if there is no
    dataroot. ``settings``: overrides that come before the user's."""
    base, overrides = load(args.preset, [*settings, *args.overrides]), list(args.overrides)
    check_dataroot(base)
    check_address(ray_address())
    folder = study_folder(args)
    if not base.data.dataroot:
        simulate(folder / "world", base.sim, base.data.version)
        overrides.append(f"data.dataroot={folder / 'world'}")
    return base, folder, overrides


def study_folder(args: argparse.Namespace) -> Path:
    """Where all of the study's or sweep's run directories lie."""
    return (args.run_dir or Path("runs") / f"studies-{args.preset}").resolve()


def provenance(args: argparse.Namespace, config_json: str) -> dict[str, Any]:
    """What the figures were made with: name, command line, commit ("+": with changes), config and its digest, date."""
    return {
        args.kind: getattr(args, args.kind),
        "preset": args.preset,
        "seeds": args.seeds,
        "command": shlex.join(["python", "-m", f"ray_jobs.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "commit": commit(),
        "config": json.loads(config_json),
        "config_digest": hashlib.sha256(config_json.encode()).hexdigest()[:16],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def commit() -> str:
    """Commit id of the sources, "+" behind it where files differ from it; "" without git."""
    state = git_state()
    return state.get("git.commit", "") + ("+" if state.get("git.dirty") == "true" else "")
