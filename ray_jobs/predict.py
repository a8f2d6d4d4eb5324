"""Predict large sets with a trained student, one output file a block: python -m ray_jobs.predict MODEL --out FOLDER ...

A killed job continues with the same command: blocks whose file is there are not predicted again. Frames, units and
the options that name what to predict: as ``pdetr3d predict --help`` says. On a cluster the model, the data and the
output folder must be on storage that all nodes see.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy

from pdetr3d.exits import guarded
from pdetr3d.inference.blocks import SUMMARY, Blocks, identity, open_folder
from pdetr3d.inference.frames import Asked
from pdetr3d.inference.predict import Counts
from pdetr3d.inference.student import StudentPredictor, student_file
from pdetr3d.schema import DataError
from pdetr3d.training.lease import hold, release
from pdetr3d.training.run_dir import write_json
from ray_jobs.start.launch import init_ray

PROGRESS_S = 2.0


class BlockPredictor:
    """Actor: holds the student, predicts one block at a time; returns the block's ``Counts`` as a row."""

    def __init__(self, file: Path, blocks: ray.ObjectRef, min_score: float, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.student = StudentPredictor.load(file, device=torch.device(device))
        self.blocks: Blocks = ray.get(blocks)
        self.min_score = min_score

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return asdict(self.blocks.predict(int(row["block"]), self.student, self.min_score))


def run(arguments: list[str] | None = None) -> None:
    """The job; DataError for bad input, before Ray starts where it can be told by then."""
    args = _parser().parse_args(arguments)
    file = student_file(args.model, args.arm).resolve()
    num_sweeps = StudentPredictor.load(file, device=torch.device("cpu")).config.data.num_sweeps
    asked = Asked(args.lidar, args.columns, args.intensity_max, args.poses, args.index, args.split)
    frames, folder = asked.frames(num_sweeps), Path(args.out).resolve()
    open_folder(folder, identity(file, frames, {"block_samples": args.block_samples, "min_score": args.min_score}))
    with ExitStack() as stack:
        hold(folder, option="--out")
        stack.callback(release, folder)
        blocks = Blocks(folder, frames, args.block_samples)
        todo = blocks.todo()
        if len(todo) < blocks.count:
            print(f"{folder}: {blocks.count - len(todo)} of {blocks.count} blocks are there already", flush=True)
        if todo:
            init_ray(args.gpu)
            _predict(blocks, todo, file, args)
        counts = blocks.total()
        if counts.samples != len(frames):
            raise DataError(
                f"{folder}: its blocks hold {counts.samples} samples of {len(frames)}; remove it, run again"
            )
        write_json(folder / SUMMARY, {**asdict(counts), "blocks": blocks.count})
    for name, value in {**counts.summary(asked, num_sweeps), "out": folder}.items():
        print(f"{name:>10} {value}", flush=True)


def _predict(blocks: Blocks, todo: list[int], file: Path, args: argparse.Namespace) -> None:
    """Predict the blocks ``todo`` in actors; each writes its file itself."""
    source = ray.data.from_items([{"block": block} for block in todo], override_num_blocks=len(todo))
    rows = source.map(
        BlockPredictor,  # type: ignore[arg-type]  # a class is documented, and typed as a function
        fn_constructor_args=(file, ray.put(blocks), args.min_score, "cuda" if args.gpu else "cpu", args.threads),
        compute=ActorPoolStrategy(min_size=1, max_size=args.actors),
        num_cpus=args.cpus,
        num_gpus=1 if args.gpu else None,
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", type=Path, help="run directory, folder that pdetr3d export wrote, or checkpoint file (.pt)")
    add("--out", required=True, type=Path, help="folder of block-NNNNNN.parquet; its parent must exist")
    add("--lidar", type=Path, nargs="+", default=[], help="folders of LiDAR files, or files")
    add("--columns", help="of .bin and .npy files, in order, e.g. x,y,z,intensity,ring")
    add("--intensity-max", type=float, default=255.0, help="full scale of the files' intensity (default 255)")
    add("--poses", type=Path, help="CSV of the files' poses")
    add("--index", type=Path, help="index file, instead of --lidar")
    add("--split", help="of the index")
    add("--arm", default="ours", help="which student of a run (default ours)")
    add("--min-score", type=float, default=0.0, help="keep boxes of this score and more")
    add("--block-samples", type=_positive, default=64, help="samples of an output file (default 64)")
    add("--actors", type=_positive, default=1, help="that predict side by side (default 1)")
    add("--cpus", type=float, default=1.0, help="logical CPUs that Ray counts for an actor (default 1)")
    add("--threads", type=_positive, default=1, help="of torch, of an actor (default 1)")
    add("--gpu", action="store_true", help="each actor on a GPU of its own")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(guarded(run))
