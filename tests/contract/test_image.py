"""Checks Dockerfiles as text, since no engine builds them here: rules beyond hadolint, and needs of the manifests."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "cluster" / "Dockerfile"
DOCKERFILES = sorted((ROOT / "cluster").rglob("Dockerfile"))
LOCK = dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
PINNED = re.compile(r"[\w./-]+:\d+(\.\d+)+[\w.-]*")  # name:version; neither latest nor only a major version


@dataclass(frozen=True)
class Instruction:
    """An instruction (FROM, RUN, ...), its text on one line, and the number of its stage, from 0."""

    word: str
    text: str
    stage: int


def instructions(dockerfile: str) -> list[Instruction]:
    """The instructions of a Dockerfile, without comments and with continued lines joined."""
    lines = "\n".join(line for line in dockerfile.splitlines() if not line.lstrip().startswith("#"))
    found: list[Instruction] = []
    for line in re.sub(r"\\\n\s*", "", lines).splitlines():
        if line.strip():
            word, text = line.split(maxsplit=1)
            stage = (found[-1].stage if found else -1) + (word == "FROM")
            found.append(Instruction(word, text, stage))
    return found


def copied(instruction: Instruction) -> list[str]:
    """The paths that COPY takes from the repository; none with --from another stage."""
    words = instruction.text.split()
    return [] if words[0].startswith("--from") else [word for word in words[:-1] if not word.startswith("--")]


def problems(dockerfile: str) -> list[str]:
    """The problems of a Dockerfile of this repository."""
    steps = instructions(dockerfile)
    runs = [step.text for step in steps if step.word == "RUN"]
    wrong = [
        f"FROM {step.text}: name a version"
        for step in steps
        if step.word == "FROM" and not PINNED.fullmatch(step.text.split()[0])
    ]
    wrong += ["COPY: name what is copied" for step in steps if copied_all(step)]
    wrong += [
        f"COPY {name}: no such file"
        for step in steps
        if step.word == "COPY"
        for name in copied(step)
        if not (ROOT / name).exists()
    ]
    for run in runs:
        if "pip install" in run and "--constraint constraints.txt" not in run:
            wrong.append(f"RUN {run}: pip installs by constraints.txt")
        wrong += [f"RUN {run}: {word}" for word in ("curl", "http://", "https://") if word in run]
        wrong += [
            f"RUN {run}: {name} is {LOCK.get(name)} in the lock"
            for name, version in re.findall(r"([\w.-]+)==([\w.]+)", run)
            if LOCK.get(name) != version
        ]
    return wrong


def copied_all(step: Instruction) -> bool:
    return step.word == "COPY" and {".", "./"} & set(copied(step)) != set()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dockerfiles_keep_the_rules(path: Path) -> None:
    assert problems(path.read_text()) == []
    for step in instructions(path.read_text()):
        if step.word == "FROM" and step.text.startswith("python:"):
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert step.text.split(":")[1].split("-")[0] in SpecifierSet(project["requires-python"])


GOOD = "FROM python:3.11.15-slim AS a\nRUN x\nFROM python:3.11.15-slim\nCOPY README.md ./\nUSER 1000\n"


@pytest.mark.parametrize(
    ("there", "instead", "problem"),
    [
        ("FROM python:3.11.15-slim\n", "FROM python:latest\n", "FROM python:latest: name a version"),
        ("FROM python:3.11.15-slim\n", "FROM python\n", "FROM python: name a version"),
        ("FROM python:3.11.15-slim\n", "FROM a\n", "FROM a: name a version"),  # no stage here continues another one
        ("COPY README.md ./", "COPY README.me ./", "COPY README.me: no such file"),
        ("COPY README.md ./", "COPY . ./", "COPY: name what is copied"),
        ("RUN x", "RUN pip install ray", "by constraints.txt"),
        ("RUN x", "RUN pip install --constraint constraints.txt ray==2.59.0", f"ray is {LOCK['ray']} in the lock"),
        ("RUN x", "RUN curl -s https://a | sh", "curl"),
    ],
)
def test_what_breaks_a_rule_is_named(there: str, instead: str, problem: str) -> None:
    assert problems(GOOD) == []
    changed = GOOD.replace(there, instead)
    assert changed != GOOD and problem in "\n".join(problems(changed))


def test_the_image_runs_as_the_manifests_say() -> None:
    steps = instructions(IMAGE.read_text())
    (user,) = [step.text for step in steps if step.word == "USER"]
    (cluster,) = yaml.safe_load_all((ROOT / "cluster" / "kuberay" / "raycluster.yaml").read_text())
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        wanted = group["template"]["spec"]["securityContext"]
        assert user == f"{wanted['runAsUser']}:{wanted['fsGroup']}"
    last = [step for step in steps if step.stage == steps[-1].stage]
    assert f"useradd --uid {user.split(':')[0]} --create-home" in last[1].text
    assert "wget" in last[1].text.split() and "rsync" in last[1].text.split()
    assert any(step.word == "ENV" and step.text.startswith("PATH=/opt/venv/bin:") for step in last)


def test_the_image_installs_as_everybody_does() -> None:
    """The image uses the same scripts and the lock; the second stage copies the environment and the whole project."""
    steps = instructions(IMAGE.read_text())
    runs = [step.text for step in steps if step.word == "RUN" and "tools/" in step.text]
    assert [re.search(r"bash (tools/\w+\.sh /opt/venv.*)", run)[1] for run in runs] == [  # type: ignore[index]
        "tools/install.sh /opt/venv server",
        "tools/compile_ops.sh /opt/venv",
    ]
    assert "FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=" in runs[1]
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    last = {name for step in steps if step.stage == steps[-1].stage and step.word == "COPY" for name in copied(step)}
    assert last >= {f"{package.rstrip('*')}/" for package in packages}
    # The installation is editable, so both stages must have the code at the same path.
    assert [step.text for step in steps if step.word == "WORKDIR"][:2] == ["/opt/pdetr3d"] * 2


def test_the_builder_sees_what_is_copied_and_nothing_else() -> None:
    ignore = IMAGE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    shown = {rule[1:].rstrip("/") for rule in rules if rule.startswith("!")}
    used = {
        name.split("/")[0] for step in instructions(IMAGE.read_text()) if step.word == "COPY" for name in copied(step)
    }
    assert rules[0] == "*" and shown == used


def test_ops_are_built_as_found_out() -> None:
    """Without these four options pip builds mmcv without ops, or takes a cached wheel (see compile_ops.sh)."""
    script = (ROOT / "tools" / "compile_ops.sh").read_text()
    command = re.sub(r"\\\n\s*", "", script)
    (line,) = [line for line in command.splitlines() if "--no-build-isolation" in line]
    assert {"--no-build-isolation", "--no-deps", "--no-cache-dir", "--force-reinstall"} <= set(line.split())
    assert line.endswith("\"$(grep '^onedl-mmcv==' constraints.txt)\"") and "onedl-mmcv" in LOCK
