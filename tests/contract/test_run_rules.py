"""conftest.py's rules, tried in a small project of its own: skips in CI, empty test folders, markers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
OPTIONAL = {"PDETR3D_REAL_DATA", "PDETR3D_KUBERAY_SCHEMAS"}
BODIES = {
    "plain": "import pytest\ndef test_a(): pytest.skip('no mood')\n",
    "module": "import pytest\npytest.importorskip('no_such_module_anywhere')\ndef test_a(): pass\n",
    "marked": "import pytest\n@pytest.mark.gpu\ndef test_a(): pytest.skip('no device')\n",
    "real": "def test_a(real_data): pass\n",
    "good": "def test_a(): pass\n",
    "nothing": "def helper(): pass\n",
}


def run(project: Path, bodies: list[str], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on a project with our conftest and pytest settings, and one test folder per body."""
    (project / "tests").mkdir()
    (project / "tests" / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (project / "pyproject.toml").write_text((TESTS.parent / "pyproject.toml").read_text())
    for body in bodies:
        (project / "tests" / body).mkdir()
        (project / "tests" / body / f"test_{body}.py").write_text(BODIES[body])
    return again(project, *arguments, **environment)


def again(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same on a project that is there."""
    inherited = {key: value for key, value in os.environ.items() if key not in {"CI", "PYTEST_ADDOPTS", *OPTIONAL}}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "testpaths=tests", *arguments]
    return subprocess.run(
        command, cwd=project, env=inherited | environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "two"])
def test_a_full_run_in_ci_fails_for_skips_and_for_folders_without_tests(
    tmp_path: Path, processes: tuple[str, ...]
) -> None:
    done = run(tmp_path, ["plain", "module", "good", "nothing"], *processes, CI="true")
    allowed = "browser, compiled_ops, gpu, hosts, postgres, root_only"
    assert done.returncode == 1 and f"CI: only tests marked {allowed} may skip" in done.stdout
    named = done.stdout.split("CI: only")[1]
    assert all(f"tests/{body}/test_{body}.py" in named for body in ("plain", "module"))
    assert "tests/good/test_good.py" not in named and "tests/nothing/ collected no test" in named


def test_each_rule_alone_fails_a_run(tmp_path: Path) -> None:
    """A skip, though nothing was empty; an empty folder, though nothing was skipped; a part of the folders may be."""
    assert run(tmp_path, ["module", "good", "nothing"], "tests/good", "tests/module", CI="true").returncode == 1
    shutil.rmtree(tmp_path / "tests" / "module")
    done = again(tmp_path)
    assert done.returncode == 1 and "tests/nothing/ collected no test" in done.stdout
    assert again(tmp_path, "tests/good").returncode == 0


def test_outside_ci_and_for_lack_of_a_device_a_skip_is_fine(tmp_path: Path) -> None:
    assert run(tmp_path, ["plain", "marked", "good"], "tests").returncode == 0


def test_in_ci_marked_tests_and_missing_optional_inputs_may_skip(tmp_path: Path) -> None:
    done = run(tmp_path, ["marked", "real"], CI="true")
    assert done.returncode == 0 and "2 skipped" in done.stdout
    assert "NOTE: PDETR3D_REAL_DATA is not set" in done.stdout


def test_a_wrong_real_data_folder_is_an_error_not_a_skip(tmp_path: Path) -> None:
    done = run(tmp_path, ["real"], PDETR3D_REAL_DATA=str(tmp_path / "nowhere"))
    assert done.returncode == 1 and "is not a folder" in done.stdout


def test_an_unknown_marker_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "test_typo.py").write_text("import pytest\n@pytest.mark.gpuu\ndef test_a(): pass\n")
    done = run(tmp_path, ["good"], "test_typo.py")
    assert done.returncode != 0 and "'gpuu' not found in `markers`" in done.stdout
