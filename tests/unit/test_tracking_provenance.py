"""Tests of git state, versions and config of a run, on repositories made for it."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from pdetr3d.tracking import provenance
from pdetr3d.tracking.client import connect
from pdetr3d.tracking.provenance import git_state, log_provenance
from pdetr3d.tracking.runs import Tracker


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@invalid"]
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def checkout(folder: Path) -> Path:
    (folder / "pdetr3d").mkdir(parents=True)
    (folder / "pdetr3d" / "__init__.py").touch()
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_clean_and_a_changed_checkout(tmp_path: Path) -> None:
    clean, changed = checkout(tmp_path / "a"), checkout(tmp_path / "b")
    (clean / "runs.txt").write_text("not under version control")
    (changed / "pdetr3d" / "__init__.py").write_text("x = 1")
    assert git_state(clean) == {"git.commit": git(clean, "rev-parse", "HEAD"), "git.dirty": "false"}
    assert git_state(changed) == {"git.commit": git(changed, "rev-parse", "HEAD"), "git.dirty": "true"}


def test_outside_of_a_checkout_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout(tmp_path / "project") / "site-packages"  # inside a foreign repository
    (installed / "pdetr3d").mkdir(parents=True)
    (installed / "pdetr3d" / "__init__.py").touch()
    (tmp_path / "plain").mkdir()
    assert git_state(installed) == {} and git_state(tmp_path / "plain") == {}
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert git_state(tmp_path / "project") == {}


def test_a_run_says_what_it_was_made_with(tracking_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "git_state", lambda: {"git.commit": "c" * 40, "git.dirty": "true"})
    tracker = Tracker.start(tracking_dir, "experiment", "teacher", {}, {})
    log_provenance(tracker, '{"run": {"seed": 1}}')
    client = connect(tracker.uri)
    tags = client.get_run(tracker.run_id).data.tags
    assert (tags["git.commit"], tags["git.dirty"]) == ("c" * 40, "true")
    assert tags["env.python"] == platform.python_version() and tags["env.torch"] == torch.__version__
    assert tags["env.ray"] == importlib.metadata.version("ray") and tags["env.mmcv"] == "2.3.6 (onedl-mmcv)"
    assert tags["env.cuda"] == (torch.version.cuda or "none")
    (artifacts,) = (tracking_dir / "artifacts").glob("*/artifacts")
    assert (artifacts / "config.json").read_text() == '{"run": {"seed": 1}}'
    lines = (artifacts / "environment" / "packages.txt").read_text().splitlines()
    assert f"mlflow=={importlib.metadata.version('mlflow')}" in lines and lines == sorted(lines, key=str.lower)
