"""Starts a job: checks its input, prepares its data, then starts Ray. ``pdetr3d.exits`` defines the exit codes."""

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
from ray_jobs.terminal.console import Console, console, current
from ray_jobs.terminal.phases import PHASES, lines

# Shared memory of a local Ray. Streams use much less (flow.STREAM_BYTES).
OBJECT_STORE_BYTES = 1024**3
# Idle processes that a local Ray keeps at least: the readers of a training, which read in turn. Each has 0.13 GB.
KEPT_PROCESSES = 8


@dataclass(frozen=True)
class Asked:
    """The options of a job that runs stages in a run directory.

    Attributes:
        preset, config: one of the two is needed (``pdetr3d.config_file.with_file``). overrides: key=value words.
        run_dir: None: runs/PRESET. fresh: use the next free directory beside ``run_dir`` if that exists.
        verbose: also show the output of Ray and MLflow on the screen.
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
        body: imports and returns the job's function. It is called after the run directory is prepared.
        asked: the job's options.

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
    """Run a job in its run directory. No MLflow run is started before the input is accepted."""
    last_acts.append(partial(end_runs, run.path))
    config = run.config
    with PHASES.of("data"):
        told = Tracked()
        work = Run(run, RayRunner(), told)
    if config.run.arms == ("full",):
        check_arms(config.run.arms, work.data, config)
    name = f"{config.run.name or config.preset} {run.digest}"
    tags = {"run": run.digest, "changed": changed(config)}
    title = " ".join(dict.fromkeys((config.run.name or config.preset, run.path.resolve().name)))
    with Tracker.start(run.path, EXPERIMENT, name, config.flat(), tags, title=title) as parent:
        log_provenance(parent, config.to_json())
        told.parent = parent
        told.left_out(work)
        init_ray(config.scaling.use_gpu)
        PHASES.started()
        body(work)
        summary = [f"MLflow: {text}" for text in told.registered.values()]
        summary += ["where the time went:", *lines(PHASES.seconds())]
        if waited := said.first_batch_s:
            summary.append(
                "from a stage's begin to its first batch: " + ", ".join(f"{k} {v:.1f} s" for k, v in waited.items())
            )
        print("\n".join(summary), flush=True)


def init_ray(use_gpu: bool, dashboard: bool = False) -> dict[str, float]:
    """Join the cluster of RAY_ADDRESS (set by ``ray job submit``), else start Ray on this machine for this run alone.

    Args:
        use_gpu: require a GPU. dashboard: a local Ray also starts its dashboard (a dozen processes, on loopback). The
            dashboard has the state API. By it Ray Train notices that the controller of a training has ended, as when
            ASHA ends a trial, and frees the CPUs of its workers.

    Returns:
        Resource of the cluster ("CPU", "GPU", ...) -> amount.

    Raises:
        DataError: when no cluster can be joined at RAY_ADDRESS, or when ``use_gpu`` and the cluster has no GPU.
    """
    import ray

    from ray_jobs.plug.lanes import ray_is_down
    from ray_jobs.plug.stream import quiet_ray_data
    from ray_jobs.plug.worker_output import attach

    if not ray.is_initialized():
        os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # else every progress line appears twice
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # default 2: each stage ends 2-4 s sooner
        # Ray Train starts two more processes for each training, which import for 1-3 s each. One polls for machines
        # that will be taken away. The other one asks the dashboard whether the controller lives, and else frees its
        # placement group. A Ray of this run alone needs neither: its placement groups end with it (fit.LocalTrainer).
        if ray_address() == "local" and not dashboard:
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # By default Ray keeps as many idle processes as there are CPUs, and ends others after a second. A training has
        # more readers. They ended after each task, and others started for the next: imports took half of both cores.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "10000")
        os.environ.setdefault("RAY_num_workers_soft_limit", str(max(KEPT_PROCESSES, os.cpu_count() or 1)))
        address, local = ray_address(), dict[str, Any]()
        if address == "local":
            local = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": dashboard}
            if dashboard:
                local["dashboard_port"] = port = free_port()
                # Without this variable Ray Train searches for the address, and fails if this machine runs another Ray.
                os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
        # Ray would replace our handler of SIGTERM by one that raises SystemExit. MLflow would record that as a failure,
        # and Python may drop the exception (``exits.ending_in_time``).
        with mock.patch.object(ray._private.utils, "set_sigterm_handler"):
            try:
                ray.init(address=address, log_to_driver=True, **local)
            except (ConnectionError, ValueError) as error:
                if address == "local":
                    raise
                raise DataError(f"RAY_ADDRESS={address}: {error}") from error
        ray_is_down.clear()
    resources = ray.cluster_resources()
    if use_gpu and not resources.get("GPU"):
        raise DataError(
            "scaling.use_gpu=true, but the Ray cluster has no GPU: add GPU nodes or set scaling.use_gpu=false"
        )
    quiet_ray_data()
    if (mine := current()) is not None:
        attach(mine)
    return resources


def ray_address() -> str:
    """The address of the cluster that the job joins, from RAY_ADDRESS; "local" for a Ray of its own."""
    return os.environ.get("RAY_ADDRESS") or "local"


def free_port() -> int:
    """Find a free TCP port of the loopback address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
