"""The patches of CONTRIBUTING.md are applied to a copy of the project, as a contributor would, and work there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pdetr3d", "ray_jobs", "tune_spaces")
CASES = ("tests.model_cases", "tests.training_cases")  # import the packages
PATCHES = re.findall(r"^```diff\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)


def apply(patch: str, root: Path) -> None:
    """A patch: "+++ FILE" begins a file, "@@" stands between its pieces; a piece without " " and "-" is a new file."""
    _, *files = re.split(r"^\+\+\+ (.*)\n", patch, flags=re.MULTILINE)
    for name, pieces in zip(files[::2], files[1::2], strict=True):
        for piece in re.split(r"^@@\n", pieces, flags=re.MULTILINE):
            lines = piece.splitlines(keepends=True)
            assert {line[0] for line in lines} <= set(" +-"), piece
            before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            old = (root / name).read_text() if before else ""
            assert before or not (root / name).exists(), f"{name} is there already"
            assert not before or f"\n{old}".count(f"\n{before}") == 1, f"{name} has no single place with\n{before}"
            (root / name).write_text(old.replace(before, after, 1) if before else after)


def test_a_patch_that_no_longer_fits_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ny = 2\n")
    apply("+++ a.py\n-x = 1\n+x = 3\n@@\n y = 2\n+z = 4\n+++ b.py\n+new\n", tmp_path)
    assert (tmp_path / "a.py").read_text() == "x = 3\ny = 2\nz = 4\n" and (tmp_path / "b.py").read_text() == "new\n"
    for patch in ("+++ a.py\n-x = 1\n+x = 3\n", "+++ a.py\n+new\n"):
        with pytest.raises(AssertionError, match="a.py"):
            apply(patch, tmp_path)


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the project with all patches; while tests use it, ``import pdetr3d`` imports this copy."""
    root = tmp_path_factory.mktemp("contributor")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for patch in PATCHES:
        apply(patch, root)

    def ours() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] in PACKAGES or name in CASES]

    before = {name: sys.modules.pop(name) for name in ours()}
    sys.path.insert(0, str(root))
    yield root
    sys.path.remove(str(root))
    for name in ours():
        del sys.modules[name]
    sys.modules.update(before)


def test_the_patches_pass_make_lint(patched: Path) -> None:
    shutil.copyfile(ROOT / "pyproject.toml", patched / "pyproject.toml")
    files = sorted({*re.findall(r"^\+\+\+ (.*\.py)$", "".join(PATCHES), re.MULTILINE)})
    for tool, *options in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy", "--follow-imports=silent"]):
        words = [str(Path(sys.executable).parent / tool), *options, *files]
        done = subprocess.run(words, cwd=patched, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def trained_step(*overrides: str) -> tuple[Any, set[str]]:
    """A teacher of the copy after one step on a tiny batch, and the names of its weights that the step has changed."""
    cases, build = import_module("tests.model_cases"), import_module("pdetr3d.training.build").build
    config = cases.tiny_config(*overrides)
    task = build("teacher", config, config.classes.fallback_size_m)
    batch = cases.make_batch()
    before = {name: weights.detach().clone() for name, weights in task.model.named_parameters()}
    sum(task.losses(task.model(batch), batch, cases.same_on_all_ranks).values()).backward()
    torch.optim.SGD(task.model.parameters(), lr=1.0).step()
    changed = {name for name, weights in task.model.named_parameters() if not torch.equal(weights, before[name])}
    return task.model, changed


def test_a_new_backbone(patched: Path) -> None:
    model, changed = trained_step("teacher.image_backbone=patches")
    assert type(model.images.backbone).__name__ == "Patches"
    assert {f"images.backbone.{stage}.weight" for stage in range(3)} <= changed
    maps = model.images.backbone(torch.zeros(1, 3, 32, 64))
    assert [tuple(one.shape) for one in maps] == [(1, 8, 8, 16), (1, 8, 4, 8), (1, 16, 2, 4)]


def test_a_new_fusion(patched: Path) -> None:
    model, changed = trained_step("teacher.fusion=finest")
    fusion = model.decoder.layers[0].fusion
    assert type(fusion.camera).__name__ == "FinestPoint" and fusion.camera.output.in_features == 24
    assert "decoder.layers.0.fusion.camera.output.weight" in changed


def test_a_new_stage(patched: Path, sim_world: Path, tmp_path: Path) -> None:
    """On planted pseudo labels; a second job finds it finished, and reads nothing."""
    begin_run = import_module("tests.training_cases").begin_run
    execute = import_module("pdetr3d.pipeline.execute").execute
    run = begin_run(sim_world, tmp_path)
    run.dir.finish("pseudo_labels", {"clicks": 3, "accepted": 1})
    rows = pd.DataFrame({"accepted": [True, False, False], "reason": ["", "far", "far"]})
    rows.to_parquet(run.pseudo_file)
    execute(["rejected"], run)
    assert run.result("rejected") == {"reasons": {"far": 2}}
    run.pseudo_file.unlink()
    execute(["rejected"], begin_run(sim_world, tmp_path))


def test_a_new_search_space(patched: Path) -> None:
    files = import_module("ray_jobs.searches.space_files")
    space = files.load_space("finest")
    assert space.size == 8 and "finest" in files.names()  # 2 x 2 values, 2 seeds
    files.check_space(space, "quickstart", [])


def test_a_new_dataset(patched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    for name in ("a", "b"):
        points = rng.uniform([-20, -20, -2, 0], [20, 20, 1, 255], (500, 4)).astype(np.float32)
        np.save(tmp_path / "files" / f"{name}.npy", points)
        (tmp_path / "files" / f"{name}.csv").write_text(
            "category,x,y,z,l,w,h,yaw\nvehicle.car,10,-5,0.5,4,2,1.5,0.25\n"
        )
    command, out = import_module("ray_jobs.commands").main, tmp_path / "dataset"
    assert command(["import", "mine", str(tmp_path / "files"), "--out", str(out)]) == 0
    assert command(["import", "mine", "--help"]) == 0
    assert re.search(r"^ *Example: pdetr3d import mine ", capsys.readouterr().out, re.MULTILINE)  # a line of its own
    index = import_module("pdetr3d.data.index.index").Index
    file = import_module("pdetr3d.data.index.nuscenes").build_index(out, "v1.0-mine", tmp_path / "index.arrow")
    made = index.open(file)
    tokens = made.tokens("mine_all")
    assert len(tokens) == 2
    for token in tokens:
        np.testing.assert_allclose(made.annotations(token).box, [[10, -5, 0.5, 4, 2, 1.5, 0.25]], atol=1e-6)
