"""Simulates several hosts on one machine: network namespaces with own addresses and a Ray node each; links can be cut.

    python -m tests.hosts ray status        # builds three hosts, runs a command on the first, removes everything

It needs root and iproute2. Unlike real machines, all hosts share one clock, disk and memory.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).with_name("ray"))
NETWORK = "10.231.7"  # a private network that routers, Docker or clouds do not use by default
GCS_PORT, DASHBOARD_PORT = 6379, 8265  # every host has its own ports
# Ray gives up a node without an answer after about 3 x (1 + 3) s instead of about a minute.
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass(frozen=True)
class Host:
    """A network namespace. name: of the namespace. link: the outer end of its cable, in the bridge. address: IPv4."""

    name: str
    link: str
    address: str

    def command(self, *words: str) -> list[str]:
        """The command that runs ``words`` on this host."""
        return ["ip", "netns", "exec", self.name, *words]

    def processes(self) -> list[psutil.Process]:
        """The processes that run on the host now."""
        found = []
        for pid in _ip("netns", "pids", self.name).split():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def cut(self) -> None:
        """Cut the host's connection; its processes go on."""
        _ip("link", "set", self.link, "down")

    def remove(self) -> None:
        """End the host's processes and remove it."""
        family = self.processes()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)
        _ip("netns", "delete", self.name)  # this also removes both ends of its cable


def missing() -> str:
    """The missing permissions or programs; empty if this machine can have hosts."""
    if os.geteuid() != 0:
        return "needs root rights"
    if shutil.which("ip") is None:
        return "no ip (apt-get install iproute2)"
    try:
        with hosts(1):
            return ""
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here ({error.stderr.strip()})"


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Make hosts that reach only each other, over a bridge; they are ended and removed afterwards."""
    tag = f"p{secrets.token_hex(2)}"  # names of interfaces have at most 15 letters
    bridge = f"{tag}br"
    with ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "delete", bridge)
        _ip("link", "set", bridge, "up")
        made = []
        for number in range(1, count + 1):
            host = Host(f"{tag}h{number}", f"{tag}v{number}", f"{NETWORK}.{10 + number}")
            _ip("netns", "add", host.name)
            stack.callback(host.remove)
            _ip("link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", host.link, "master", bridge, "up")
            _ip("-netns", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-netns", host.name, "link", "set", device, "up")
            made.append(host)
        yield made


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster with a node on each host, the first one as head, with token authentication."""

    hosts: list[Host]
    environment: dict[str, str]
    folder: Path

    @property
    def head(self) -> Host:
        """The host of the dashboard (on its loopback) and of drivers."""
        return self.hosts[0]

    def run(self, *words: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command on the head, with the token."""
        command = self.head.command(*words)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout_s)

    def alive(self) -> list[str]:
        """The addresses of the nodes that are alive according to the head."""
        code = f"import ray; ray.init('{self.head.address}:{GCS_PORT}', log_to_driver=False); "
        code += "print(*[node['NodeManagerAddress'] for node in ray.nodes() if node['Alive']])"
        done = self.run(sys.executable, "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def start(self, cpus: int) -> None:
        """Start the nodes, the head first; returns when all have joined."""
        at, joining = f"{self.head.address}:{GCS_PORT}", {}
        for host in self.hosts:
            head = ["--head", f"--port={GCS_PORT}", "--dashboard-host=127.0.0.1", f"--dashboard-port={DASHBOARD_PORT}"]
            words = ["start", "--block", *(head if host is self.head else [f"--address={at}"])]
            words += [f"--node-ip-address={host.address}", f"--num-cpus={cpus}"]
            words += [f"--object-store-memory={128 * 1024**2}", "--disable-usage-stats"]
            words += [f"--temp-dir={self.folder / host.address.rpartition('.')[2]}"]  # every host has an own folder
            with self._log(host).open("w") as log:
                node = subprocess.Popen(host.command(RAY, *words), env=self.environment, stdout=log, stderr=log)
            if host is self.head:
                self._wait_for(host, node)
            else:
                joining[host] = node
        for host, node in joining.items():
            self._wait_for(host, node)

    def _log(self, host: Host) -> Path:
        return self.folder / f"{host.name}.log"

    def _wait_for(self, host: Host, node: subprocess.Popen[bytes]) -> None:
        log, end = self._log(host), time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)


@contextmanager
def cluster(count: int, cpus: int) -> Iterator[Cluster]:
    """Ray with ``cpus`` logical CPUs on each of ``count`` hosts; ended and removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="h"))  # a short path, because it contains sockets
    environment = {
        **os.environ,
        **IMPATIENT,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "GLOO_SOCKET_IFNAME": "eth0",  # gloo would look up the host name, which all our hosts share
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    try:
        with hosts(count) as made:
            ray = Cluster(made, environment, folder)
            ray.start(cpus)
            yield ray
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(words: list[str]) -> int:
    """Run a command on the head of three hosts; returns its exit code."""
    problem = missing()
    if problem or not words:
        print(f"error: {problem or 'which command? e.g. python -m tests.hosts ray status'}", file=sys.stderr)
        return 2
    with cluster(3, cpus=2) as ray:
        address = {"RAY_ADDRESS": f"{ray.head.address}:{GCS_PORT}"}
        return subprocess.run(ray.head.command(*words), env=ray.environment | address).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
