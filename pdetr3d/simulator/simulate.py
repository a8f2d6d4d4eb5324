"""Writes the simulated world as a nuScenes v1.0 dataset, by several processes, deterministic by seed."""

from __future__ import annotations

import fcntl
import glob
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from pdetr3d.config import SimConfig
from pdetr3d.progress import tracked
from pdetr3d.schema import LIDAR_TOP, DataError
from pdetr3d.simulator import constants as const
from pdetr3d.simulator.scene import SceneJob, simulate_scene
from pdetr3d.simulator.tables import MAP_FILE, SCENE_TABLES, Row, world_tables
from pdetr3d.tables.tokens import token

STAMP = "simulated_world.json"  # the file under the dataroot that identifies the world


def simulate(dataroot: Path, config: SimConfig, version: str = "v1.0-sim") -> None:
    """Write the simulated world under ``dataroot`` with the splits sim_train, sim_select and sim_val.

    The files appear all at once: a directory beside ``dataroot`` is renamed at the end. If the world exists already, it
    is kept. The same config gives the same bytes, whatever ``processes`` is.

    Args:
        version: name of the tables' folder.

    Raises:
        DataError: when ``dataroot`` holds anything else than this world.
    """
    dataroot = Path(dataroot)
    stamp = {"digest": world_digest(config, version), "world": _identity(config, version)}
    if _already_there(dataroot, stamp):
        return
    dataroot.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(dataroot)
    with _partial(dataroot) as partial:
        write_world(partial, config, version)
        (partial / STAMP).write_text(json.dumps(stamp, indent=1))
        try:
            os.replace(partial, dataroot)
        except OSError:
            # Another process may have finished the same world meanwhile.
            if not _already_there(dataroot, stamp):
                raise


@contextmanager
def _partial(dataroot: Path) -> Iterator[Path]:
    """A directory beside ``dataroot``, locked while this process lives; removed at the end unless renamed."""
    partial = Path(tempfile.mkdtemp(prefix=f".{dataroot.name}.partial-", dir=dataroot.parent))
    handle = os.open(partial, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks keeps leftovers
            fcntl.flock(handle, fcntl.LOCK_EX)
        partial.chmod(0o755)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(handle)


def _remove_leftovers(dataroot: Path) -> None:
    """Remove partial directories whose writer was killed: the system has then released the writer's lock."""
    for partial in dataroot.parent.glob(f".{glob.escape(dataroot.name)}.partial-*"):
        try:
            handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # removed meanwhile, or another user's
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if any(partial.iterdir()):  # an empty directory may be about to be locked
                shutil.rmtree(partial, ignore_errors=True)
        except OSError:  # its writer is alive
            continue
        finally:
            os.close(handle)


def world_digest(config: SimConfig, version: str = "v1.0-sim") -> str:
    """The digest of everything that determines the files: the config without ``processes``, and WORLD_VERSION."""
    return token(json.dumps(_identity(config, version), sort_keys=True))


def _identity(config: SimConfig, version: str) -> Row:
    return {
        "world_version": const.WORLD_VERSION,
        "version": version,
        **config.model_dump(mode="json", exclude={"processes"}),
    }


def _already_there(dataroot: Path, stamp: Row) -> bool:
    if not dataroot.exists() or (dataroot.is_dir() and not any(dataroot.iterdir())):
        return False
    try:
        found = json.loads((dataroot / STAMP).read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"data.dataroot {dataroot} exists but holds no simulated world ({STAMP}: {error}); "
            "name an empty or new directory, or remove this one"
        ) from None
    if found.get("digest") == stamp["digest"]:
        return True
    other, wanted = found.get("world", {}), stamp["world"]
    differing = ", ".join(
        f"{k}: {other.get(k)} there, {wanted[k]} asked for" for k in wanted if other.get(k) != wanted[k]
    )
    raise DataError(
        f"data.dataroot {dataroot} holds another simulated world ({differing}); "
        "name another directory or remove this one"
    )


def _jobs(config: SimConfig) -> dict[str, list[SceneJob]]:
    jobs: dict[str, list[SceneJob]] = {}
    place = 0
    for number, (split, count) in enumerate(
        (("sim_train", config.scenes), ("sim_select", config.select_scenes), ("sim_val", config.val_scenes))
    ):
        jobs[split] = [SceneJob(f"{split.replace('_', '-')}-{i:04d}", number, i, place + i) for i in range(count)]
        place += count
    return jobs


def write_world(root: Path, config: SimConfig, version: str) -> None:
    """Write the files of the whole world to the empty folder ``root``."""
    for folder in ("maps", version, *(f"samples/{c}" for c in (LIDAR_TOP, *const.CAMERA_RIG)), f"sweeps/{LIDAR_TOP}"):
        (root / folder).mkdir(parents=True)
    # The devkit requires a map, which nothing reads: this one is drivable everywhere.
    cv2.imwrite(str(root / MAP_FILE), np.full((64, 64), 255, np.uint8))
    splits = _jobs(config)
    scenes = _run([job for jobs in splits.values() for job in jobs], root, config)
    tables = world_tables(config)
    for name in SCENE_TABLES:
        tables[name] = [row for scene in scenes for row in scene[name]]
    for name, rows in tables.items():
        (root / version / f"{name}.json").write_text(json.dumps(rows))
    (root / version / "splits.json").write_text(json.dumps({s: [j.name for j in jobs] for s, jobs in splits.items()}))


def _run(jobs: list[SceneJob], root: Path, config: SimConfig) -> list[dict[str, list[Row]]]:
    """Simulate all scenes, in this process or in several; results in the order of ``jobs``."""
    processes = min(config.processes or os.cpu_count() or 1, len(jobs))
    results: dict[SceneJob, dict[str, list[Row]]] = {}
    for job, tables in tracked(_each(jobs, root, config, processes), "simulating", len(jobs), "scenes"):
        results[job] = tables
    return [results[job] for job in jobs]


def _each(
    jobs: list[SceneJob], root: Path, config: SimConfig, processes: int
) -> Iterator[tuple[SceneJob, dict[str, list[Row]]]]:
    if processes == 1:
        with _one_thread():
            for job in jobs:
                yield job, simulate_scene(root, config, job)
        return
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(_worker, root, config, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except (KeyboardInterrupt, GeneratorExit):  # the scenes in progress are abandoned
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _worker(root: Path, config: SimConfig, job: SceneJob) -> dict[str, list[Row]]:
    with _one_thread():
        return simulate_scene(root, config, job)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread in this process, since several processes work in parallel."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(threads)
