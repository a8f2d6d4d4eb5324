"""How every job starts: validate, prepare data, and only then Ray; exit codes as ``pdetr3d.exits`` says."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from pdetr3d.config_file import with_file
from pdetr3d.exits import last_acts
from pdetr3d.pipeline.arms import check_arms
from pdetr3d.pipeline.run import Run
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from pdetr3d.tracking.provenance import log_provenance
from pdetr3d.tracking.runs import Tracker, end_runs
from pdetr3d.training.run_dir import RunDir
from ray_jobs.stages.ray_runner import RayRunner
from ray_jobs.stages.tracked import EXPERIMENT, Tracked, changed
from ray_jobs.start.address import check_address
from ray_jobs.start.refused import refusable, worked_on
from ray_jobs.terminal.console import Console, attach, console, current
from ray_jobs.terminal.phases import PHASES, lines

# Shared memory of a local Ray: streams are capped well below it (flow.STREAM_BYTES).
OBJECT_STORE_BYTES = 1024**3


@dataclass(frozen=True)
class Asked:
    """The options of a job that runs stages in a run directory.

    preset, config: one of the two is needed (``pdetr3d.config_file.with_file``). overrides: key=value words.
    run_dir: None: runs/PRESET. fresh: begin anew in the next free directory beside an existing one. verbose: show the
    lines of Ray and MLflow, too.
    """

    preset: str | None
    config: Path | None
    overrides: tuple[str, ...]
    run_dir: Path | None
    fresh: bool
    verbose: bool


def run_job(body: Callable[[], Callable[[Run], object]], asked: Asked) -> None:
    """Run a job.

    Args:
        body: returns the job, a function of the run's stages. It is called once the run directory is prepared.

    Raises:
        DataError: for wrong input, before Ray starts.
    """
    PHASES.restart()
    config = load(*with_file(asked.config, asked.preset, list(asked.overrides)))
    check_address(ray_address())
    with refusable(asked.run_dir or Path("runs") / config.preset, asked.fresh, unless=worked_on) as folder:
        if asked.fresh:
            print(f"run directory: {folder.resolve()}", flush=True)
        with closing(RunDir(folder, config, fresh=asked.fresh)) as run, console(run.path, asked.verbose) as said:
            _job(body(), run, said)


def _job(body: Callable[[Run], object], run: RunDir, said: Console) -> None:
    """The job in its run directory. No MLflow run is begun before the input is accepted."""
    last_acts.append(partial(end_runs, run.path))
    config = run.config
    with PHASES.of("data"):
        told = Tracked()
        work = Run(run, RayRunner(), told)
    if config.run.arms == ("full",):
        check_arms(config.run.arms, work.data, config)
    name = f"{config.run.name or config.preset} {run.digest}"
    tags = {"run": run.digest, "changed": changed(config)}
    with Tracker.start(run.path, EXPERIMENT, name, config.flat(), tags) as parent:
        log_provenance(parent, config.to_json())
        told.parent = parent
        told.left_out(work)
        init_ray(config.scaling.use_gpu)
        PHASES.started()
        body(work)
        summary = ["where the time went:", *lines(PHASES.seconds())]
        if waited := said.first_batch_s:
            summary.append(
                "from a stage's begin to its first batch: " + ", ".join(f"{k} {v:.1f} s" for k, v in waited.items())
            )
        print("\n".join(summary), flush=True)


def init_ray(use_gpu: bool, dashboard: bool = False) -> None:
    """Join the cluster of RAY_ADDRESS (set by ``ray job submit``), else start Ray on this machine for this run alone.

    Args:
        dashboard: start one, too (on loopback): a dozen processes. It carries the state API, by which Ray Train learns
            that a training's controller is gone (a trial that ASHA ends), and frees its workers' CPUs.

    Raises:
        DataError: when RAY_ADDRESS is of no cluster, or ``scaling.use_gpu`` is set and the cluster has no GPU.
    """
    import ray

    from ray_jobs.plug.stream import quiet_ray_data

    if not ray.is_initialized():
        os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # else every progress line appears twice
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # default 2: each stage ends 2-4 s sooner
        # Two processes for each training, of a second or three of imports each. One polls for machines that are to be
        # taken away, the other one frees a placement group whose controller died, which it asks the dashboard about:
        # where Ray is this run's alone, machine and placement groups end with it (fit.LocalTrainer).
        if ray_address() == "local" and not dashboard:
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # Default 1000: with more processes than CPUs, which any training has, Ray ends a reader that rested for a
        # second and starts it anew for the next batch: imports took half of both cores. Not much longer either: a
        # finished stage leaves half a dozen processes of 0.4 GB.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "10000")
        address, local = ray_address(), dict[str, Any]()
        if address == "local":
            local = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": dashboard}
            if dashboard:
                local["dashboard_port"] = port = free_port()
                # Told no address, Ray Train looks for one, and finds none where another Ray runs on this machine.
                os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
        # Ray takes SIGTERM over before it starts, with a handler that makes a SystemExit of it: to MLflow a failure,
        # and nothing at all where Python drops it (``exits.ending_in_time``).
        with mock.patch.object(ray._private.utils, "set_sigterm_handler"):
            try:
                ray.init(address=address, log_to_driver=True, **local)
            except (ConnectionError, ValueError) as error:
                if address == "local":
                    raise
                raise DataError(f"RAY_ADDRESS={address}: {error}") from error
    if use_gpu and not ray.cluster_resources().get("GPU"):
        raise DataError(
            "scaling.use_gpu=true, but the Ray cluster has no GPU: add GPU nodes or set scaling.use_gpu=false"
        )
    quiet_ray_data()
    if (mine := current()) is not None:
        attach(mine)


def ray_address() -> str:
    """Of the cluster that the job is to join; "local" for a Ray of its own."""
    return os.environ.get("RAY_ADDRESS") or "local"


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
