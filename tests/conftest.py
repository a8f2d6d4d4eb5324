"""Fixtures for all tests, and rules of a full run: which tests may skip, and that no folder is silently empty.

* ``gpu``, ``compiled_ops``, ``hosts``, ``postgres``, ``browser`` and ``root_only`` tests are skipped on machines that
  lack the needed hardware or programs.
* With CI=true every other skip fails the run, except for inputs that this clone does not have (``OPTIONAL_INPUTS``).
* In a full run (no paths, no -k, no -m) every folder under tests/ that should hold tests must collect some.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from tests.own_cases import Own

TESTS = Path(__file__).resolve().parent
MAY_SKIP = {"gpu", "compiled_ops", "hosts", "postgres", "browser", "root_only"}
OPTIONAL_INPUTS = ("PDETR3D_REAL_DATA", "PDETR3D_KITTI_DATA", "PDETR3D_KUBERAY_SCHEMAS")
# Oracles, files, and the tests of `make chaos` and `make test-clusters`.
HOLD_NO_TESTS = {"reference", "golden", "chaos", "clusters"}

# Child processes (Ray workers, jobs under test) inherit these, so they are set before anything is imported.
os.environ["MPLBACKEND"] = "Agg"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"  # with 2 s, a fit takes 17 s instead of 11
os.environ["RAY_idle_worker_killing_time_threshold_ms"] = "10000"  # as in jobs, see ray_jobs/start/launch.py
os.environ["RAY_num_workers_soft_limit"] = "8"
# Ray also protects local clusters with a token; with an own token, tests do not write to ~/.ray.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ.pop("RAY_ADDRESS", None)  # never join a cluster that runs on this machine
os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session", autouse=True)
def _torch_threads() -> None:
    if "torch" in sys.modules:  # a run whose test modules do not import torch saves its 2 s
        import torch

        # `make test` has more test processes than cores, so more threads would wait for each other.
        torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real nuScenes keyframe (version v1.0-mini), read-only; skips without it."""
    return _optional_input("PDETR3D_REAL_DATA", "a nuScenes v1.0-mini folder with the real keyframe")


@pytest.fixture(scope="session")
def kitti_data() -> Path:
    """Folder of real frames in KITTI's object layout, read-only; skips without it."""
    return _optional_input("PDETR3D_KITTI_DATA", "a folder of frames in KITTI's object layout")


@pytest.fixture(scope="session")
def kuberay_schemas() -> Path:
    """Folder with KubeRay's rayclusters.schema.json and rayjobs.schema.json; skips without it."""
    return _optional_input("PDETR3D_KUBERAY_SCHEMAS", "a folder with KubeRay's JSON schemas")


def _optional_input(name: str, what: str) -> Path:
    value = os.environ.get(name, "")
    if not value:
        pytest.skip(f"{name} is not set: name {what} to run this test")
    folder = Path(value)
    assert folder.is_dir(), f"{name}={value} is not a folder; it must be {what}, or be unset"
    return folder.resolve()


@pytest.fixture(scope="session")
def sim_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataroot of a tiny simulated world (version v1.0-sim), made once for all test processes; do not write into it."""
    from pdetr3d.config import SimConfig
    from pdetr3d.simulator.simulate import simulate

    config = SimConfig(
        scenes=3,
        select_scenes=1,
        val_scenes=2,
        keyframes=2,
        sweeps_per_keyframe=2,
        image_size_px=(160, 90),
        lidar_azimuth_steps=360,
        processes=2,
    )
    return _made_once(tmp_path_factory, "world", lambda folder: simulate(folder, config))


@pytest.fixture(scope="session")
def own(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Own:
    """The same world with seven own classes, and a run on it; do not write into it."""
    from tests.own_cases import make_own

    return make_own(sim_world, tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow SQLite store without runs, which tests copy, since creating one takes seconds."""
    from pdetr3d.tracking.client import connect

    def make(folder: Path) -> None:
        folder.mkdir()
        connect(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()

    return _made_once(tmp_path_factory, "mlflow", make) / "mlflow.db"


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``name``, which the first of the test processes makes and the others wait for."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        made = folder.with_name(f"{name}.made")
        if not made.exists():
            make(folder)
            made.touch()
    return folder


@pytest.fixture
def tracking_dir(_empty_store: Path, tmp_path: Path) -> Path:
    """A folder with an MLflow store for this test."""
    folder = tmp_path / "tracking"
    folder.mkdir()
    shutil.copyfile(_empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray with 4 logical CPUs for this test session, shut down at the end."""
    import ray.data

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=512 * 1024**2,
        configure_logging=False,
        log_to_driver=False,
    )
    ray.data.DataContext.get_current().raise_original_map_exception = True  # as in jobs, see pdetr3d/exits.py
    yield
    ray.shutdown()


def _missing(marker: str) -> str:
    """Why tests with this marker cannot run here; empty if they can."""
    if marker == "gpu":
        import torch

        return "" if torch.cuda.is_available() else "no CUDA device"
    if marker == "compiled_ops":
        try:
            import mmcv.ops  # noqa: F401
        except ImportError as error:
            return f"mmcv has no compiled ops ({error})"
        return ""
    if marker == "postgres":
        from tests.postgres import missing

        return missing()
    if marker == "browser":
        from tests.browser import missing as missing_for_browser

        return missing_for_browser()
    if marker == "hosts":
        from tests.hosts import missing as missing_for_hosts

        return missing_for_hosts()
    return "" if os.geteuid() == 0 else "needs root rights"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose marker this machine cannot serve, and group the tests that start Ray.

    One process runs all tests of tests/ray and one runs all of tests/e2e: more than two clusters at once would starve
    each other.
    """
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if TESTS in item.path.parents else ""
        if folder in ("ray", "e2e"):
            item.add_marker(pytest.mark.xdist_group(folder))
    used = {marker for marker in MAY_SKIP for item in items if item.get_closest_marker(marker)}
    reasons = {marker: _missing(marker) for marker in used}
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"{marker}: {reason}"))


class RunRules:
    """Fails a run for skips that CI does not allow, and for test folders without collected tests."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.collected: set[str] = set()
        self.bad_skips: list[str] = []
        self.problems: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note_skip(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        folders = report.nodeid.split("/")  # with pytest-xdist, the main process collects nothing
        if folders[0] == TESTS.name and len(folders) > 2:
            self.collected.add(folders[1])
        if not hasattr(report, "wasxfail"):
            self._note_skip(report)

    def _note_skip(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if not report.skipped or MAY_SKIP & set(getattr(report, "keywords", ())):
            return
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(name in reason and not os.environ.get(name) for name in OPTIONAL_INPUTS):
            self.bad_skips.append(f"{report.nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if os.environ.get("CI", "").lower() == "true" and self.bad_skips:
            self.problems.append(f"CI: only tests marked {', '.join(sorted(MAY_SKIP))} may skip:")
            self.problems += [f"  {skip}" for skip in self.bad_skips]
        if self._is_full_run():
            empty = sorted(folders_with_tests(TESTS) - self.collected)
            self.problems += [f"tests/{name}/ collected no test" for name in empty]
        if self.problems and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _is_full_run(self) -> bool:
        option = self.config.option
        whole = self.config.args_source == pytest.Config.ArgsSource.TESTPATHS
        return whole and not (option.keyword or option.markexpr or option.collectonly or getattr(option, "lf", False))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name in OPTIONAL_INPUTS:
            if not os.environ.get(name):
                terminalreporter.write_line(f"NOTE: {name} is not set, tests that need it are skipped", yellow=True)
        for problem in self.problems:
            terminalreporter.write_line(problem, red=True)


def folders_with_tests(tests: Path) -> set[str]:
    """Names of the folders directly under ``tests`` that must collect tests, i.e. that contain Python files."""
    return {
        folder.name
        for folder in tests.iterdir()
        if folder.is_dir() and folder.name not in HOLD_NO_TESTS and any(folder.rglob("*.py"))
    }


def pytest_configure(config: pytest.Config) -> None:
    """Install the rules above, in the process that reports."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(RunRules(config), "pdetr3d-run-rules")
