"""The run directory: what identifies a run, what may differ, and data that an interruption left half-made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pdetr3d
from pdetr3d.config import Config
from pdetr3d.schema import DataError
from pdetr3d.training import run_dir
from pdetr3d.training.run_dir import RunDir, prepare, write_json
from ray_jobs.launch import launch
from tests.model_cases import tiny_config
from tests.training_cases import world_arguments, world_config


def never(stages: object) -> None:
    raise AssertionError("the job must not start")


def begin(path: Path, config: Config) -> RunDir:
    """A run that has started to work: its data folder exists."""
    run = RunDir(path, config)
    (path / "data").mkdir(exist_ok=True)
    run.close()
    return run


def test_the_same_config_continues(tmp_path: Path) -> None:
    first = begin(tmp_path / "run", tiny_config())
    assert first.path.is_absolute() and first.result("teacher") is None
    assert first.finish("teacher", {"steps": 3, "loss": None}) == {"steps": 3, "loss": None}
    second = RunDir(tmp_path / "run", tiny_config())
    assert second.digest == first.digest
    assert second.result("teacher") == {"steps": 3, "loss": None}
    assert second.result("student_ours") is None


def test_another_config_is_refused_and_named(tmp_path: Path) -> None:
    begin(tmp_path, tiny_config("optim.lr=0.5"))
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(DataError) as caught:
        RunDir(tmp_path, tiny_config("optim.lr=0.25", "run.seed=7"))
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert str(tmp_path) in lines[0] and "--run-dir" in lines[-1]
    assert lines[1:-1] == ["optim.lr: 0.5 there, 0.25 now", "run.seed: 0 there, 7 now"]
    assert (tmp_path / "run.json").read_bytes() == before


def test_jobs_exit_with_2_before_anything_is_written(
    tmp_path: Path, sim_world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(tmp_path, world_config(sim_world, "optim.lr=0.5"))
    arguments = ["--preset", "quickstart", "--run-dir", str(tmp_path), *world_arguments(sim_world, "optim.lr=0.25")]
    assert launch(never, "test", arguments) == 2
    error = capsys.readouterr().err
    assert "optim.lr: 0.5 there, 0.25 now" in error and "Traceback" not in error
    assert sorted(f.name for f in tmp_path.iterdir()) == ["data", "run.json"]
    assert not list((tmp_path / "data").iterdir())


def test_a_run_whose_input_was_refused_may_be_corrected_in_place(tmp_path: Path) -> None:
    first = RunDir(tmp_path, tiny_config("optim.lr=0.5"))
    assert RunDir(tmp_path, tiny_config("optim.lr=0.25")).digest != first.digest
    assert json.loads((tmp_path / "run.json").read_text())["optim.lr"] == 0.25


def test_where_a_run_computes_may_differ(tmp_path: Path) -> None:
    first = begin(tmp_path / "run", tiny_config())
    other = tiny_config("scaling.workers=2", "scaling.cpus_per_worker=0.5", f"storage.path={tmp_path}/elsewhere")
    assert RunDir(tmp_path / "run", other).digest == first.digest


def test_other_code_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "code" / "ray_jobs"  # the jobs are code, too
    (sources / "inner").mkdir(parents=True)
    (sources / "inner" / "code.py").write_text("x = 1\n")
    monkeypatch.setattr(pdetr3d, "__file__", str(tmp_path / "code" / "pdetr3d" / "__init__.py"))
    first = begin(tmp_path / "run", tiny_config())
    (sources / "notes.txt").write_text("not code")
    assert RunDir(tmp_path / "run", tiny_config()).digest == first.digest
    (sources / "inner" / "code.py").write_text("x = 2\n")
    with pytest.raises(DataError, match="differs in\n  code: "):
        RunDir(tmp_path / "run", tiny_config())
    (sources / "inner" / "code.py").write_text("x = 1\n")
    (sources / "inner" / "code.py").rename(sources / "code.py")  # same text under another name
    with pytest.raises(DataError, match="differs in\n  code: "):
        RunDir(tmp_path / "run", tiny_config())


def test_another_dataset_in_the_same_folder_is_another_run(tmp_path: Path) -> None:
    tables = tmp_path / "root" / "v1.0-sim"
    tables.mkdir(parents=True)
    (tables / "sample.json").write_text("[]")
    config = tiny_config(f"data.dataroot={tmp_path / 'root'}")
    begin(tmp_path / "run", config)
    (tables / "sample.json").write_text("[ ]")
    with pytest.raises(DataError, match="differs in\n  tables: "):
        RunDir(tmp_path / "run", config)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})  # no JSON number: the file could not be read elsewhere
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_prepared_data_is_opened_not_made_again(
    tmp_path: Path, sim_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path, world_config(sim_world))
    first = prepare(run)
    assert set(first.manifest.roles.values()) == {"box", "point"}
    assert set(first.everything.roles.values()) == {"box"}
    assert first.manifest.roles.keys() == first.everything.roles.keys()
    assert first.manifest.clicks.equals(first.everything.clicks)  # a click does not depend on the ratio

    # Killed while the manifest was written: manifest.json comes last, without it the folder is made again.
    (tmp_path / "data" / "manifest" / "manifest.json").unlink()
    (tmp_path / "data" / "manifest" / "clicks.arrow").write_bytes(b"half")

    def not_again(*arguments: object) -> None:
        raise AssertionError("the index exists")

    monkeypatch.setattr(run_dir, "build_index", not_again)
    second = prepare(run)
    assert (second.index.digest, second.manifest.digest) == (first.index.digest, first.manifest.digest)
