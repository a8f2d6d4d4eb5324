"""Compares this project with mmdetection3d on the real keyframe: steps and inference of CenterPoint, and loading.

Both models have pillars of 0.2 m, the same range, backbone, neck and tasks. They get the same points and boxes, in
batches of 1, on two threads. Their steps alternate, so that a slow moment of the machine hits both. It needs
PDETR3D_REAL_DATA, and PDETR3D_PEER, the Python that ``tools/peer.sh`` makes.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.answering import answer
from benchmarks.bench_full_size import KEYFRAME, STUDENT, real_batch
from benchmarks.bench_loaders import CORES, compare_keyframe
from benchmarks.costs import SIZE_PX, alone
from benchmarks.goals import Goal, hold
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import build_manifest, training_records
from pdetr3d.finished.deploy.maps import decode
from pdetr3d.finished.deploy.torchscript import ExportedStudent, trace
from pdetr3d.models.student import Student
from pdetr3d.presets import load
from pdetr3d.schema import CAMERAS
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import autocast, train_step
from pdetr3d.training.optim import make_optimizer
from pdetr3d.training.plan import Plan

ROUNDS = 7  # the first is not counted
# The peer's seconds by ours. bf16 of ours against the peer's fp32, where the CPU calculates in bf16.
GOALS = {"fp32": 1.2, "bf16": 2.0}
LOADING = 4.0  # samples/s of ours by the peer's
NATIVE_BF16 = {"avx512_bf16", "amx_bf16"}
CLEAN = ["student.guidance=none", "student.gt_sampling=[]", "optim.compile=false"]


def ours(amp: str, sample: str) -> None:
    """Answer the lines of stdin; writes points and boxes for the peer to the file ``sample`` first."""
    torch.set_num_threads(2)
    folder = Path(sample).parent
    task, batch = real_batch("nuscenes-pillar", STUDENT, [*KEYFRAME, *CLEAN, f"optim.amp={amp}"], folder / amp)
    boxes = torch.cat([batch.box, batch.velocity.nan_to_num()], -1)[0][batch.box_valid[0]]
    labels = batch.box_label[0][batch.box_valid[0]]
    np.savez(sample, points=batch.points.numpy(), boxes=boxes.numpy(), labels=labels.numpy())
    context = LocalContext([], Plan(1, 1, 1, 0), task.loader, folder / amp, "cpu")
    model, optimizer = task.model, make_optimizer(task.model, task.optim)
    assert isinstance(model, Student)

    def train() -> None:
        train_step(model.train(), optimizer, task, batch, context, 1e-6)

    @torch.no_grad()
    def infer() -> None:
        model.eval()
        with autocast(task.optim.amp, torch.device("cpu")):
            output = model(batch)
        task.predict(output, batch)

    @functools.cache
    def traced() -> torch.jit.ScriptModule:
        return trace(ExportedStudent(model).eval().requires_grad_(False), batch.points)

    @torch.no_grad()
    def exported() -> None:  # TorchScript calculates in fp32
        decode(model.config, *traced()(batch.points))

    acts = {"train": train, "infer": infer, "exported": exported}
    answer(acts, sum(parameter.numel() for parameter in model.parameters()))


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that answers, until the end of the body."""
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def asked(running: subprocess.Popen[str], act: str) -> float:
    """The seconds of a step."""
    assert running.stdin is not None and running.stdout is not None
    running.stdin.write(f"{act}\n")
    running.stdin.flush()
    return float(running.stdout.readline())


def parameters(running: subprocess.Popen[str]) -> int:
    """The number of parameters, which the process prints when it is ready."""
    assert running.stdout is not None
    for line in running.stdout:
        if line.strip().isdigit():
            return int(line)
    raise AssertionError("the process ended before it was ready")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("amp", ["fp32", "bf16"])
def test_print_our_speed_beside_mmdetection3ds(amp: str) -> None:
    """Print a table of the steps, and the goal of training."""
    peer = peer_python()
    table = Table("step", "mmdetection3d [s]", "ours [s]", "ratio", title=f"CenterPoint, {amp} of ours")
    found = dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        sample = f"{folder}/sample.npz"
        with process(sys.executable, "-m", "benchmarks.bench_peer", amp, sample) as mine:
            sizes = [parameters(mine)]
            with process(peer, "-m", "benchmarks.peer_model", sample) as theirs:
                sizes.insert(0, parameters(theirs))
                for act in ("train", "infer"):
                    rounds = [(asked(theirs, act), asked(mine, act)) for _ in range(ROUNDS)][1:]
                    peers, own = (statistics.median(side) for side in zip(*rounds, strict=True))
                    found[act] = statistics.median(one / other for one, other in rounds)
                    table.add_row(act, f"{peers:.3f}", f"{own:.3f}", f"{found[act]:.2f}")
    table.add_row("parameters", *map(str, sizes), f"{sizes[0] / sizes[1]:.3f}")
    Console(width=100).print(table)
    assert 0.95 < sizes[0] / sizes[1] < 1.05, "the two models are not of one size"
    if amp == "fp32" or NATIVE_BF16 & set(Path("/proc/cpuinfo").read_text().split()):
        hold(Goal(f"training steps of mmdetection3d by ours, {amp}", found["train"], GOALS[amp]))


@pytest.mark.timeout(600)
def test_print_our_loading_beside_mmdetection3ds(tmp_path: Path) -> None:
    """Print the samples/s of the keyframe with its six images, loaded by both, and the goal."""
    peer = peer_python()
    info = tmp_path / "keyframe.json"
    info.write_text(json.dumps(peer_info(tmp_path)))
    theirs = {}
    for processes in range(1, CORES + 1):
        command = [peer, "-m", "benchmarks.peer_loading", str(info), str(processes)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        theirs[processes] = float(output.splitlines()[-1])
    mine = alone(compare_keyframe, "teacher", *SIZE_PX, tmp_path)
    table = Table("loading", "samples/s", title=f"LiDAR and six images of {SIZE_PX[0]} x {SIZE_PX[1]}, {CORES} cores")
    for processes, speed in theirs.items():
        table.add_row(f"mmdetection3d, {processes} processes", f"{speed:.1f}")
    for way, speed in mine.items():
        table.add_row(f"ours, {way}", f"{speed:.1f}")
    Console(width=100).print(table)
    hold(Goal("loading, Ray Data by mmdetection3d", mine["ray"] / max(theirs.values()), LOADING))


def peer_info(folder: Path) -> dict[str, Any]:
    """The keyframe as mmdetection3d's info files say it, without sweeps, which it has none."""
    config = load("nuscenes-pillar", KEYFRAME)
    index = Index.open(build_index(Path(os.environ["PDETR3D_REAL_DATA"]), "v1.0-mini", folder / "info.arrow"))
    record = training_records(index, build_manifest(index, "mini_train", config.label, folder / "info_manifest"))[0]
    # Where the images look is not computed with, so that the whole projection may stand for one of its parts.
    images = {
        name: {"img_path": camera.path, "cam2img": np.eye(4).tolist(), "lidar2cam": camera.lidar2img.tolist()}
        for name, camera in zip(CAMERAS, record.cameras, strict=True)
        if camera is not None
    }
    return {
        "lidar_points": {"lidar_path": record.lidar_path, "num_pts_feats": 5},
        "timestamp": 0.0,
        "lidar_sweeps": [],
        "images": images,
        "size_px": SIZE_PX,
    }


def peer_python() -> str:
    """The Python of ``tools/peer.sh``; skips the benchmark without it or without the keyframe."""
    peer = os.environ.get("PDETR3D_PEER")
    if not peer or not os.environ.get("PDETR3D_REAL_DATA"):
        pytest.skip("PDETR3D_PEER (python of tools/peer.sh) and PDETR3D_REAL_DATA (nuScenes v1.0-mini) must be set")
    return peer


if __name__ == "__main__":
    ours(sys.argv[1], sys.argv[2])
