"""Runs the trials of a search on Ray Tune: number at once, search algorithm, early ends, continuation."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch

from pdetr3d.config import ScalingConfig
from pdetr3d.exits import keeping
from pdetr3d.run_files import SEED
from pdetr3d.schema import DataError
from ray_jobs.plug.stream import quiet_ray_data
from ray_jobs.searches import trial
from ray_jobs.searches.halving import Halving
from ray_jobs.searches.progress import BudgetSpent, Progress, note_stopped
from ray_jobs.searches.results import STATUS
from ray_jobs.searches.space import SearchSpace
from ray_jobs.searches.trial import Job

TUNE = "tune"  # Ray Tune's own folder in the run directory
HEAD = "node:__internal_head__"  # a resource that only the head node has; it keeps trials' drivers off spot machines


def room(scaling: ScalingConfig, cluster: dict[str, float]) -> int:
    """The number of trials that a cluster can run at once, at least 1.

    More trials may block each other forever: actors that predict would hold the CPUs that their read tasks need.

    Args:
        scaling: of a trial. cluster: resource -> amount, of ``init_ray``.
    """
    at_once = max(scaling.most_workers, scaling.inference_workers)  # a trial trains, or predicts
    fits = [cluster.get("CPU", 0.0) / (at_once * scaling.cpus_per_worker + scaling.data_cpus)]
    if scaling.use_gpu:  # one more scores checkpoints beside the training
        fits.append(cluster.get("GPU", 0.0) / ((at_once + 1) * scaling.gpus_per_worker))
    return max(1, int(min(fits) + 1e-6))


def concurrency(asked: int | None, scaling: ScalingConfig, cluster: dict[str, float]) -> int:
    """The number of trials at once: ``asked``, or else ``room``.

    Raises:
        DataError: when ``asked`` is more than this machine has room for. For a cluster (RAY_ADDRESS) a warning is
            printed instead, because a cluster may grow.
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
    """The share of the head node's resource HEAD (1 in all) that a trial takes, so that ``concurrent`` trials fit.

    Tune ignores other limits when it restores a search. Ray counts in units of 1/10000, and its own actors take 1/1000
    each; so with far more than 50 trials a few more than ``concurrent`` fit.
    """
    return int(0.99 / concurrent * 10_000) / 10_000


def run_trial(chosen: dict[str, Any], job: Job) -> None:
    """The body of a Tune trial; see ``trial.run``."""
    quiet_ray_data()
    trial.run(tune.get_context().get_trial_id(), chosen, job, tune.report)


def run_trials(job: Job, concurrent: int, budget: int | None) -> int:
    """Run the trials, or the unfinished ones of an interrupted search; return the number of failed ones.

    Args:
        job: of the search. concurrent: trials at once. budget: training samples of all trials; None: unlimited. Both
            must be those that the search was begun with.

    Raises:
        KeyboardInterrupt: when Tune was interrupted; its state is stored.
    """
    folder, space = job.search.path, job.space
    scored = bool(space.scored_on(job.search.base))  # else no trial reports the metric, which Tune would demand
    bound = tune.with_parameters(run_trial, job=job)
    trainable = tune.with_resources(bound, {"CPU": 0, HEAD: head_share(concurrent)})
    if tune.Tuner.can_restore(str(folder / TUNE)):
        tuner = tune.Tuner.restore(str(folder / TUNE), trainable, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=parameters(space),
            tune_config=tune.TuneConfig(
                metric=space.metric if scored else None,
                mode=space.mode if scored else None,
                num_samples=space.trials or 1,
                max_concurrent_trials=concurrent,
                search_alg=searcher(space, concurrent),
                scheduler=scheduler(job),
                # A process that has finished a trial runs the next one, which saves the time of imports. This is not
                # possible if trials may end early: the ended training goes on in the process that Tune keeps, and the
                # next trial would fail.
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
    with keeping(signal.SIGINT):  # Tune would leave its own handler, which ignores the first Ctrl-C after a search
        trials = tuner.fit()
    spent = note_stopped(folder, space, budget)
    if not spent and len(list(folder.glob(f"trials/*/{STATUS}"))) < space.size:  # Tune returns normally after Ctrl-C
        raise KeyboardInterrupt
    return trials.num_errors


def sessions(folder: Path) -> int:
    """The number of processes that have run the search in ``folder``: 1, and one more for each continuation.

    Tune stores the state of each in a file of its own.
    """
    return len(list((folder / TUNE).glob("experiment_state-*.json")))


def parameters(space: SearchSpace) -> dict[str, Any]:
    """The parameters of a space in Ray Tune's form."""
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
    """The search algorithm, which draws the same parameters for the same seed.

    Args:
        concurrent: trials at once. Tune's own setting has an effect only on searchers that learn.
    """
    if space.search == "optuna":
        return OptunaSearch(seed=space.seeds[0])
    return BasicVariantGenerator(max_concurrent=concurrent, random_state=space.seeds[0])


def scheduler(job: Job) -> TrialScheduler:
    """The scheduler, which ends trials early if the space has ``asha``."""
    if not job.space.asha:
        return FIFOScheduler()
    return Halving(job.search.path, 100 * job.space.optim(job.search.base).checkpoints_from)
