"""Prepares the tests' world as training input, and runs the training loop in one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pdetr3d.config import Config
from pdetr3d.data.index.index import Index, write_index
from pdetr3d.data.index.rows import INDEX_SCHEMA
from pdetr3d.data.label_manifest import prior_size_m, training_records
from pdetr3d.data.loading.record_list import Records
from pdetr3d.pipeline.observer import Observer
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.runner import LocalRunner
from pdetr3d.schema import SampleRecord
from pdetr3d.training import checkpoint
from pdetr3d.training.build import Task, build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train
from pdetr3d.training.plan import Plan
from pdetr3d.training.run_dir import Data, RunDir, prepare
from tests.model_cases import TINY, tiny_config

SMALL_DATA = ["data.num_sweeps=2", "data.image_size_px=[64,32]", "label.ratio=0.3"]


def world_arguments(dataroot: Path | str, *overrides: str) -> list[str]:
    """Overrides of the quickstart preset: tiny models on the tests' world (6 train, 2 select, 4 val samples)."""
    return [*TINY, f"data.dataroot={dataroot}", *SMALL_DATA, *overrides]


def world_config(dataroot: Path, *overrides: str) -> Config:
    """The Config of ``world_arguments``."""
    return tiny_config(f"data.dataroot={dataroot}", *SMALL_DATA, *overrides)


@dataclass(frozen=True)
class World:
    """A run directory's index and manifests, training records, and class priors of the box-labeled part."""

    run: RunDir
    data: Data
    records: Records
    prior_size_m: NDArray[np.float32]

    @property
    def boxed(self) -> list[SampleRecord]:
        """The box-labeled records."""
        return [record for record in self.records if record.role == "box"]


def open_world(dataroot: Path, folder: Path, *overrides: str) -> World:
    """Prepare ``folder`` as a run directory on ``dataroot``."""
    run = RunDir(folder, world_config(dataroot, *overrides))
    data = prepare(run)
    records = training_records(data.index, data.manifest)
    return World(run, data, records, prior_size_m(records, classes=data.index.classes)[0])


def begin_run(
    dataroot: Path, folder: Path, *overrides: str, index: Path | None = None, runner: LocalRunner | None = None
) -> Run:
    """A run of the pipeline on ``dataroot``, in this process."""
    return Run(RunDir(folder, world_config(dataroot, *overrides)), runner or LocalRunner(), Observer(), index)


def run_locally(
    kind: str, config: Config, records: list[SampleRecord], folder: Path, steps: int, context: type = LocalContext
) -> LocalContext:
    """Train in this process; returns the kept checkpoints and the logged metrics, and raises the loop's errors."""
    folder.mkdir(parents=True, exist_ok=True)
    task = build(kind, config, prior_size_m(records, classes=config.classes)[0])
    plan = Plan(len(records), task.optim.batch_size, steps, config.run.seed)
    local: LocalContext = context(records, plan, task.loader.for_records(records), folder)
    with one_thread():
        train(task, local, steps, config.to_json(), folder / "scratch")
    return local


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread, with which tiny models are faster (tenfold on a busy machine)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(file: Path) -> dict[str, torch.Tensor]:
    """The model weights of a checkpoint."""
    return checkpoint.load(file)["model"]


def task_of(kind: str, world: World) -> Task:
    """A new task of the world's config."""
    return build(kind, world.run.config, world.prior_size_m)


def poison(index: Index, tokens: set[str], file: Path) -> None:
    """Write the index with random boxes of ``tokens``: 100 m away, with other sizes, headings, speeds, point counts."""
    rng, rows = np.random.default_rng(0), index.table.to_pylist()
    for row in rows:
        if row["sample_token"] in tokens:
            n = len(row["ann_token"])
            box = np.array(row["ann_box"]).reshape(n, 7)
            box[:, :3] += 100
            box[:, 3:6] = rng.uniform(0.3, 20, (n, 3))
            box[:, 6] = rng.uniform(-3, 3, n)
            row["ann_box"], row["ann_velocity_m_s"] = box.tolist(), rng.uniform(-9, 9, (n, 2)).tolist()
            row["ann_num_lidar_pts"] = [9 * count for count in row["ann_num_lidar_pts"]]
    write_index(file, pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), index.dataroot, index.version)
