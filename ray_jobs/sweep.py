"""Search a space (tune_spaces/) with Ray Tune: trials side by side, bad ones ended early, shared stages trained once.

python -m ray_jobs.sweep SPACE --preset NAME [--run-dir DIR] [--trials N] [--concurrent N] [--seeds 0 1]
    [--budget SAMPLES] [key=value ...]

A rerun of the same call continues: finished trials stay, interrupted and failed ones go on where they were. Writes
sweep.json in its run directory and in results/.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch

from pdetr3d.config import ScalingConfig
from pdetr3d.exits import guarded, keeping
from pdetr3d.schema import DataError
from pdetr3d.tracking.provenance import log_provenance
from pdetr3d.tracking.runs import Tracker, end_runs
from pdetr3d.training.run_dir import RunDir, prepare, write_json
from ray_jobs.arms import check_arms
from ray_jobs.halving import Halving
from ray_jobs.launch import init_ray
from ray_jobs.refused import refusable
from ray_jobs.shared_stages import BASE, SharedStages, SweepFolder
from ray_jobs.space import SEED, SearchSpace, check_space, load_space, names
from ray_jobs.stages import EXPERIMENT
from ray_jobs.study_command import open_world, parse_words, parser, provenance, study_folder
from ray_jobs.sweep_progress import BudgetSpent, Progress, note_stopped
from ray_jobs.sweep_results import STATUS, collect, label_efficiency, print_sweep
from ray_jobs.trial import Job, run_trial

TUNE = "tune"  # Ray Tune's own folder in the run directory
HEAD = "node:__internal_head__"  # a resource of the head node alone: drivers of trials stay off spot machines
ASKED = "asked.json"  # what a sweep was begun with
SHARED_AT_ONCE = 64  # threads of the actor that trains what trials share; nearly all of them wait


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; see ``study_command.parse_words`` for what it raises."""
    command = parser(__doc__ or "", names(), "space", "sweep-SPACE-PRESET")
    command.set_defaults(seeds=[])  # the space's
    command.add_argument("--trials", type=int, help="of a random or Optuna search; default: what the space says")
    command.add_argument("--concurrent", type=int, help="trials at once; default: what the cluster has room for")
    command.add_argument("--budget", type=int, metavar="SAMPLES", help="training samples after which the sweep ends")
    args = parse_words(command, arguments)
    for name in ("trials", "concurrent", "budget"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise DataError(f"--{name} {getattr(args, name)}: must be at least 1")
    return args


def run(arguments: list[str] | None = None) -> None:
    """The job.

    Raises:
        DataError: for an unknown space, preset, key or value, or a run directory of another sweep.
        SystemExit: with code 1 when trials failed; a rerun tries them again.
    """
    args = parse(arguments)
    space = changed(load_space(args.space), args)
    check_space(space, args.preset, args.overrides)
    args.run_dir = args.run_dir or Path("runs") / f"sweep-{space.name}-{args.preset}"
    with refusable(study_folder(args)):
        _, folder, overrides = open_world(args, space.settings)
        base = check_space(space, args.preset, overrides)
        asked = space.model_dump(mode="json") | {"preset": args.preset, "overrides": overrides}
        # Tune goes on with the stopper and the searcher that it began with: other figures would be heeded by nobody.
        begun = asked | {"budget": args.budget, "concurrent": args.concurrent}
        check_same(folder / ASKED, begun)
        prepared = RunDir(folder / BASE, base)
        check_arms(space.arms, prepare(prepared), prepared.config)
    name = f"sweep {space.name}"
    with Tracker.start(
        folder, EXPERIMENT, name, base.flat(), {"sweep": folder.name, "question": space.question}
    ) as parent:
        log_provenance(parent, base.to_json())
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths mean the same in trials as here
        init_ray(base.scaling.use_gpu, dashboard=True)
        concurrent = concurrency(args.concurrent, base.scaling, ray.cluster_resources())
        write_json(folder / ASKED, begun)  # not before: what was refused began nothing, and may be asked otherwise
        job = Job(SweepFolder(folder, base, parent.run_id), space, args.preset, tuple(overrides))
        try:
            failed = search(job, concurrent, args.budget)
        finally:
            for place in (*folder.glob("trials/*"), *folder.glob("shared/*")):
                # Being ended by ASHA was an error to the trial's own process.
                end_runs(place, of=("RUNNING", "FAILED") if was_stopped(place) else ("RUNNING",))
        document = provenance(args, base.to_json()) | {"space": asked, "budget": args.budget} | collect(folder, space)
        for file in (folder / "sweep.json", args.out / f"{space.name}.json"):
            write_json(file, document)
            parent.log_artifact(file)
        log_label_efficiency(parent, document)
    print_sweep(document)
    print(f"written: {folder / 'sweep.json'}\nwritten: {file}")
    if failed:
        raise SystemExit(f"{failed} trials failed (see above); the same command tries them again")


def log_label_efficiency(parent: Tracker, document: dict[str, Any]) -> None:
    """Curves ``label_efficiency/STAGE/SPNDS`` of the sweep's run; a step is a box-labeled keyframe."""
    for boxed, scores in label_efficiency(document):
        parent.log_metrics({"label_efficiency": scores}, boxed)


def was_stopped(trial: Path) -> bool:
    """Whether ASHA or a spent budget ended it."""
    file = trial / STATUS
    return file.exists() and json.loads(file.read_text())["status"] == "stopped"


def changed(space: SearchSpace, args: argparse.Namespace) -> SearchSpace:
    """The space with the number of trials and the seeds of the command line."""
    if args.trials is not None and space.search == "grid":
        raise DataError(f"--trials {args.trials}: {space.name} is a grid, which trains all {space.size} combinations")
    seeds = tuple(args.seeds) or space.seeds
    if len(seeds) > 1 and space.search != "grid":
        raise DataError(f"--seeds {args.seeds}: a {space.search} search takes one seed for all trials")
    return space.model_copy(update={"trials": args.trials or space.trials, "seeds": seeds})


def check_same(file: Path, asked: dict[str, Any]) -> None:
    """Go on with nothing but what was begun, if anything was.

    Raises:
        DataError: when the run directory holds another sweep (names what differs).
    """
    before = json.loads(file.read_text()) if file.exists() else asked
    differing = [f"  {k}: {before.get(k)} there, {v} now" for k, v in asked.items() if before.get(k) != v]
    if differing:
        lines = "\n".join(differing)
        raise DataError(
            f"{file.parent} holds another sweep; it differs in\n{lines}\n"
            "Give what it was begun with to go on with it, or choose another --run-dir."
        )


def room(scaling: ScalingConfig, cluster: dict[str, float]) -> int:
    """How many trials a cluster trains at once. More may wait for one another without end: actors that predict hold the
    CPUs that the tasks which feed them need."""
    at_once = max(scaling.most_workers, scaling.inference_workers)  # a trial trains, or predicts
    fits = [cluster.get("CPU", 0.0) / (at_once * scaling.cpus_per_worker + scaling.data_cpus)]
    if scaling.use_gpu:  # one more scores checkpoints beside the training
        fits.append(cluster.get("GPU", 0.0) / ((at_once + 1) * scaling.gpus_per_worker))
    return max(1, int(min(fits) + 1e-6))


def concurrency(asked: int | None, scaling: ScalingConfig, cluster: dict[str, float]) -> int:
    """Trials at once: as many as there is room for, or as asked.

    Raises:
        DataError: when more are asked for than this machine has room for. Of a cluster (RAY_ADDRESS) only a warning is
            printed: it may grow.
    """
    fits = room(scaling, cluster)
    if asked is not None and asked > fits:
        message = (
            f"--concurrent {asked}: there is room for {fits} ({cluster.get('CPU', 0):g} CPUs, "
            f"{cluster.get('GPU', 0):g} GPUs). A trial takes scaling.workers = {scaling.workers} or "
            f"scaling.inference_workers = {scaling.inference_workers} times scaling.cpus_per_worker = "
            f"{scaling.cpus_per_worker:g}, and scaling.data_cpus = {scaling.data_cpus:g}: lower one of these, or leave "
            "--concurrent out."
        )
        if "RAY_ADDRESS" not in os.environ:
            raise DataError(message)
        print(f"warning: {message} Unless the cluster grows, trials will wait for one another.", file=sys.stderr)
    return asked or fits


def head_share(concurrent: int) -> float:
    """What a trial takes of the head node's resource of 1, so that no more than ``concurrent`` fit (far above 50 a few
    more): the one limit that Tune heeds on a restore. Ray counts in 1/10000; its own actors there take 1/1000 each."""
    return int(0.99 / concurrent * 10_000) / 10_000


def search(job: Job, concurrent: int, budget: int | None) -> int:
    """Run the trials, or what an interrupted sweep left of them; returns how many failed.

    Raises:
        KeyboardInterrupt: when Tune was interrupted; its state is kept.
    """
    folder, space = job.sweep.path, job.space
    on_head = {"num_cpus": 0, "resources": {HEAD: 0.001}}
    actor = ray.remote(SharedStages).options(**on_head, max_concurrency=SHARED_AT_ONCE)
    bound = tune.with_parameters(run_trial, job=job, shared=actor.remote(job.sweep))
    trainable = tune.with_resources(bound, {"CPU": 0, HEAD: head_share(concurrent)})
    if tune.Tuner.can_restore(str(folder / TUNE)):  # with the concurrency and the budget that it began with
        tuner = tune.Tuner.restore(str(folder / TUNE), trainable, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=parameters(space),
            tune_config=tune.TuneConfig(
                metric=space.metric,
                mode=space.mode,
                num_samples=space.trials or 1,
                max_concurrent_trials=concurrent,
                search_alg=searcher(space, concurrent),
                scheduler=scheduler(job),
                # A process that trained one trial to its end starts the next at once, its imports done. Not where
                # trials are ended early: Tune would keep the process, in which the ended training goes on, and fail
                # the next trial for it.
                reuse_actors=not (space.asha or budget),
            ),
            run_config=tune.RunConfig(
                name=TUNE,
                storage_path=str(folder),
                verbose=0,
                stop=BudgetSpent(budget, folder) if budget else None,
                callbacks=[Progress(folder, space)],
            ),
        )
    with keeping(signal.SIGINT):  # Tune's own handler would stay: the first Ctrl-C after a search would be lost
        trials = tuner.fit()
    spent = note_stopped(folder, space, budget)
    if not spent and len(list(folder.glob(f"trials/*/{STATUS}"))) < space.size:  # Tune says nothing of a Ctrl-C
        raise KeyboardInterrupt
    return trials.num_errors


def parameters(space: SearchSpace) -> dict[str, Any]:
    """The space as Ray Tune takes it."""
    grid = space.search == "grid"
    kinds: dict[str, Callable[..., Any]] = {
        "values": (lambda *v: tune.grid_search(list(v))) if grid else (lambda *v: tune.choice(list(v))),
        "uniform": tune.uniform,
        "loguniform": tune.loguniform,
        "integers": lambda low, high: tune.randint(low, high + 1),
    }
    made = {}
    for key, domain in space.space.items():
        ((kind, bounds),) = domain.model_dump(exclude_none=True).items()
        made[key] = kinds[kind](*bounds)
    return made | {SEED: tune.grid_search(list(space.seeds)) if grid else space.seeds[0]}


def searcher(space: SearchSpace, concurrent: int) -> Searcher | BasicVariantGenerator:
    """Draws parameters; the same ones for the same seed. ``concurrent``: trials at once (Tune heeds its own setting
    for searchers that learn alone)."""
    if space.search == "optuna":
        return OptunaSearch(seed=space.seeds[0])
    return BasicVariantGenerator(max_concurrent=concurrent, random_state=space.seeds[0])


def scheduler(job: Job) -> TrialScheduler:
    """What ends trials early, if the space asks for it."""
    if not job.space.asha:
        return FIFOScheduler()
    return Halving(job.sweep.path, 100 * job.space.optim(job.sweep.base).checkpoints_from)


if __name__ == "__main__":
    sys.exit(guarded(run))
