"""Tests of tools/audit.sh with a fake pip-audit: no answer never counts as "nothing found"."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKED = sum("==" in line for line in (ROOT / "constraints.txt").read_text().splitlines())
SKIPPED = {"skip_reason": "Dependency not found"}
CLEAN = {"version": "1", "vulns": []}
KNOWN = {
    "version": "1",
    "vulns": [{"id": "CVE-2026-1", "fix_versions": ["2"]}, {"id": "CVE-2026-2", "fix_versions": []}],
}
STAND_IN = """#!{python}
import json, sys
words = sys.argv
assert {{"--no-deps", "--disable-pip"}} < set(words)
names = [line.split("==")[0] for line in open(words[words.index("--requirement") + 1]) if "==" in line]
answers = json.loads({answers!r})
if len(names) == 1 and answers["one"] is None or len(names) > 1 and answers["all"] is None:
    sys.exit("no network")  # exit code 1, no file
answer = answers["one" if len(names) == 1 else "all"]
packages = [{{"name": name, **(answers["ray"] if name == "ray" and len(names) > 1 else answer)}} for name in names]
json.dump({{"dependencies": packages, "fixes": []}}, open(words[words.index("--output") + 1], "w"))
sys.exit(any(package.get("vulns") for package in packages))
"""


def audit(tmp_path: Path, one: object, all_: object = None, ray: object = CLEAN) -> subprocess.CompletedProcess[str]:
    """Run it with a pip-audit that gives these answers: to the first question, for the whole lock, for ray in it."""
    stand_in = tmp_path / "pip-audit"
    stand_in.write_text(
        STAND_IN.format(python=sys.executable, answers=json.dumps({"one": one, "all": all_, "ray": ray}))
    )
    stand_in.chmod(0o755)
    command = ["bash", str(ROOT / "tools" / "audit.sh"), sys.executable]
    environment = {**os.environ, "PIP_AUDIT": str(stand_in)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("one", "all_"), [(SKIPPED, CLEAN), (None, CLEAN), (CLEAN, None)])
def test_without_a_database_it_says_so(one: object, all_: object, tmp_path: Path) -> None:
    done = audit(tmp_path, one, all_)
    assert done.returncode == 0 and "NOT AUDITED: the vulnerability database" in done.stderr
    assert "audited:" not in done.stdout


def test_nothing_found(tmp_path: Path) -> None:
    done = audit(tmp_path, CLEAN, CLEAN)
    assert (done.returncode, done.stdout) == (0, f"audited: {LOCKED} of {LOCKED} locked packages\n")


def test_findings_fail_and_are_named_and_so_are_packages_without_an_answer(tmp_path: Path) -> None:
    done = audit(tmp_path, CLEAN, CLEAN, KNOWN)
    assert done.returncode == 1
    assert "VULNERABLE: ray 1: CVE-2026-1, fixed in 2\n" in done.stdout
    assert "VULNERABLE: ray 1: CVE-2026-2, fixed in nowhere yet\n" in done.stdout

    done = audit(tmp_path, CLEAN, CLEAN, SKIPPED)
    assert done.returncode == 0 and "NOT AUDITED: ray: Dependency not found\n" in done.stdout
    assert f"audited: {LOCKED - 1} of {LOCKED} locked packages\n" in done.stdout


def test_a_finding_in_the_first_question_does_not_hide_the_rest(tmp_path: Path) -> None:
    done = audit(tmp_path, KNOWN, CLEAN)
    assert done.returncode == 0 and f"audited: {LOCKED} of {LOCKED}" in done.stdout
