"""Tests of ``--config FILE``: files that show-config wrote, the order preset < file < command line, bad files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pdetr3d import presets
from pdetr3d.cli import main
from pdetr3d.config import Config, DataError
from pdetr3d.config_file import to_yaml, with_file
from pdetr3d.training.run_dir import RunDir
from tests.jobs import launch, parse_search


@pytest.fixture(autouse=True)
def _real_data_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDETR3D_REAL_DATA", "a-folder")


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text)
    return file


def loaded(file: Path, preset: str | None = None, *overrides: str) -> Config:
    return presets.load(*with_file(file, preset, list(overrides)))


@pytest.mark.parametrize("name", presets.PRESETS)
def test_what_show_config_writes_gives_the_same_config(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["optim.weight_decay=1e-05", "run.name=my: run #1", "student.augment_scale=[0.9,1.1]"]
    assert main(["show-config", "--preset", name, *changes]) == 0
    file = written(tmp_path, capsys.readouterr().out)
    config = presets.load(name, changes)
    assert loaded(file) == loaded(file, name) == config
    # The file means the same to a reader of YAML 1.1, which would read 1e-05 as text.
    assert yaml.safe_load(file.read_text()) == yaml.safe_load(config.to_json().replace("1e-05", "1.0e-05"))


def test_the_run_is_the_same_one(tmp_path: Path) -> None:
    config = presets.load("quickstart", ["optim.lr=0.001"])
    file = written(tmp_path, to_yaml(config))
    assert RunDir(tmp_path / "a", loaded(file)).digest == RunDir(tmp_path / "b", config).digest
    assert RunDir(tmp_path / "c", loaded(file, None, "optim.lr=0.002")).digest != RunDir(tmp_path / "b", config).digest


@pytest.mark.parametrize("text", ["label.ratio: 0.3", "label: {ratio: 0.3}", "label: {seed: 7}\nlabel.ratio: 0.3"])
def test_keys_may_be_written_with_dots(text: str, tmp_path: Path) -> None:
    assert loaded(written(tmp_path, f"preset: quickstart\n{text}")).label.ratio == 0.3


def test_every_key_has_its_meaning_and_unit(tmp_path: Path) -> None:
    lines = [line.strip() for line in to_yaml(presets.QUICKSTART).splitlines()]
    place = next(number for number, line in enumerate(lines) if line.startswith("stall_s:"))
    assert lines[place] == "stall_s: 300.0" and lines[place - 1].endswith("[s]; allowed: number > 0")
    keys = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    assert len(keys) > 150 and [lines[number] for number in keys if not lines[number - 1].startswith("#")] == []


def test_the_command_line_comes_after_the_file_and_the_file_after_the_preset(tmp_path: Path) -> None:
    file = written(tmp_path, "optim:\n  lr: 1e-3\n  epochs: 3\nteacher:\n  optim: {lr: 0.5}\n")
    config = loaded(file, "quickstart", "optim.epochs=4")
    assert (config.optim.lr, config.optim.epochs, config.teacher.optim.lr) == (0.001, 4, 0.5)
    assert config.optim.batch_size == presets.QUICKSTART.optim.batch_size


def test_a_file_gives_way_to_nothing_where_it_says_what_the_preset_says(tmp_path: Path) -> None:
    """A whole config file under a sweep or a study acts only by the keys that differ from the preset."""
    file = written(tmp_path, to_yaml(presets.load("quickstart", ["optim.lr=0.25"])))
    assert with_file(file, None, ["label.ratio=0.1"]) == ("quickstart", ["optim.lr=0.25", "label.ratio=0.1"])


def test_what_is_wrong_together_may_be_mended_on_the_command_line(tmp_path: Path) -> None:
    file = written(tmp_path, "preset: quickstart\nscaling:\n  workers: 3\n")
    with pytest.raises(DataError, match=r"mine\.yaml, with what is on the command line: optim\.batch_size 2 is global"):
        with_file(file, None, [])
    assert loaded(file, None, "optim.batch_size=3", "teacher.optim.batch_size=3", "teacher.crop_optim.batch_size=3")
    with pytest.raises(DataError, match="^unknown config key 'optim.lrr'"):
        with_file(file, None, ["optim.lrr=1"])


BAD = {
    "preset: quickstart\noptim:\n  lrr: 1\n": "mine.yaml:3: unknown config key 'optim.lrr' (did you mean 'optim.lr'?)",
    "preset: quickstart\nopt:\n  lr: 1\n": "mine.yaml:2: unknown config key 'opt' (did you mean",
    "preset: quickstart\n\noptim:\n  lr: fast\n": 'mine.yaml:4: optim.lr = "fast": Input should be a valid number; '
    "allowed: number > 0. Change it there, or remove the line: the preset has 0.008",
    "preset: quickstart\nmodel:\n  range_m: [0, 1]\n": "mine.yaml:3: model.range_m = [0, 1]: ",
    "preset: quickstart\ndata:\n  version: 1.0\n": "mine.yaml:3: data.version = 1.0: Input should be a valid string",
    "preset: quickstart\nlabel:\n  split_by: town\n": "mine.yaml:3: label.split_by = \"town\": Input should be 'scene'",
    "preset: quickstart\noptim: 3\n": "mine.yaml:2: optim is a section: write its keys under it (lr, ",
    "preset: quickstart\noptim:\n  lr: {a: 1}\n": "mine.yaml:3: optim.lr is a key, not a section",
    "preset: quickstart\noptim: {lr: 1}\nlabel: {ratio: 1}\noptim: {lr: 2}\n": "mine.yaml:4: optim.lr stands at",
    "preset: quickstart\noptim:\n  lr: [1\nlabel:\n": "mine.yaml:4: this is no YAML: ",
    "preset: quickstart\noptim:\n\tlr: 1\n": "mine.yaml:3: this is no YAML: ",
    "preset: quickstart\nrun: {name: &a x}\nstorage: {path: *a}\n": "mine.yaml:3: *a: aliases are not read",
    "preset: quickstart\nrun: {name: '${a'}\n": "mine.yaml: ",
    "preset: quickstart\nrun: {name: 'a\x01'}\n": "mine.yaml:2: this is no YAML: unacceptable character #x0001",
    "preset: quickstart\nlabel:\n  seed: 010\n": "mine.yaml:3: label.seed: 010 is not read as people read it; write",
    "preset: quickstart\nsim:\n  image_size_px: [320, 1_80]  # 0:30\n": "mine.yaml:3: sim.image_size_px: 1_80 is",
    "- optim\n": "mine.yaml holds no sections with keys, such as optim: {lr: 0.001}; begin with what `pdetr3d show-con",
    "": "mine.yaml holds no sections with keys",
    "optim: {lr: 1}\n": "mine.yaml names no preset: add the line preset: NAME (one of quickstart, ",
    "\npreset: quikstart\n": "mine.yaml:2: preset = 'quikstart': allowed: quickstart, headline",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_refused_with_its_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, text)
    for run in (
        lambda: launch(lambda _: None, ["--config", str(file), "--run-dir", str(tmp_path / "run")]),
        lambda: main(["simulate", "--dataroot", str(tmp_path / "world"), "--config", str(file)]),
    ):
        assert run() == 2
        captured = capsys.readouterr()
        assert BAD[text] in captured.err and "Traceback" not in captured.err and captured.out == ""
    assert list(tmp_path.iterdir()) == [file]  # nothing half-written


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--config .*no\.yaml: no such file; begin with what `pdetr3d show-config`"):
        with_file(tmp_path / "no.yaml", None, [])
    with pytest.raises(DataError, match="no such file"):
        with_file(tmp_path, None, [])
    (tmp_path / "bytes.yaml").write_bytes(b"run: {name: \xff}")
    with pytest.raises(DataError, match=r"bytes\.yaml is no text file in UTF-8 \(invalid start byte at byte 12\)"):
        with_file(tmp_path / "bytes.yaml", None, [])


def test_two_presets_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "preset: headline\n")
    with pytest.raises(DataError, match=r"mine\.yaml:1: preset = 'headline', but --preset says 'kitti'"):
        with_file(file, "kitti", [])
    with pytest.raises(DataError, match=r"no preset is named: --preset NAME \(one of quickstart, .* or --config FILE"):
        with_file(None, None, [])


def test_searches_take_it(tmp_path: Path) -> None:
    file = written(tmp_path, "preset: quickstart\noptim: {lr: 0.5}\n")
    args = parse_search(["optimizer", "--config", str(file), "--seeds", "1", "label.ratio=0.1"])
    assert (args.preset, args.overrides, args.seeds) == ("quickstart", ["optim.lr=0.5", "label.ratio=0.1"], [1])
