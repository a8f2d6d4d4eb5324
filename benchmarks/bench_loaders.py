"""Measures the rate of samples: Ray Data against torch's DataLoader, and plain reading of the files.

The data are those of a run with a trained teacher (PDETR3D_RUN, default runs/quickstart), and the real keyframe
(PDETR3D_REAL_DATA) many times; each benchmark prints tables, and skips without its data. The consumer does nothing, so
both loaders have all cores. The teacher's samples have six images and all sweeps, the student's all sweeps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import ray
import simplejpeg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.goals import Goal, hold
from pdetr3d.config import Config, ScalingConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import build_manifest, training_records
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.data.loading.load import one_thread, read_lidar
from pdetr3d.data.loading.record_list import Records
from pdetr3d.presets import load as load_preset
from pdetr3d.schema import SampleRecord
from pdetr3d.training import checkpoint
from pdetr3d.training.flow import batch_bytes, steps_per_task
from pdetr3d.training.plan import BatchLoader, Plan
from pdetr3d.training.torch_loader import PlannedBatches, torch_batches
from ray_jobs.plug.fit import stream_options
from ray_jobs.plug.stream import RankBatches, quiet_ray_data, train_stream
from ray_jobs.start.launch import init_ray

RUN = Path(os.environ.get("PDETR3D_RUN", "runs/quickstart"))
BATCH, LIMIT = 2, 300  # samples per batch; samples for the limit without a loader
# Ray starts its processes one by one in some seconds, and its batches come in bursts.
SECONDS = float(os.environ.get("PDETR3D_BENCH_S", "10"))  # time for warming up, and for counting
CORES = os.cpu_count() or 1
INGEST = 0.8  # goal of the teacher's samples
DATA_CPUS = ScalingConfig().data_cpus  # not the preset's, which leaves the cores to training


def run_data() -> tuple[Config, Records]:
    """The config of RUN's teacher and the samples that it was trained on; skips the benchmark without one."""
    files = sorted((RUN / "teacher").glob("step_*.pt"))
    if not files:
        pytest.skip(f"{RUN} holds no trained teacher: run `make quickstart`, or set PDETR3D_RUN")
    config = Config.from_json(checkpoint.load(files[-1])["config"])
    data = RUN / "data"
    return config, training_records(Index.open(data / "index.arrow"), LabelManifest.open(data / "manifest"))


def rate(batches: Iterator[Any]) -> tuple[float, float]:
    """(samples per second after warming up, seconds to the first batch)."""
    began = time.perf_counter()
    next(batches)
    first_s = time.perf_counter() - began
    counted(batches)
    count, passed_s = counted(batches)
    return BATCH * count / passed_s, first_s


def counted(batches: Iterator[Any]) -> tuple[int, float]:
    """The number of batches in SECONDS, and the time at which the last of them came."""
    began, count, passed_s = time.perf_counter(), 0, 0.0
    while passed_s < SECONDS:
        next(batches)
        count, passed_s = count + 1, time.perf_counter() - began
    return count, passed_s


def bare(record: SampleRecord, num_sweeps: int, size_px: tuple[int, int]) -> None:
    """Only read the loaders' files and decode images at the smallest scale not below the target."""
    for path in [record.lidar_path, *(sweep.path for sweep in record.sweeps[: num_sweeps - 1])]:
        read_lidar(Path(path))
    for camera in record.cameras:
        if camera is not None:
            shrink = max((f for f in (1, 2, 4, 8) if camera.width_px // f >= size_px[0]), default=1)
            least = {"min_width": camera.width_px // shrink, "min_height": camera.height_px // shrink}
            simplejpeg.decode_jpeg(Path(camera.path).read_bytes(), "RGB", min_factor=1, **least)


def full_decode(record: SampleRecord) -> None:
    """Decode the six images at full resolution."""
    for camera in record.cameras:
        if camera is not None:
            simplejpeg.decode_jpeg(Path(camera.path).read_bytes(), "RGB")


def cpu_s(body: Callable[[SampleRecord], object], records: Sequence[SampleRecord]) -> float:
    """CPU seconds per sample in this process."""
    one_thread()
    body(records[0])
    began = time.process_time()
    for record in records:
        body(record)
    return (time.process_time() - began) / len(records)


def bare_rate(records: Sequence[SampleRecord], config: Config) -> float:
    """Samples per second of ``bare`` with one process per core."""
    shares = [records[i::CORES] for i in range(CORES)]
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
        list(pool.map(_bare_all, shares, [config.to_json()] * CORES))  # warms up
        began = time.perf_counter()
        list(pool.map(_bare_all, shares, [config.to_json()] * CORES))
        return len(records) / (time.perf_counter() - began)


def _bare_all(records: Sequence[SampleRecord], config_json: str) -> None:
    one_thread()
    data = Config.from_json(config_json).data
    for record in records:
        bare(record, data.num_sweeps, data.image_size_px)


def ray_batches(records: Sequence[SampleRecord], plan: Plan, load: BatchLoader) -> Iterator[Any]:
    """Batches of Ray Data as a training worker gets them, through a split of one."""
    quiet_ray_data()
    size = batch_bytes(load.config.data, BATCH, load.cameras, 1 + load.weak_view)
    dataset = train_stream(records, plan, load, 1, 0, DATA_CPUS, steps_per_task(size, 1, CORES / DATA_CPUS))
    dataset.context.execution_options = stream_options(1, size)
    return RankBatches(dataset.streaming_split(1, equal=True)[0], plan, 0, 1).from_step(0)


def compare(title: str, records: Sequence[SampleRecord], load: BatchLoader) -> dict[str, float]:
    """Print a table with samples/s of Ray Data as a share of torch's best; returns the samples/s of each way."""
    config, plan = load.config, Plan(len(records), BATCH, 1_000_000, 0)  # no loader reaches the end
    mine = [records[i] for step in range(LIMIT // BATCH) for i, _ in plan.at(step, 0, 1)]
    if not load.cameras:
        mine = [replace(record, cameras=()) for record in mine]
    table = Table(
        "way", "samples/s", escape("first batch [s]"), "of bare", title=f"{title}: {len(mine)}, {CORES} cores"
    )
    limit = bare_rate(mine, config)
    table.add_row("files read and decoded, nothing else", f"{limit:.1f}", "", "1.00")
    found = {"bare": limit}
    for processes in range(1, CORES + 1):
        speed, first_s = rate(torch_batches(PlannedBatches(records, plan, load, 0, 1, 0), processes))
        found[f"torch {processes}"] = speed
        table.add_row(f"torch, {processes} processes", f"{speed:.1f}", f"{first_s:.1f}", f"{speed / limit:.2f}")
    init_ray(use_gpu=False)  # with the jobs' settings
    try:
        speed, first_s = rate(ray_batches(records, plan, load))
    finally:
        ray.shutdown()
    best, found["ray"] = max(found[f"torch {n}"] for n in range(1, CORES + 1)), speed
    table.add_row("Ray Data", f"{speed:.1f}", f"{first_s:.1f}", f"{speed / limit:.2f}")
    Console(width=100).print(table)
    print(f"Ray Data / best torch: {speed / best:.2f}")
    sample = cpu_s(lambda r: load([r], [0]), mine[:50])
    print(f"CPU per sample: {1000 * sample:.1f} ms")
    if load.cameras:
        print(f"... {sample / cpu_s(full_decode, mine[:50]):.2f} of a decode of its images at their own size")
    return found


def test_print_loaders() -> None:
    """Print the table of the run's teacher."""
    config, records = run_data()
    assert compare(f"{config.preset} teacher", records, BatchLoader(config, "teacher", cameras=True))["ray"] > 0


@pytest.mark.parametrize(
    ("kind", "width", "height"),
    [("teacher", 704, 396), ("teacher", 800, 450), ("student", 704, 396)],  # 800 x 450 is decoded, not resized
)
def test_print_loaders_of_real_keyframes(kind: str, width: int, height: int, tmp_path: Path) -> None:
    """Print the tables of the real keyframe; images of 704 x 396 have a goal."""
    if not os.environ.get("PDETR3D_REAL_DATA"):
        pytest.skip("PDETR3D_REAL_DATA is not set: name a nuScenes v1.0-mini folder to run this benchmark")
    found = compare_keyframe(kind, width, height, tmp_path)
    if (kind, width) == ("teacher", 704):
        hold(Goal("Ray Data by files read and decoded, nothing else", found["ray"] / found["bare"], INGEST))


def compare_keyframe(kind: str, width: int, height: int, folder: Path) -> dict[str, float]:
    """``compare`` of the real keyframe, whose images of 1600 x 900 are made smaller: the data of one pass.

    A sample has one sweep, and that of the student no weak view.
    """
    config = load_preset(
        "nuscenes-pillar",
        [
            f"data.image_size_px=[{width},{height}]",
            "data.num_sweeps=1",
            "label.ratio=1.0",
            "data.train_split=mini_train",
        ]
        + ["student.gt_sampling=[]", "student.guidance=none"],
    )
    index = Index.open(build_index(Path(os.environ["PDETR3D_REAL_DATA"]), "v1.0-mini", folder / "index.arrow"))
    record = training_records(index, build_manifest(index, "mini_train", config.label, folder / "manifest"))[0]
    title = f"real keyframe, {kind}, {width} x {height}"
    return compare(title, [record] * 300, BatchLoader(config, kind, cameras=kind == "teacher"))
