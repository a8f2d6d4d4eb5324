"""Records the git state, versions, installed packages and config that a run was made with."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pdetr3d
from pdetr3d.tracking.client import as_tags, write_params_and_tags
from pdetr3d.tracking.runs import Tracker

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CONFIG, PACKAGES = "config.json", "environment/packages.txt"
_MMCV = ("mmcv", "onedl-mmcv", "mmcv-lite")  # distributions that import as mmcv


def log_provenance(tracker: Tracker, config_json: str) -> None:
    """Write the tags ``git.commit``, ``git.dirty``, ``env.*``, and the artifacts CONFIG and PACKAGES; never raises."""

    def act(client: MlflowClient) -> None:
        write_params_and_tags(client, tracker.run_id, {}, as_tags(git_state() | environment()))
        client.log_text(tracker.run_id, config_json, CONFIG)
        client.log_text(tracker.run_id, packages(), PACKAGES)

    tracker.quietly(act)


@functools.cache  # this process imported its code at its start: later commits do not change it
def git_state(root: Path = Path(pdetr3d.__file__).parents[1]) -> dict[str, str]:
    """``{"git.commit": id, "git.dirty": "true" | "false"}`` of the sources; ``{}`` if git does not track them."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie inside another repository, whose commit does not describe it.
    if git("ls-files", "--error-unmatch", "pdetr3d/__init__.py") is None:
        return {}
    commit = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")  # jobs write to results/
    return {} if commit is None else {"git.commit": commit, "git.dirty": "false" if changes == "" else "true"}


@functools.cache
def environment() -> dict[str, str]:
    """Versions as tags: ``env.python``, ``env.torch``, ``env.ray``, ``env.mmcv``, ``env.cuda`` (torch's, or "none")."""
    import torch

    mmcv = [f"{version} ({name})" for name in _MMCV if (version := _version(name))]
    return {
        "env.python": platform.python_version(),
        "env.torch": _version("torch"),
        "env.ray": _version("ray"),
        "env.mmcv": ", ".join(mmcv),
        "env.cuda": torch.version.cuda or "none",
    }


@functools.cache
def packages() -> str:
    """All installed distributions, one line ``name==version`` each, sorted."""
    found = {f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
