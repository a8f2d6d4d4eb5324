"""Tests of the run directory: a run's identity, keys that may differ, and data after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdetr3d.config import Config
from pdetr3d.config_seen import seen_by
from pdetr3d.data.storage.files import write_json
from pdetr3d.schema import DataError
from pdetr3d.training.run_dir import RunDir, free_path, prepare
from pdetr3d.training.stage_versions import STAGE_VERSIONS, code_version
from tests.jobs import launch
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


@pytest.mark.parametrize("tables", [".", "v1.0-mini"])
def test_a_run_is_not_written_among_tables(tables: str, tmp_path: Path) -> None:
    (tmp_path / tables).mkdir(exist_ok=True)
    (tmp_path / tables / "sample.json").write_text("[]")
    with pytest.raises(DataError, match="holds the tables of a dataset.*choose another --run-dir"):
        RunDir(tmp_path, tiny_config())
    assert {entry.name for entry in tmp_path.rglob("*") if entry.is_file()} == {"sample.json"}


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
    assert launch(never, arguments) == 2
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


def test_another_version_of_a_stage_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = begin(tmp_path / "run", tiny_config())
    assert RunDir(tmp_path / "run", tiny_config()).digest == first.digest
    old = STAGE_VERSIONS["teacher"]
    monkeypatch.setitem(STAGE_VERSIONS, "teacher", old + 1)
    with pytest.raises(DataError, match=f"differs in\n  code: .*teacher {old} there, .*teacher {old + 1} now"):
        RunDir(tmp_path / "run", tiny_config())


def test_no_file_of_the_code_is_part_of_the_identity(tmp_path: Path) -> None:
    """An edit of a comment, a report or the README does not end a run: of the sources only the versions count."""
    begin(tmp_path / "run", tiny_config())
    identity = json.loads((tmp_path / "run" / "run.json").read_text())
    known = seen_by(tiny_config()).keys()
    assert identity.keys() - known == {"code", "tables"} and identity["code"] == code_version()


def test_a_key_that_came_later_counts_only_when_it_is_set(tmp_path: Path) -> None:
    first = begin(tmp_path, tiny_config())
    before = json.loads((tmp_path / "run.json").read_text())
    del before["optim.weight_decay"]  # as a run of earlier code, which used the default
    write_json(tmp_path / "run.json", before)
    digest = RunDir(tmp_path, tiny_config()).digest
    assert digest != first.digest and RunDir(tmp_path, tiny_config()).digest == digest
    with pytest.raises(DataError, match="differs in\n  optim.weight_decay: None there, 0.5 now"):
        RunDir(tmp_path, tiny_config("optim.weight_decay=0.5"))


def test_a_key_that_was_removed_counts_only_if_it_was_on(tmp_path: Path) -> None:
    begin(tmp_path, tiny_config())
    before = json.loads((tmp_path / "run.json").read_text())
    write_json(tmp_path / "run.json", before | {"student.drift": False})
    RunDir(tmp_path, tiny_config()).close()
    write_json(tmp_path / "run.json", before | {"student.drift": True})
    with pytest.raises(DataError, match="differs in\n  student.drift: True there, None now"):
        RunDir(tmp_path, tiny_config())


def test_fresh_begins_anew_beside_and_overwrites_nothing(tmp_path: Path) -> None:
    first = begin(tmp_path / "run", tiny_config())
    (tmp_path / "run-2").mkdir()  # another run's directory
    second = RunDir(free_path(tmp_path / "run"), tiny_config(), fresh=True)
    (second.path / "data").mkdir()
    assert second.path == tmp_path / "run-3" and not list((tmp_path / "run-2").iterdir())
    assert second.digest != first.digest  # names the run's folder in shared storage
    assert RunDir(second.path, tiny_config()).digest == second.digest  # later without --fresh: it continues
    assert free_path(tmp_path / "new") == tmp_path / "new"


def test_a_run_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    begin(tmp_path, tiny_config())
    (tmp_path / "run.json").write_text('{"preset": "qui')
    with pytest.raises(DataError, match=f"{tmp_path / 'run.json'}: cannot be read as JSON .*--fresh"):
        RunDir(tmp_path, tiny_config())


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, "[1]", "\ufeff3"])
def test_a_result_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path, tiny_config())
    run.finish("teacher", {"checkpoints": []})
    (tmp_path / "teacher" / "done.json").write_text(text)
    with pytest.raises(
        DataError, match=r"teacher/done\.json: (cannot be read as JSON|must be an object).*; remove it, and t"
    ):
        run.result("teacher")


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


def test_prepared_data_is_opened_not_made_again(tmp_path: Path, sim_world: Path) -> None:
    run = RunDir(tmp_path, world_config(sim_world))
    first = prepare(run)
    assert set(first.manifest.roles.values()) == {"box", "point"}
    # Killed while the manifest was written: manifest.json comes last, without it the folder is made again.
    (tmp_path / "data" / "manifest" / "manifest.json").unlink()
    (tmp_path / "data" / "manifest" / "clicks.arrow").write_bytes(b"half")
    before = (tmp_path / "data" / "index.arrow").stat()
    second = prepare(run)
    assert (tmp_path / "data" / "index.arrow").stat().st_ino == before.st_ino
    assert (second.index.digest, second.manifest.digest) == (first.index.digest, first.manifest.digest)
