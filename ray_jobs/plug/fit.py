"""Trains one stage on Ray Train: stream -> TorchTrainer workers -> checkpoint files in the run directory."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
from numpy.typing import NDArray
from pyarrow.fs import FileSystem
from ray.data import ExecutionOptions, ExecutionResources
from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from pdetr3d.config import Config
from pdetr3d.config import ScalingConfig as ScalingSection
from pdetr3d.data.storage.files import atomic_path
from pdetr3d.pipeline.training import Training, crop_batches, started
from pdetr3d.tracking.runs import MetricLogger
from pdetr3d.training.checkpoint import FILE
from pdetr3d.training.flow import batch_bytes, steps_per_task, stream_bytes
from pdetr3d.training.loop import train
from pdetr3d.training.out_of_memory import OutOfMemoryError, advice, is_out_of_memory
from pdetr3d.training.plan import BatchLoader, Plan, milestones
from pdetr3d.training.torch_loader import PlannedBatches, torch_batches
from ray_jobs.plug.context import STATS, RayContext, set_threads
from ray_jobs.plug.early_stop import Watcher
from ray_jobs.plug.lanes import run_lanes
from ray_jobs.plug.resume import checkpoint_uri, forget_rays_record, resume_point
from ray_jobs.plug.save_requests import training
from ray_jobs.plug.stream import quiet_ray_data, train_stream
from ray_jobs.terminal.console import current, say
from ray_jobs.terminal.log_files import warnings_to_stdout
from ray_jobs.terminal.phases import PHASES

# How often the start of the workers may fail on a cluster. A start fails after a minute without machines, so a training
# waits up to an hour for spot machines. A Ray on this machine alone gets no more; there scaling.max_failures applies.
STARTS_ON_A_CLUSTER = 60
RESIZE_S = 60.0  # time between two checks whether an elastic worker group can grow


def fit(stage: Training, run_dir: Path, score: Callable[[Path], float] | None = None) -> list[Path]:
    """Train the stage, or continue its interrupted training in the same run directory.

    Args:
        stage: the training. run_dir: its run directory.
        score: gives the score of a checkpoint file; higher is better. It is called in another thread for each kept
            checkpoint while training goes on. ``optim.patience`` refers to these scores.

    Returns:
        The kept checkpoints ``run_dir/NAME/step_*.pt`` up to an early stop, oldest first. ``STATS`` beside them has Ray
        Data's statistics of the stage's stream.

    Raises:
        DataError: when the stage has begun, but has no whole checkpoint to continue from.
        FloatingPointError: when the loss or the gradients are not finite.
        OutOfMemoryError: when a worker has too little memory; the message names config keys to change.
        KeyboardInterrupt: also when another lane has shut down Ray.
    """
    things = f"{len(stage.records)} samples" if stage.crops is None else f"{len(stage.crops)} crops"
    say(f"{stage.name} begins: {stage.steps} steps of {stage.optim.batch_size}, {things}")
    storage, folder = stage_uri(stage.config, stage.identity, stage.name, run_dir)
    resume_point(folder)  # raises before any worker starts if there is no whole checkpoint to continue from
    forget_rays_record(folder)
    trainer, steps = _trainer(stage, storage, folder), milestones(stage.optim, stage.steps)

    def collect(step: int) -> Path:
        return _collect(f"{checkpoint_uri(folder, step)}/{FILE}", run_dir / stage.name / f"step_{step:07d}.pt")

    def run() -> None:
        if isinstance(failed := trainer.fit().return_value, Exception):  # type: ignore[attr-defined]
            raise failed  # an error that every restart would meet again

    with training(folder), PHASES.of("train"):
        if score is None:
            run_lanes([run])  # in a thread, for the reason that ``run_lanes`` gives
            files = [collect(step) for step in steps]
        else:
            watcher = Watcher(folder, steps, collect, score, stage.optim.patience)
            watcher.run_beside(run)
            files = watcher.files
    if (console := current()) is not None:
        console.ended(stage.name)
    if stage.streamed:
        _collect(f"{folder}/{STATS}", run_dir / stage.name / STATS)
    return files


def _trainer(stage: Training, storage: str, folder: str) -> TorchTrainer:
    """Ray Train's trainer of the stage. ``storage``, ``folder``: of ``stage_uri``."""
    records, plan, scaling = ray.put(stage.records), stage.plan, stage.config.scaling
    loader = stage.loader
    small = replace(stage, records=[], crops=None)  # Ray copies it with the functions below

    def source(workers: int) -> ray.data.Dataset:  # called in the controller's process, at every (re)start of workers
        quiet_ray_data()
        point = resume_point(folder)
        done, steps = 0 if point is None else point.step, _task_steps(small, loader, workers)
        return train_stream(ray.get(records), plan, loader, workers, done, scaling.data_cpus, steps)

    return (TorchTrainer if has_state_api() else LocalTrainer)(
        _worker,  # type: ignore[arg-type]  # Ray Train v2 hands on what it returns
        torch_config=TorchConfig(timeout_s=int(scaling.collective_timeout_s)),
        train_loop_config=_loop_config(stage, folder) | {"records": records, "loader": loader},
        scaling_config=ScalingConfig(
            num_workers=scaling.workers,  # type: ignore[arg-type]  # Ray Train v2's, typed as v1's
            elastic_resize_monitor_interval_s=RESIZE_S,  # type: ignore[call-arg]
            use_gpu=scaling.use_gpu,
            resources_per_worker={"CPU": scaling.cpus_per_worker}
            | ({"GPU": scaling.gpus_per_worker} if scaling.use_gpu else {}),
        ),
        run_config=RunConfig(
            name=stage.name,
            storage_path=storage,
            failure_config=FailureConfig(
                max_failures=scaling.max_failures,
                controller_failure_limit=starts_allowed(scaling),  # type: ignore[call-arg]  # v2's, typed as v1's
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=None),
        ),
        datasets={"train": placeholder} if stage.streamed else None,
        dataset_config=PlannedData(source, partial(_batch_bytes, small, loader)),
    )


def stage_uri(config: Config, identity: str, name: str, run_dir: Path) -> tuple[str, str]:
    """Ray Train's storage path of a run, and the URI of a stage's folder in it.

    Args:
        config, identity: of the run. name: of the stage. run_dir: of the run.
    """
    shared = config.storage.path  # other runs write there, too; Ray Train would resume a stage with an equal name
    storage = f"{shared.rstrip('/')}/{identity}" if shared else str((run_dir / "ray").resolve())
    return storage, f"{storage}/{name}" if "://" in storage else (Path(storage).absolute() / name).as_uri()


class PlannedData(DataConfig):
    """Gives each worker its stream of the plan. The number of workers may differ after each (re)start.

    Args:
        source: number of workers -> the dataset. local_bytes: number of workers -> bytes of one worker's batch.
    """

    def __init__(self, source: Callable[[int], ray.data.Dataset], local_bytes: Callable[[int], int]) -> None:
        super().__init__()
        self.source, self.local_bytes = source, local_bytes

    def configure(self, datasets: dict[str, Any], world_size: int, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """Implements Ray's method. ``datasets`` has a placeholder, made before the number of workers is known."""
        options = DataConfig(execution_options=stream_options(world_size, self.local_bytes(world_size)))
        return options.configure({"train": self.source(world_size)}, world_size, *args, **kwargs)


class LocalTrainer(TorchTrainer):
    """A trainer without Ray's process that checks whether the controller lives. That process needs a dashboard.

    It is for a Ray of this run alone, which has no dashboard, and whose placement groups end with it.
    """

    def _create_default_callbacks(self) -> list[Any]:
        found = super()._create_default_callbacks()  # type: ignore[misc]  # v2's, typed as v1's
        return [callback for callback in found if not isinstance(callback, PlacementGroupCleanerCallback)]


def has_state_api() -> bool:
    """Whether Ray has a dashboard: a cluster has one, a local Ray if ``launch.init_ray`` started one."""
    return os.environ.get("RAY_ADDRESS", "local") != "local" or "RAY_API_SERVER_ADDRESS" in os.environ


def starts_allowed(scaling: ScalingSection) -> int:
    """The number of times that the start of the workers may fail."""
    alone = os.environ.get("RAY_ADDRESS", "local") == "local"
    return scaling.max_failures if alone else max(scaling.max_failures, STARTS_ON_A_CLUSTER)


def _task_steps(stage: Training, loader: BatchLoader, workers: int) -> int:
    """The number of steps that a read task loads on this cluster; see ``flow.steps_per_task``."""
    scaling = stage.config.scaling
    cpus = ray.cluster_resources().get("CPU", 0.0) - workers * scaling.cpus_per_worker
    return steps_per_task(_batch_bytes(stage, loader, workers), workers, cpus / scaling.data_cpus)


def _batch_bytes(stage: Training, loader: BatchLoader, workers: int) -> int:
    samples = stage.optim.batch_size // workers
    return batch_bytes(stage.config.data, samples, loader.cameras, 1 + loader.weak_view)


def stream_options(workers: int, local_batch_bytes: int) -> ExecutionOptions:
    """Ray Data's options for a training stage's stream.

    Args:
        workers: number of workers. local_batch_bytes: bytes of one worker's batch.
    """
    limits = ExecutionResources(object_store_memory=stream_bytes(workers, local_batch_bytes))
    return ExecutionOptions(preserve_order=True, resource_limits=limits)


def _loop_config(stage: Training, folder: str) -> dict[str, Any]:
    return {
        "name": stage.name,
        "asked": time.time(),
        "kind": stage.kind,
        "config": stage.config.to_json(),
        "prior": np.asarray(stage.prior_size_m).tolist(),
        "plan": vars(stage.plan),
        "choices": stage.choices,
        "tracking": stage.tracking,
        "folder": folder,
        # The driver reads the weights, because workers may not see the files.
        "weights": {part: ray.put(state) for part, state in stage.weights().items()},
        "crops": None if stage.crops is None else ray.put(stage.crops),
        "streamed": stage.streamed,
    }


def placeholder() -> ray.data.Dataset:
    """A dataset for Ray Train's constructor; ``PlannedData`` replaces it when the number of workers is known."""
    quiet_ray_data()
    return ray.data.range(1)


def _worker(loop: dict[str, Any]) -> Exception | None:
    """Run a training worker. It returns None, or an error that all ranks have and that every restart would meet."""
    try:
        _train(loop)
    except FloatingPointError as error:
        return error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        config, context = Config.from_json(loop["config"]), ray.train.get_context()
        optim = config.teacher.optim if loop["kind"] == "teacher" else config.optim
        rank, world_size = context.get_world_rank(), context.get_world_size()
        said = advice(error, loop["kind"], optim, world_size, ray.train.torch.get_device())
        raise OutOfMemoryError(f"rank {rank} of {world_size}: {said}") from error
    return None


def _train(loop: dict[str, Any]) -> None:
    config = Config.from_json(loop["config"])
    warnings_to_stdout()
    set_threads(config.scaling.threads_per_worker)
    weights = {part: ray.get(state) for part, state in loop["weights"].items()}
    task = started(loop["kind"], config, np.asarray(loop["prior"], np.float32), loop["choices"], weights)
    plan = Plan(**loop["plan"])
    first = ray.train.get_context().get_world_rank() == 0
    logger = MetricLogger(*loop["tracking"]) if first and loop["tracking"] else None

    def load_here(rank: int, world_size: int, first: int) -> Iterator[dict[str, NDArray]]:
        if loop["crops"] is not None:
            return crop_batches(ray.get(loop["crops"]), plan, config, rank, world_size, first)
        batches = PlannedBatches(ray.get(loop["records"]), plan, loop["loader"], rank, world_size, first)
        return torch_batches(batches, config.scaling.loader_processes)

    with tempfile.TemporaryDirectory(prefix="pdetr3d_") as scratch:
        mine = None if loop["streamed"] else load_here
        stall_s, asked = config.scaling.stall_s, loop["asked"]
        context = RayContext(plan, Path(scratch), loop["folder"], logger, loop["name"], mine, stall_s, asked)
        train(task, context, plan.steps, loop["config"], Path(scratch))
        context.finish()
    if logger is not None:
        logger.flush()


def _collect(uri: str, target: Path) -> Path:
    """Copy a file from the run's storage to ``target``, atomically."""
    filesystem, path = FileSystem.from_uri(uri)
    with filesystem.open_input_stream(path) as source, atomic_path(target) as temporary:
        with temporary.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return target
