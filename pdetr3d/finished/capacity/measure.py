"""Measures the costs of a preset's samples, models and checkpoints on this machine, by the code that training runs.

The stages are "teacher", "pseudo_labels" (the teacher predicts) and "student" (the arm ``ours``).
"""

from __future__ import annotations

import os
import pickle
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdetr3d.config import Config
from pdetr3d.data.augmentation.gt_sampling import database_of
from pdetr3d.data.index.index import FILE as INDEX
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import build_manifest, prior_size_m, training_records
from pdetr3d.data.loading.load import load_sample
from pdetr3d.data.loading.record_list import Records
from pdetr3d.finished.capacity.costs import Measurement, StageCost, depends_on
from pdetr3d.schema import DataError, SampleRecord, SweepRecord
from pdetr3d.training import checkpoint
from pdetr3d.training.build import Task, build
from pdetr3d.training.ema import averaged
from pdetr3d.training.flow import PREDICT_BATCH
from pdetr3d.training.model_size import measure as parts_of
from pdetr3d.training.optim import make_optimizer
from pdetr3d.training.plan import BatchLoader

SAMPLES, ROUNDS = 8, 5  # number of samples measured at most; number of rounds whose median is taken
SWEEP_BYTES = 140  # of a sweep in a record, besides its path: matrix, time, offset of the path
BACKWARD = 2  # FLOPs of a backward pass in forward passes: gradients of the inputs, and of the weights


def measure(config: Config) -> Measurement:
    """Measure the costs of the preset's stages, on samples spread evenly over the train split of ``data.dataroot``.

    For each sweep that a sample lacks of ``data.num_sweeps``, the keyframe is read again.

    Raises:
        DataError: without ``data.dataroot``, with ``data.packed``, or when the data cannot be read.
    """
    if not config.data.dataroot or config.data.packed:
        raise DataError(
            f"pdetr3d plan --measure reads the files of a dataset: name it by data.dataroot (now "
            f"{config.data.dataroot!r}), leave data.packed empty; pdetr3d simulate writes one"
        )
    with tempfile.TemporaryDirectory(prefix="pdetr3d_") as name:
        every = _records(config, Path(name))
        found = every[:: max(1, len(every) // SAMPLES)][:SAMPLES]
        records = [with_all_sweeps(record, config.data.num_sweeps) for record in found]
        stages = _stages(config, records, Path(name), record_bytes(every, config.data.num_sweeps))
    stand_ins = [max(0, config.data.num_sweeps - 1 - len(record.sweeps)) for record in found]
    return Measurement(
        preset=config.preset,
        depends_on=depends_on(config),
        train_samples=len(every),
        measured_samples=len(records),
        sweeps=config.data.num_sweeps,
        stand_in_sweeps=float(np.mean(stand_ins)),
        cpu=_cpu_name(),
        cores=os.cpu_count() or 1,
        load_average=os.getloadavg()[0],
        stages=stages,
    )


def with_all_sweeps(record: SampleRecord, num_sweeps: int) -> SampleRecord:
    """The record with ``num_sweeps - 1`` earlier sweeps: its own, and the keyframe's file for the missing ones."""
    sweeps = record.sweeps[: num_sweeps - 1]
    stand_in = SweepRecord(record.lidar_path, np.eye(4), 0.0)
    return replace(record, sweeps=sweeps + (stand_in,) * (num_sweeps - 1 - len(sweeps)))


def record_bytes(records: Records, num_sweeps: int) -> float:
    """The mean size of a sample's row in the pickle that is sent to the workers, as if no sample lacked a sweep."""
    empty = len(pickle.dumps(records.select(np.zeros(0, np.int64)), protocol=5))
    whole = len(pickle.dumps(records, protocol=5)) - empty
    root = len(f"{records.table.dataroot}/")
    for record in records:
        absent = max(0, num_sweeps - 1 - len(record.sweeps))
        whole += absent * (len(record.lidar_path) - root + SWEEP_BYTES)
    return whole / len(records)


def disk_bytes(record: SampleRecord, num_sweeps: int, cameras: bool) -> int:
    """Bytes of the files that loading the record reads."""
    files = [record.lidar_path, *(sweep.path for sweep in record.sweeps[: num_sweeps - 1])]
    files += [camera.path for camera in record.cameras if camera is not None] if cameras else []
    return sum(os.path.getsize(file) for file in files)


def _records(config: Config, folder: Path) -> Records:
    """All train samples with all their boxes and clicks."""
    index = Index.open(build_index(Path(config.data.dataroot), config.data.version, folder / INDEX, config.data))
    label = config.label.everywhere
    return training_records(index, build_manifest(index, config.data.train_split, label, folder / "manifest"))


def _stages(config: Config, records: list[SampleRecord], folder: Path, bytes_of_record: float) -> dict[str, StageCost]:
    prior, workers = prior_size_m(records, classes=config.classes)[0], config.scaling.most_workers
    teacher, student = build("teacher", config, prior, guidance=False), build("student", config, prior)
    pasting = student.loader.for_records(records)
    if config.student.gt_sampling:
        pasting = replace(pasting, gt_database=database_of(folder / "objects", records, config), gt_until=1)
    predict = BatchLoader(config, "predict", cameras=config.teacher.cameras)
    forward = {stage: {part.name: part.flops for part in parts_of(stage, config)} for stage in ("teacher", "student")}
    parameters = sum(p.numel() for p in teacher.model.parameters())
    return {
        "teacher": StageCost(
            **sample_cost(teacher.loader, records, config.teacher.optim.batch_size // workers),
            record_bytes=bytes_of_record,
            **model_cost(teacher, config, folder),
            flops=training_flops("teacher", config, forward["teacher"]),
        ),
        "pseudo_labels": StageCost(
            **sample_cost(predict, records, PREDICT_BATCH),
            record_bytes=bytes_of_record,
            parameters=parameters,
            flops=sum(forward["teacher"].values()),
        ),
        "student": StageCost(
            **sample_cost(pasting, records, config.optim.batch_size // workers),
            record_bytes=bytes_of_record,
            **model_cost(student, config, folder),
            flops=training_flops("student", config, forward["student"]),
        ),
    }


def training_flops(stage: str, config: Config, forward: dict[str, int]) -> float:
    """The FLOPs of one sample's training step: a forward pass, and BACKWARD times as many for the backward pass.

    ``model.checkpoint_activations`` adds another forward pass, which is an upper bound: not every part is recomputed. A
    guided student also passes the weak view through all parts but the heads, without gradients.

    Args:
        stage: "teacher" or "student". forward: FLOPs of a forward pass by part.
    """
    whole = sum(forward.values())
    flops = (1 + BACKWARD + config.model.checkpoint_activations) * whole
    if stage == "student" and config.student.guidance != "none":
        flops += whole - forward["heads"]
    return float(flops)


def sample_cost(loader: BatchLoader, records: Sequence[SampleRecord], local_batch: int) -> dict[str, Any]:
    """The fields ``cpu_s``, ``disk_bytes``, ``batch_bytes`` of StageCost, for batches of ``local_batch`` samples."""
    data, cameras = loader.config.data, loader.cameras
    batch = [records[i % len(records)] for i in range(-(-len(records) // local_batch) * local_batch)]
    groups = [batch[i : i + local_batch] for i in range(0, len(batch), local_batch)]
    arrays = [loader(group, [0] * local_batch, 0) for group in groups]  # now the system has cached the files
    points = cpu_s(lambda: [load_sample(record, data, cameras=False) for record in batch]) / len(batch)
    cpu = {"points": points}
    if cameras:
        read = cpu_s(lambda: [load_sample(record, data, cameras=True) for record in batch]) / len(batch)
        cpu["images"] = max(0.0, read - points)
    whole = cpu_s(lambda: [loader(group, [0] * local_batch, 0) for group in groups]) / len(batch)
    cpu["augmentation, collation"] = max(0.0, whole - sum(cpu.values()))
    return {
        "cpu_s": cpu,
        "disk_bytes": sum(disk_bytes(record, data.num_sweeps, cameras) for record in records) / len(records),
        "batch_bytes": sum(a.nbytes for one in arrays for a in one.values()) / len(batch),
    }


def cpu_s(body: Callable[[], object]) -> float:
    """The median CPU seconds of ROUNDS calls, over all threads of this process; waiting does not count."""
    taken = []
    for _ in range(ROUNDS):
        began = time.process_time()
        body()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def model_cost(task: Task, config: Config, folder: Path) -> dict[str, Any]:
    """The fields ``parameters``, ``gradient_bytes``, ``checkpoint_bytes``, ``checkpoint_s`` of StageCost."""
    optimizer = make_optimizer(task.model, task.optim)
    trained = [p for p in task.model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # the first step creates the optimizer's state, which a checkpoint contains
    average = averaged(task.model, task.optim.ema_decay) if task.optim.ema_decay else None
    began = time.perf_counter()
    file = checkpoint.save(folder / "checkpoint", task.model, optimizer, 1, config.to_json(), None, average)
    return {
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "gradient_bytes": sum(p.grad.nbytes for p in trained if p.grad is not None),
        "checkpoint_bytes": file.stat().st_size,
        "checkpoint_s": time.perf_counter() - began,
    }


def _cpu_name() -> str:
    """The processor's name as Linux gives it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
