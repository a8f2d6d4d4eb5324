"""Trains on three hosts with their own addresses, by the RayJob's entrypoint, while one host is cut off."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests import hosts
from tests.clusters.test_interrupt import OVERRIDES, STEPS, is_worker, ray_checkpoint
from tests.training_cases import world_arguments

ROOT = Path(__file__).resolve().parents[2]
JOB = ["ray", "job", "submit", "--address", f"http://127.0.0.1:{hosts.DASHBOARD_PORT}", "--working-dir", "."]
JOB += ["--runtime-env", "cluster/runtime_env.yaml", "--"]
# Two CPUs per host: room for one training worker and one loading task.
ACROSS = ["scaling.workers=2", "scaling.cpus_per_worker=1.2", "scaling.data_cpus=0.5"]


@pytest.fixture
def ray() -> Iterator[hosts.Cluster]:
    with hosts.cluster(3, cpus=2) as running:
        yield running


def entrypoint(run_dir: Path, dataroot: Path) -> list[str]:
    """The entrypoint of kuberay/rayjob-student.yaml, with this test's preset, folders and sizes."""
    manifest = yaml.safe_load((ROOT / "cluster" / "kuberay" / "rayjob-student.yaml").read_text())
    words = manifest["spec"]["entrypoint"].split()
    assert words[:4:3] == ["python", "--preset"] and words[5] == "--run-dir" and "=" in words[7]
    return [
        *words[:4],
        "quickstart",
        "--verbose",
        words[5],
        str(run_dir),
        *world_arguments(dataroot, *OVERRIDES, *ACROSS),
    ]


def workers(host: hosts.Host) -> list[psutil.Process]:
    """The training workers that run on a host."""
    return [process for process in host.processes() if is_worker(process)]


@pytest.mark.hosts
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_host_that_is_cut_off_is_done_without(ray: hosts.Cluster, sim_world: Path, tmp_path: Path) -> None:
    run_dir, output = tmp_path / "run", tmp_path / "output.txt"
    command = ray.head.command(*JOB, *entrypoint(run_dir, sim_world))
    with output.open("w") as stream:
        job = subprocess.Popen(command, cwd=ROOT, env=ray.environment, stdout=stream, stderr=stream)
    try:
        end = time.monotonic() + 400
        while not ray_checkpoint(run_dir).exists():
            assert job.poll() is None and time.monotonic() < end, output.read_text()
            time.sleep(0.1)
        at_work = [host for host in ray.hosts if workers(host)]
        assert [len(workers(host)) for host in at_work] == [1, 1]
        lost = at_work[-1]  # not the head, since there are two workers
        lost.cut()
        committed = int(ray_checkpoint(run_dir).read_text())
        (stuck,) = workers(lost)  # the cut-off worker still runs and waits for the other
        assert job.wait(400) == 0, output.read_text()
    finally:
        job.kill()
        job.wait()

    lines = [line for line in output.read_text().splitlines() if f"/{STEPS} " in line and "student_full step " in line]
    steps = [int(line.split(" step ")[1].split("/")[0]) for line in lines]
    again = steps[-1] - len(steps[steps.index(1) :]) if steps[0] == 1 else 0
    assert steps[-1] == STEPS, (committed, steps, again)
    assert (run_dir / "student_full" / f"step_{STEPS:07d}.pt").exists()
    assert set(ray.alive()) == {host.address for host in ray.hosts if host is not lost}
