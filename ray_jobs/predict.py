"""The job that predicts large sets of samples with a trained student: ``pdetr3d predict-blocks``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy

from pdetr3d.data.storage.files import write_json
from pdetr3d.inference.blocks import SUMMARY, Blocks, identity, open_folder
from pdetr3d.inference.frames import Asked
from pdetr3d.inference.predict import Counts
from pdetr3d.inference.student import StudentPredictor, student_file
from pdetr3d.schema import DataError
from pdetr3d.training.lease import hold, release
from ray_jobs.start.launch import init_ray

PROGRESS_S = 2.0  # least time between two lines of progress


@dataclass(frozen=True)
class Actors:
    """The actors that predict.

    Attributes:
        number: of actors. cpus: logical CPUs of each. threads: of torch in each. gpu: whether each has its own GPU.
    """

    number: int
    cpus: float
    threads: int
    gpu: bool


class BlockPredictor:
    """An actor that holds the student and predicts one block per call. It returns the block's ``Counts`` as a row.

    Args:
        file: the student's checkpoint or export. blocks: reference of the ``Blocks``. min_score: see ``run``.
        device: "cpu" or "cuda". threads: of torch.
    """

    def __init__(self, file: Path, blocks: ray.ObjectRef, min_score: float, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.student = StudentPredictor.load(file, device=torch.device(device))
        self.blocks: Blocks = ray.get(blocks)
        self.min_score = min_score

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return asdict(self.blocks.predict(int(row["block"]), self.student, self.min_score))


def run(model: Path, arm: str, asked: Asked, out: Path, min_score: float, block_samples: int, actors: Actors) -> None:
    """Predict all blocks that have no file yet, then write and print the summary.

    Args:
        model: run directory, export or checkpoint. arm: of the student, if ``model`` is a run directory.
        asked: the input files. out: folder of the blocks' files. min_score: boxes below it are dropped.
        block_samples: samples per block. actors: that predict.

    Raises:
        DataError: for bad input; before Ray starts if the input files alone show it.
    """
    file = student_file(model, arm).resolve()
    num_sweeps = StudentPredictor.load(file, device=torch.device("cpu")).config.data.num_sweeps
    frames, folder = asked.frames(num_sweeps), out.resolve()
    open_folder(folder, identity(file, frames, {"block_samples": block_samples, "min_score": min_score}))
    with ExitStack() as stack:
        hold(folder, option="--out")
        stack.callback(release, folder)
        blocks = Blocks(folder, frames, block_samples)
        todo = blocks.todo()
        if len(todo) < blocks.count:
            print(f"{folder}: {blocks.count - len(todo)} of {blocks.count} blocks are there already", flush=True)
        if todo:
            init_ray(actors.gpu)
            _predict(blocks, todo, file, min_score, actors)
        counts = blocks.total()
        if counts.samples != len(frames):
            raise DataError(
                f"{folder}: its blocks hold {counts.samples} samples of {len(frames)}; remove it, run again"
            )
        write_json(folder / SUMMARY, {**asdict(counts), "blocks": blocks.count})
    for name, value in {**counts.summary(asked, num_sweeps), "out": folder}.items():
        print(f"{name:>10} {value}", flush=True)


def _predict(blocks: Blocks, todo: list[int], file: Path, min_score: float, actors: Actors) -> None:
    """Predict the blocks ``todo`` in actors; each writes its file itself."""
    source = ray.data.from_items([{"block": block} for block in todo], override_num_blocks=len(todo))
    rows = source.map(
        BlockPredictor,  # type: ignore[arg-type]  # a class is documented, and typed as a function
        fn_constructor_args=(file, ray.put(blocks), min_score, "cuda" if actors.gpu else "cpu", actors.threads),
        compute=ActorPoolStrategy(min_size=1, max_size=actors.number),
        num_cpus=actors.cpus,
        num_gpus=1 if actors.gpu else None,
    )
    began = said = time.monotonic()
    total = sum(min(blocks.size, len(blocks.frames) - block * blocks.size) for block in todo)
    done = Counts()
    finished: Iterable[dict[str, Any]] = rows.iter_rows()
    for row in finished:
        done.merge(Counts(**row))
        now = time.monotonic()
        if now - said >= PROGRESS_S or done.samples == total:
            said, rate = now, done.samples / (now - began)
            left = (total - done.samples) / rate
            print(f"predicted {done.samples} of {total} samples, {rate:.1f} a second, {left:.0f} s left", flush=True)


if __name__ == "__main__":
    from ray_jobs.commands import main

    sys.exit(main(["predict-blocks", *sys.argv[1:]]))
