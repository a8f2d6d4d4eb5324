"""The job that runs a search: trials of a search space side by side, their shared stages once, one report.

python -m ray_jobs.search SPACE --preset NAME [key=value ...]
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from pdetr3d.config import Config
from pdetr3d.finished.report.search_page import write_report
from pdetr3d.pipeline.arms import check_arms
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.store import index_folder
from pdetr3d.schema import DataError
from pdetr3d.tracking.provenance import log_provenance
from pdetr3d.tracking.runs import Tracker, end_runs
from pdetr3d.training import lease
from pdetr3d.training.run_dir import RunDir, prepare, share_index, write_json
from ray_jobs.searches import command
from ray_jobs.searches.evaluations import check_known
from ray_jobs.searches.folder import BASE, SHARED, WAIT_S, SearchFolder
from ray_jobs.searches.results import STATUS, collect, label_efficiency, print_search
from ray_jobs.searches.space import SearchSpace
from ray_jobs.searches.space_files import check_space, load_space
from ray_jobs.searches.trial import Job
from ray_jobs.searches.tuning import concurrency, run_trials, sessions
from ray_jobs.stages.ray_runner import RayRunner
from ray_jobs.stages.tracked import EXPERIMENT, Tracked
from ray_jobs.start.launch import init_ray
from ray_jobs.start.refused import refusable
from ray_jobs.terminal.console import console

ASKED = "asked.json"  # the space and the options that a search was begun with
# A continued search keeps its first stopper and searcher: another budget or concurrency would have no effect.
OPTIONS = ("budget", "concurrent")


def run(args: command.Asked) -> None:
    """Run all trials, or those that an interrupted search left; write and print the results.

    Raises:
        DataError: for an unknown space, variant, preset, key or value, or a run directory of another search.
        SystemExit: with code 1 when trials failed; a rerun tries them again.
    """
    space = command.changed(load_space(args.space), args)
    check_space(space, args.preset, args.overrides)
    folder = (args.run_dir or Path("runs") / f"search-{space.name}-{args.preset}").resolve()
    with refusable(folder):
        overrides = command.open_world(folder, args, space.settings)
        base = check_space(space, args.preset, overrides)
        begun = space.model_dump(mode="json") | {"preset": args.preset, "overrides": overrides}
        begun |= {option: getattr(args, option) for option in OPTIONS}
        check_same(folder / ASKED, begun)
        prepared = RunDir(folder / BASE, base)
        if space.measured_on == "val":
            check_arms(space.arms, prepare(prepared), prepared.config)
        else:
            check_known(Run(prepared, RayRunner(), Tracked()))
        share_index(prepared, index_folder(folder / SHARED, prepared.config))
    with console(folder, args.verbose, search=True):
        document, failed = trained(folder, space, args, base, begun)
    print_search(document)
    page = write_report(folder)["report"]
    written = (folder / "search.json", args.out / f"{space.name}.json", page)
    print("\n".join(f"written: {file}" for file in written))
    if failed:
        raise SystemExit(f"{failed} trials failed (see above); the same command tries them again")


def trained(
    folder: Path, space: SearchSpace, args: command.Asked, base: Config, begun: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """Run the trials of a search, and write its JSON files.

    Args:
        folder: run directory. space: with the changes of the command line. args: options. base: config of all trials.
            begun: what ``ASKED`` keeps.

    Returns:
        The document of ``search.json``, and the number of failed trials.
    """
    tags = {"search": folder.name, "question": space.question}
    with Tracker.start(folder, EXPERIMENT, f"search {space.name}", base.flat(), tags) as parent:
        log_provenance(parent, base.to_json())
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths mean the same in trials as here
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's newer output prints a table of settings all the same
        cluster = init_ray(base.scaling.use_gpu, dashboard=True)
        concurrent = concurrency(args.concurrent, base.scaling, cluster)
        write_json(folder / ASKED, begun)  # not earlier: a refused search may be started again with other options
        job = Job(SearchFolder(folder, base, parent.run_id), space, args.preset, tuple(begun["overrides"]))
        try:
            failed = run_trials(job, concurrent, args.budget)
        finally:
            end_all_runs(folder)
        asked = {key: value for key, value in begun.items() if key not in OPTIONS}
        made = {"space": asked, "seeds": list(space.seeds), "budget": args.budget, "sessions": sessions(folder)}
        document = command.provenance(args, base) | made | collect(folder, space, base)
        for file in (folder / "search.json", args.out / f"{space.name}.json"):
            write_json(file, document)
            parent.log_artifact(file)
        log_label_efficiency(parent, document)
    return document, failed


def end_all_runs(folder: Path) -> None:
    """End the MLflow runs of all trials and shared stages; those of trials that ASHA or the budget ended are KILLED.

    The process of such a trial lives on for some seconds, in which it marks its runs as failed or finished. So this
    waits until the processes are gone, for about WAIT_S seconds in all.

    Args:
        folder: of the search.
    """
    until = time.monotonic() + WAIT_S
    for place in (*folder.glob("trials/*"), *folder.glob(f"{SHARED}/*")):
        stopped = was_stopped(place)
        if stopped:
            lease.wait(place, until - time.monotonic())
        end_runs(place, of=("RUNNING", "FAILED") if stopped else ("RUNNING",))
        if stopped:
            end_runs(place, of=("FINISHED",), only=f"trial {place.name}")


def log_label_efficiency(parent: Tracker, document: dict[str, Any]) -> None:
    """Log the curves ``label_efficiency/STAGE/SPNDS`` to the search's MLflow run; their step is the number of
    box-labeled keyframes.

    Args:
        parent: MLflow run of the search. document: of ``search.json``.
    """
    for boxed, scores in label_efficiency(document):
        parent.log_metrics({"label_efficiency": scores}, boxed)


def was_stopped(trial: Path) -> bool:
    """Whether ASHA or a spent budget ended the trial in this folder."""
    file = trial / STATUS
    return file.exists() and json.loads(file.read_text())["status"] == "stopped"


def check_same(file: Path, asked: dict[str, Any]) -> None:
    """Check that a continued search is the one that was begun.

    Args:
        file: ``ASKED`` in the search's run directory; it does not exist in a new one. asked: of this call.

    Raises:
        DataError: when the run directory holds another search; the message names the differing keys.
    """
    before = json.loads(file.read_text()) if file.exists() else asked
    differing = [f"  {k}: {before.get(k)} there, {v} now" for k, v in asked.items() if before.get(k) != v]
    if differing:
        lines = "\n".join(differing)
        raise DataError(
            f"{file.parent} holds another search; it differs in\n{lines}\n"
            "Give the same options as before to continue it, or choose another --run-dir."
        )


if __name__ == "__main__":
    from ray_jobs.commands import main

    sys.exit(main(["search", *sys.argv[1:]]))
