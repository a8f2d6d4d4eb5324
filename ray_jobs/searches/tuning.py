"""Ray Tune, as searches use it: how many trials at once, where parameters come from, what ends trials early."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch

from pdetr3d.config import ScalingConfig
from pdetr3d.exits import keeping
from pdetr3d.schema import DataError
from ray_jobs.searches.halving import Halving
from ray_jobs.searches.progress import BudgetSpent, Progress, note_stopped
from ray_jobs.searches.results import STATUS
from ray_jobs.searches.space import SEED, SearchSpace
from ray_jobs.searches.trial import Job, run_trial

TUNE = "tune"  # Ray Tune's own folder in the run directory
HEAD = "node:__internal_head__"  # a resource of the head node alone: drivers of trials stay off spot machines


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


def run_trials(job: Job, concurrent: int, budget: int | None) -> int:
    """Run the trials, or what an interrupted search left of them; returns how many failed.

    Raises:
        KeyboardInterrupt: when Tune was interrupted; its state is kept.
    """
    folder, space = job.search.path, job.space
    bound = tune.with_parameters(run_trial, job=job)
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
    for key, domain in space.domains.items():
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
    return Halving(job.search.path, 100 * job.space.optim(job.search.base).checkpoints_from)
