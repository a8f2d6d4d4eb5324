"""Measures full-size models on a GPU, rung by rung, without Ray: python -m benchmarks.gpu_ladder OUT.json

Rungs: the tests marked ``gpu``; then a training step of the full-size presets' teachers and students in bf16, with
growing batches; then preset ``headline`` with three seeds, trained and scored (``ladder_headline``). Each runs in its
own process, and its result is written to OUT.json when it ends. The command begins no rung that might end after
``--minutes``, and stops a headline then; it ends with exit code 75, and the same command continues, so it fits machines
that are lent for short times. It downloads nothing; batches are synthetic, of the size of a nuScenes keyframe with ten
sweeps; the headline's world is simulated. ``--toy`` runs small steps on a CPU, which tests the ladder but not speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import ladder_headline
from pdetr3d import presets
from pdetr3d.batch import Batch
from pdetr3d.config import Config
from pdetr3d.data.storage.files import write_json
from pdetr3d.finished.capacity.measure import training_flops
from pdetr3d.tracking.provenance import git_state
from pdetr3d.training.build import build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import peak_memory_bytes, train_step
from pdetr3d.training.model_size import OBJECTS, SWEEP_POINTS
from pdetr3d.training.model_size import measure as parts_of
from pdetr3d.training.optim import make_optimizer
from pdetr3d.training.plan import Plan
from tests.model_cases import TINY, change, make_batch, ring_cameras

SELF = "benchmarks.gpu_ladder"
TESTS = "tests marked gpu"
RUNG_S = 150.0  # a rung begins only if this much time remains
MORE = 75  # exit code: the same command must be run again (EX_TEMPFAIL)
STEPS, KERNELS = 10, 12  # timed steps of a rung; rows of its table of kernels
MATMUL = 8192  # side of the square matrices whose product measures the device's peak


@dataclass(frozen=True)
class Rung:
    """A training step: ``stage`` ("teacher" or "student") of a preset, with ``batch`` samples."""

    preset: str
    stage: str
    batch: int

    @property
    def name(self) -> str:
        """The rung's key in the results."""
        return f"{self.preset} {self.stage}, batch {self.batch}"


RUNGS = [
    Rung(preset, stage, batch)
    for preset in ("nuscenes-pillar", "nuscenes-voxel")
    for stage in ("student", "teacher")
    for batch in (1, 4, 8)
]
TOY = [Rung("quickstart", stage, 1) for stage in ("student", "teacher")]
HEADLINES = {f"headline, seed {seed}": seed for seed in (0, 1, 2)}  # rung -> seed


def climb(
    rungs: Sequence[str],
    run: Callable[[str], dict[str, Any] | None],
    out: Path,
    about: dict[str, Any],
    until: float,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Run the rungs that OUT.json lacks; returns whether all are done.

    Args:
        run: rung -> its result, {"error": text} if it failed (such a rung is not tried again), None if time ran out.
            about: the device and the commit, written with the results. until: by ``clock`` [s]; no rung is begun later
            than RUNG_S before it.

    Raises:
        ValueError: when OUT.json is of another device or commit.
    """
    results: dict[str, Any] = {"about": about, "rungs": {}}
    if out.exists():
        results = json.loads(out.read_text())
        differing = [key for key in about if results["about"].get(key) != about[key]]
        if differing:
            raise ValueError(f"{out} was measured elsewhere: {differing} differ; name another file")
    for name in rungs:
        if name in results["rungs"]:
            continue
        if clock() > until - RUNG_S:
            return False
        print(f"{name} ...", flush=True)
        result = run(name)
        if result is None:
            return False
        results["rungs"][name] = result
        write_json(out, results)
        print(f"{name}: {headline(results['rungs'][name])}", flush=True)
    return True


def headline(result: dict[str, Any]) -> str:
    """One line of a rung's result."""
    if "error" in result:
        return f"failed: {result['error']}"
    if "passed" in result:
        return f"{result['passed']} passed, {result['skipped']} skipped"
    if "arms" in result:
        scores = ", ".join(f"{arm} {scores['SPNDS']:.3f}" for arm, scores in result["arms"].items())
        return f"SPNDS {scores}; teacher's BEV IoU {result['teacher']['bev_iou']:.3f}"
    share = result["share_of_matmul"]
    compared = "" if share is None else f", {share:.1%} of a matrix product's FLOP/s"
    return f"{result['samples_per_s']:.2f} samples/s, {result['peak_memory_bytes'] / 2**30:.1f} GiB{compared}"


def synthetic_batch(config: Config, samples: int) -> Batch:
    """Clouds with the density of a turning LiDAR, OBJECTS boxes with clicks per sample, six images of noise."""
    sweeps, (width, height) = config.data.num_sweeps, config.data.image_size_px
    batch = make_batch(samples, clicks=OBJECTS, points=sweeps * SWEEP_POINTS)
    reach = min(abs(bound) for bound in config.model.range_m[:2]) / 12  # make_batch draws within 12 m
    # Squaring makes the density per area fall as one over the distance.
    points = batch.points.clone()
    points[:, :2] *= (points[:, :2].norm(dim=1, keepdim=True) / 12) * reach
    box, click = batch.box.clone(), batch.click.clone()
    box[..., :2] *= reach
    click[..., :2] *= reach
    return change(
        batch,
        points=points,
        weak_points=points.clone(),
        box=box,
        click=click,
        canonical_click=click.clone(),
        images=torch.randint(0, 256, (samples, 6, height, width, 3), dtype=torch.uint8),
        lidar2img=ring_cameras(width, height).repeat(samples, 1, 1, 1),
    )


def step_result(rung: Rung, toy: bool) -> dict[str, Any]:
    """Time, memory, share of the device's FLOP/s and kernels of a training step on the GPU (toy: tiny, on a CPU)."""
    device = torch.device("cpu" if toy else "cuda")
    optim = "teacher.optim" if rung.stage == "teacher" else "optim"
    config = presets.load(rung.preset, [*(TINY if toy else []), f"{optim}.amp={'fp32' if toy else 'bf16'}"])
    task = build(rung.stage, config, config.classes.fallback_size_m)
    batch = make_batch(rung.batch) if toy else synthetic_batch(config, rung.batch)
    if rung.stage == "student":
        batch = change(batch, images=batch.images[:, :0])
    else:
        batch = change(batch, weak_points=batch.weak_points[:0], weak_point_sample=batch.weak_point_sample[:0])
    model, batch = task.model.to(device).train(), batch.to(device)
    optimizer, seconds = make_optimizer(model, task.optim), []
    with tempfile.TemporaryDirectory() as folder:
        context = LocalContext([], Plan(1, 1, 1, 0), task.loader, Path(folder), device.type)

        def step() -> None:
            train_step(model, optimizer, task, batch, context, 1e-6)
            if device.type == "cuda":
                torch.cuda.synchronize()

        for _ in range(3):  # libraries choose their kernels
            step()
        for _ in range(2 if toy else STEPS):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        kernels = kernel_table(step, device)
    flops = training_flops(rung.stage, config, {part.name: part.flops for part in parts_of(rung.stage, config)})
    per_s = rung.batch / statistics.median(seconds)
    reached = None if toy else matmul_flops_per_s(device)
    return {
        "step_s": seconds,
        "samples_per_s": per_s,
        "flops_per_sample": flops,
        "matmul_flops_per_s": reached,
        "share_of_matmul": None if reached is None else per_s * flops / reached,
        "peak_memory_bytes": peak_memory_bytes(),
        "kernels": kernels,
    }


def matmul_flops_per_s(device: torch.device) -> float:
    """The FLOP/s of a product of two large square bf16 matrices: the best of ten."""
    a = torch.randn(MATMUL, MATMUL, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * MATMUL**3 / best


def kernel_table(step: Callable[[], None], device: torch.device) -> list[dict[str, Any]]:
    """The operators of one step with the most own time: name, calls, milliseconds."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiled:
        step()
    time_us = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(profiled.key_averages(), key=lambda row: getattr(row, time_us), reverse=True)[:KERNELS]
    return [{"name": row.key, "calls": row.count, "ms": getattr(row, time_us) / 1e3} for row in rows]


def in_a_process(name: str, toy: bool, folder: Path, seconds: float) -> dict[str, Any] | None:
    """Run a rung in a process of its own, so that the memory is that of the rung.

    Args:
        folder: where a headline's run goes on. seconds: after these a headline is stopped.

    Returns:
        See ``climb``.
    """
    if name in HEADLINES:
        return headline_result(HEADLINES[name], folder, seconds)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        if name == TESTS:
            command = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/unit"]
        else:
            command = ["-m", SELF, str(out), "--rung", name, *(["--toy"] if toy else [])]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        if name == TESTS and done.returncode == 0:
            return counts(done.stdout)
        if done.returncode == 0 and out.exists():
            return json.loads(out.read_text())
    lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
    return {"error": f"exit code {done.returncode}: {lines[-1]}"}


def headline_result(seed: int, folder: Path, seconds: float, words: Sequence[str] = ()) -> dict[str, Any] | None:
    """A seed's run, or a piece of it; ``words``: more for the command."""
    folder.mkdir(parents=True, exist_ok=True)
    result, taken = folder / f"seed-{seed}.json", folder / f"seed-{seed}.seconds"
    before, began = float(taken.read_text()) if taken.exists() else 0.0, time.monotonic()
    try:
        command = ladder_headline.command(result, folder, seed, words)
        done = subprocess.run([sys.executable, *command], stderr=subprocess.PIPE, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        taken.write_text(str(before + time.monotonic() - began))  # of all pieces
    if done.returncode == 0:
        return json.loads(result.read_text()) | {"seconds": float(taken.read_text())}
    return {"error": f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"}


def counts(output: str) -> dict[str, Any]:
    """The numbers {"passed", "skipped"} in pytest's last line."""
    found = dict.fromkeys(("passed", "skipped"), 0)
    return found | {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|skipped)", output)}


def about() -> dict[str, Any]:
    """The device and the versions of the software."""
    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if gpu else None,
        "commit": git_state().get("git.commit", "unknown"),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json", help="results; what it holds is not measured again")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no rung that may end later (default 9)")
    parser.add_argument("--toy", action="store_true", help="a small step on a CPU: shows that the ladder works")
    parser.add_argument("--rung", help=argparse.SUPPRESS)
    given = parser.parse_args()
    rungs = {rung.name: rung for rung in (TOY if given.toy else RUNGS)}
    if given.rung:
        write_json(given.out, step_result(rungs[given.rung], given.toy))
        return
    if not given.toy and not torch.cuda.is_available():
        print("SKIPPED: there is no GPU here (--toy runs a small step on a CPU)")
        return
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    names = list(rungs) if given.toy else [TESTS, *rungs, *HEADLINES]
    until, folder = time.monotonic() + 60 * given.minutes, given.out.with_suffix("")

    def run(name: str) -> dict[str, Any] | None:
        return in_a_process(name, given.toy, folder, until - time.monotonic())

    if not climb(names, run, given.out, about(), until):
        print(f"not all is measured yet: run the same command again, {given.out} goes on")
        sys.exit(MORE)


if __name__ == "__main__":
    main()
