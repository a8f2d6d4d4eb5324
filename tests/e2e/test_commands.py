"""Runs every command of the documents at toy size, or names the reason why no test runs it.

The commands of ``README.md``, ``docs/`` and ``cluster/README.md`` are run unchanged, one after another in one
folder, so that later ones find the files of earlier ones. This module runs the verbs, which need no Ray, on a run
directory whose models have random weights. ``ELSEWHERE`` names the commands that other tests run, e.g. jobs. The
following is changed:

* names of data become those of the toy world (``SUBSTITUTES``);
* sizes and repetitions that would take long become smaller (``SMALLER``);
* run directories and files that no command of the documents makes are written before (``planted``).
"""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

import pdetr3d
from pdetr3d.data.index.index import Index
from pdetr3d.finished.capacity import measure
from pdetr3d.finished.labels import efficiency
from pdetr3d.schema import CLASSES
from pdetr3d.training import checkpoint, model_size
from pdetr3d.training.build import build
from tests.contract.test_docs import block_commands, inline_commands
from tests.doctor_cases import PlantedRun
from tests.jobs import run_verb
from tests.model_cases import TINY, shaken
from tests.reference import tiny_kitti
from tests.report_cases import plant_trial, space_of, write_search
from tests.unit import test_import_frames
from tests.unit.test_labels_budget import write_run

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "cluster" / "README.md"]

# Beginning of a command -> why no test runs it.
NOT_RUN = {
    "make install": "made the environment of this test",
    "make docs": "`make lint` builds the same pages",
    "make test": "is what runs this test; .ci/run does",
    "make test-clusters": "minutes; .ci/run does",
    "make chaos": "minutes; is a test suite of its own",
    "make bench": "minutes; measures, on an idle machine",
    "make results": "hours; tests/contract/test_make_results.py runs it on measurements of its own",
    "make audit": "asks the network; .ci/run does",
    "python -m benchmarks.bench_your_data": "an hour; tests/e2e/test_your_data.py runs the same at toy size",
    "python -m benchmarks.costs": "minutes; measures, on an idle machine",
    "python -m benchmarks.transfer": "needs the teacher of a quickstart and the real keyframe",
    "bash tools/peer.sh": "half an hour; compiles mmcv's operators",
    "pip check": "part of make audit",
    "python -m ray_jobs.pipeline --preset nuscenes-pillar": "trains at full size: hours on 8 GPUs",
    "python -m ray_jobs.pipeline --preset nuscenes-voxel": "trains at full size: hours on 8 GPUs",
    "python -m ray_jobs.pipeline --preset kitti-small": "minutes; tests/unit/test_kitti_preset.py takes its steps",
    "bash tools/compile_ops.sh": "needs a CUDA toolkit",
    "docker": "needs a container engine",
    "kubectl": "needs a Kubernetes cluster",
    "ray up": "needs a cloud account",
    "ray down": "needs a cloud account",
    "ray dashboard": "needs a cluster that ray up started",
    "ray monitor": "needs a cluster that ray up started",
    "ray get-auth-token": "writes a token into the user's home",
    "grep ADMIN": "reads what cluster/mlflow/make_secrets.py writes",
}
JOBS = "tests/clusters/test_documents_jobs.py"
# Beginning of a command -> the file of the test that runs it, and words of that test.
ELSEWHERE = {
    **{
        start: (JOBS, f'"{start}"')
        for start in (
            "make quickstart",
            "python -m ray_jobs.train_teacher",
            "python -m ray_jobs.pseudo_label",
            "python -m ray_jobs.train_student",
            "python -m ray_jobs.evaluate",
            "python -m ray_jobs.pipeline --preset quickstart",
            "pdetr3d compare",
        )
    },
    **{
        f"pdetr3d {verb}": ("tests/unit/test_job_commands.py", "VERBS[module]")
        for verb in ("train-teacher", "predict-blocks")
    },
    "make real-smoke": ("tests/e2e/test_real_smoke.py", '"--preset", "real-smoke"'),
    "pdetr3d kitti-score": ("tests/unit/test_kitti_ap.py", '"kitti-score"'),
    "pdetr3d import-weights": ("tests/unit/test_import_weights.py", '"import-weights"'),
    "pdetr3d click": ("tests/unit/test_click_browser.py", '"ray_jobs.commands", "click"'),
    "python -m ray_jobs.predict": ("tests/ray/test_predict_job.py", '"ray_jobs.predict"'),
    "python -m benchmarks.gpu_ladder": ("tests/unit/test_gpu_ladder.py", "climb("),
    "python -m ray_jobs.search": ("tests/clusters/test_search.py", '"ray_jobs.search"'),
    "python -m tests.hosts": ("tests/clusters/test_hosts.py", "hosts.cluster("),
    "python cluster/make_rayjobs.py": ("tests/contract/test_cluster.py", "make_rayjobs"),
    "python cluster/mlflow/make_secrets.py": ("tests/contract/test_mlflow_server.py", "make_secrets"),
    "python -c": ("tests/clusters/test_mlflow_postgres.py", "python -c"),
    "ray job": ("tests/clusters/test_job_submit.py", '"job"'),
    "ray start": ("tests/clusters/test_job_submit.py", '"start"'),
}
# A document whose code blocks no test runs -> why.
NOT_RUN_DOCUMENTS = {ROOT / "docs" / "your-data.md": "tests/e2e/test_your_data.py runs it"}
# A command that only prose shows -> the command that is run for it.
IN_PROSE = {
    "pdetr3d simulate": "pdetr3d simulate --dataroot simulated",
    "pdetr3d index --deep": "pdetr3d index --dataroot /data/nuscenes --version v1.0-mini --deep",
    "pdetr3d doctor RUN --deep": "pdetr3d doctor runs/quickstart --deep",
}
PROGRAMS = {"make", "pdetr3d", "python", "ray", "kubectl", "docker", "pip", "bash"}  # first words of commands in prose

SUBSTITUTES = {
    "v1.0-mini": "v1.0-sim",
    "mini_train": "sim_train",
    "$PDETR3D_REAL_DATA": "WORLD",
    "/data/nuscenes": "WORLD",
}
SMALLER = {
    "pdetr3d plan": ["model.range_m=[-12.8,-12.8,-5,12.8,12.8,3]", "data.image_size_px=[64,32]", "data.num_sweeps=2"],
    "pdetr3d show-config --preset nuscenes-voxel --model": [
        "model.range_m=[-12.8,-12.8,-5,12.8,12.8,3]",
        "data.image_size_px=[64,32]",
    ],
    "pdetr3d report-labels": ["--worst", "1"],
    "pdetr3d simulate": ["sim.scenes=1", "sim.select_scenes=1", "sim.val_scenes=1", "sim.image_size_px=[64,32]"],
}


def begins(line: str, table: Iterable[str]) -> str | None:
    """The entry of the table with whose words the line begins."""
    return next((start for start in table if f"{line} ".startswith(f"{start} ")), None)


def shown(path: Path) -> list[str]:
    """The commands of a document's code blocks, in order, without settings (``export``)."""
    return [shlex.join(words) for words in block_commands(path.read_text()) if words and words[0] != "export"]


def in_blocks() -> list[str]:
    """The commands of all code blocks, each once, in order, without those of NOT_RUN_DOCUMENTS."""
    return list(dict.fromkeys(line for path in DOCUMENTS if path not in NOT_RUN_DOCUMENTS for line in shown(path)))


RUN = [*(line for line in in_blocks() if not begins(line, [*NOT_RUN, *ELSEWHERE])), *IN_PROSE.values()]


def unlisted(text: str) -> list[str]:
    """The commands in a text's prose that are in no list and are not the beginning of a command that is run."""
    unknown = []
    for words in inline_commands(text):
        line = shlex.join(words).removesuffix(" --help").removesuffix(" --import")
        known = begins(line, [*NOT_RUN, *ELSEWHERE, *IN_PROSE]) or any(f"{one} ".startswith(f"{line} ") for one in RUN)
        if len(words) > 1 and words[0] in PROGRAMS and not known and not set(words) & {"INDEX", "URI"}:
            unknown.append(line)
    return unknown


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_prose_names_is_run_or_listed(path: Path) -> None:
    assert unlisted(path.read_text()) == [], "show it in a code block, or list it in NOT_RUN, ELSEWHERE or IN_PROSE"


def test_a_command_that_nobody_runs_is_seen() -> None:
    text = "Say `pdetr3d show-config --preset quickstart` or `pdetr3d\ncompare a b` or `make bench`, then `make lunch`."
    assert unlisted(text) == ["make lunch"]


def test_the_lists_hold_nothing_that_is_gone() -> None:
    every = [line for path in DOCUMENTS for line in shown(path)]
    every += [shlex.join(words) for path in DOCUMENTS for words in inline_commands(path.read_text())]
    listed = (*NOT_RUN, *ELSEWHERE, *SMALLER, *IN_PROSE)
    assert [start for start in listed if not any(f"{line} ".startswith(f"{start} ") for line in every)] == []


@pytest.mark.parametrize(("start", "test"), ELSEWHERE.items())
def test_what_others_run_is_in_their_files(start: str, test: tuple[str, str]) -> None:
    file, words = test
    assert words in (ROOT / file).read_text()


@pytest.fixture(scope="module")
def here(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands are run, with the files that they read and no other command writes."""
    here = tmp_path_factory.mktemp("commands")
    for name in ("quickstart", "mine"):
        write_quickstart(here / "runs" / name, sim_world)
    planted(here, sim_world)
    return here


def write_quickstart(folder: Path, dataroot: Path) -> None:
    """Write a run directory like the quickstart's with random weights, without training and without Ray."""
    planted = PlantedRun(folder, dataroot, *TINY, "data.num_sweeps=2", "data.image_size_px=[64,32]")
    planted.write_labels(planted.good_boxes())
    for kind, stage in (("student", "student_ours"), ("teacher", "teacher")):
        model = shaken(build(kind, planted.run.config, planted.prior, guidance=False).model)
        saved = checkpoint.save(folder / stage, model, None, 1, planted.run.config.to_json())
        saved.rename(folder / stage / "step_0000001.pt")
        planted.run.finish(stage, {"checkpoints": ["step_0000001.pt"], "steps": 1})


def planted(here: Path, dataroot: Path) -> None:
    """Write runs and searches with made-up figures, people's clicks, a recording, datasets in other formats."""
    search = here / "runs" / "search-label_ratio-quickstart"
    space = space_of({"label.ratio": {"values": [0.02, 0.05]}}, name="label_ratio", search="grid")
    for place, ratio in enumerate((0.02, 0.05)):
        plant_trial(search, space, f"t{place}", {"label.ratio": ratio}, 0.2 + ratio)
    write_search(search, space)
    for boxed, name in ((1, "r02"), (2, "r05"), (4, "r10")):
        write_run(here / "runs" / name, boxed)
    for name, overrides in (("d_roi", []), ("lidar-only", ["teacher.fusion=none"])):
        run = PlantedRun(here / "runs" / name, dataroot, *overrides)
        run.write_labels(run.good_boxes())
    tiny_kitti.write(here / "kitti", dict.fromkeys(("000000", "000001", "000002"), [tiny_kitti.CAR]))
    test_import_frames.write(here / "mine")
    index = Index.open(here / "runs/d_roi/data/index.arrow")
    token = index.tokens("sim_train")[0]
    record, found = index.record(token), index.annotations(token)
    clicks = [
        (token, *map(float, box[:3]), CLASSES[label], "lidar")
        for box, label in zip(found.box, found.label, strict=True)
    ]
    write_csv(here / "clicks.csv", [("sample_token", "x", "y", "z", "class", "frame"), *clicks])
    (here / "recordings").mkdir()
    poses: list[tuple[object, ...]] = [("file", "timestamp_us", "x", "y", "z", "qw", "qx", "qy", "qz")]
    for number, path in enumerate([record.sweeps[0].path, record.lidar_path]):
        name = f"recordings/{number:03d}.pcd.bin"
        shutil.copyfile(path, here / name)
        poses.append((name, 50_000 * number, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0))
    write_csv(here / "poses.csv", poses)


def write_csv(file: Path, rows: Sequence[Sequence[object]]) -> None:
    """Write rows, the first of which is the header."""
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def words_of(line: str, world: Path) -> list[str]:
    """The words of a command on the toy world, with smaller sizes if it would take long."""
    words = shlex.split(line) + SMALLER.get(begins(line, SMALLER) or "", [])
    for name, other in SUBSTITUTES.items():
        words = [word.replace(name, other) for word in words]
    return [word.replace("WORLD", str(world)) for word in words]


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN)
def test_command(
    line: str, here: Path, sim_world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setattr(measure, "ROUNDS", 1)
    monkeypatch.setattr(model_size, "SWEEP_POINTS", 500)
    monkeypatch.setattr(efficiency, "RESAMPLES", 20)
    line, _, file = line.partition(" '>' ")  # the document redirects the output to a file
    program, *words = words_of(line, sim_world)
    assert program == "pdetr3d", f"no way to run {line!r}: list it in NOT_RUN or ELSEWHERE"
    code = run_verb(words)
    said = capfd.readouterr()
    assert code == 0, said.out + said.err
    if file:
        Path(file).write_text(said.out)
    for option, made in zip(words, words[1:], strict=False):
        if option in ("--out", "--html", "--png", "--picture", "--measure"):
            assert os.path.getsize(made) > 0, f"{made} was not made"


@pytest.mark.slow
def test_the_code_of_the_api_page(here: Path, sim_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    assert run_verb(["index", "--dataroot", str(sim_world), "--version", "v1.0-sim"]) == 0
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/api.md").read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["at_clicks"]) == len(names["sample"].boxes) > 0
    assert names["boxes"].center_m.shape == (len(names["boxes"]), 3) and Path("first-look.png").stat().st_size > 0


@pytest.mark.slow
def test_the_notebook(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the notebook's cells in order in one namespace, as a kernel does."""
    notebook = json.loads((ROOT / "docs/first-look.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    (here / "notebooks").mkdir()
    monkeypatch.chdir(here / "notebooks")
    names: dict[str, Any] = {}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, "clear the outputs before a commit"
            shown.append(run_cell("".join(cell["source"]), names))
    pictures = [value.png for value in shown if isinstance(value, pdetr3d.Picture)]
    assert len(set(pictures)) == 3 and all(png.startswith(b"\x89PNG") for png in pictures)
    assert shown[0] == ("quickstart", "step_0000001.pt", "step_0000001.pt")
    assert (here / "runs/quickstart/first-look.png").read_bytes() == pictures[-1]
    assert len(names["at_click"]) == 1 and names["names"][0] == "car"
    assert "teacher's box: center" in capsys.readouterr().out


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell and return the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
