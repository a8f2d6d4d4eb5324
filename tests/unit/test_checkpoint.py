"""Tests of checkpoints: they are read back unchanged, run no code, and leave no half-written file."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from pdetr3d.schema import DataError
from pdetr3d.training import checkpoint


class Payload:
    """A pickled object that would run a command when loaded."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.flag),)


def model_and_optimizer() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_round_trip(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    file = checkpoint.save(tmp_path / "new" / "folder", model, optimizer, 7, '{"a": 1}')
    state = checkpoint.load(file)
    assert (state["step"], state["config"]) == (7, '{"a": 1}')
    assert state["model"].keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(state["model"][key], value)
    moments = optimizer.state_dict()["state"]
    assert all(torch.equal(state["optimizer"]["state"][i]["exp_avg_sq"], m["exp_avg_sq"]) for i, m in moments.items())
    assert [f.name for f in file.parent.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_other_code_is_named(tmp_path: Path) -> None:
    model, _ = model_and_optimizer()
    for config, words in (
        ('{"preset": "", "student": {"drift": true}}', "config key student.drift = true: it was removed"),
        ('{"preset": "", "student": {"drfit": 1}}', "unknown config key 'student.drfit'"),
    ):
        file = checkpoint.save(tmp_path, model, None, 1, config)
        with pytest.raises(DataError, match=f"checkpoint {file}: {words}"):
            checkpoint.config_of(checkpoint.load(file), file)


def test_without_optimizer(tmp_path: Path) -> None:
    model, _ = model_and_optimizer()
    assert "optimizer" not in checkpoint.load(checkpoint.save(tmp_path, model, None, 1, "{}"))


def test_a_cut_checkpoint_is_called_so(tmp_path: Path) -> None:
    file = checkpoint.save(tmp_path, nn.Linear(40, 40), None, 1, "{}")
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"weights only: its end is missing \(it has 3000 bytes\); copy it again"):
        checkpoint.load(file)


@pytest.mark.parametrize("written_by", ["pickle", "torch"])
def test_a_pickled_object_is_refused_and_does_not_run(tmp_path: Path, written_by: str) -> None:
    file, flag = tmp_path / "checkpoint.pt", tmp_path / "it_ran"
    content = {"model": {}, "step": 1, "config": "{}", "extra": Payload(flag)}
    if written_by == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    with pytest.raises(DataError, match=f"{file} cannot be read as weights only"):
        checkpoint.load(file)
    assert not flag.exists()
    if written_by == "pickle":  # the payload is real: an unsafe load runs it
        pickle.loads(file.read_bytes())
        assert flag.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    model, optimizer = model_and_optimizer()
    file = checkpoint.save(tmp_path, model, optimizer, 1, "{}")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=str(file)):
        checkpoint.load(file)


def test_missing_and_foreign_files_name_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the training job first"):
        checkpoint.load(tmp_path / "none.pt")
    for name, content in (("list.pt", [1, 2]), ("keys.pt", {"model": {}, "step": 1})):
        torch.save(content, tmp_path / name)
        with pytest.raises(DataError, match="model, step, config"):
            checkpoint.load(tmp_path / name)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = model_and_optimizer()
    file = checkpoint.save(tmp_path, model, None, 1, "{}")

    def disk_full(state: object, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, model, None, 2, "{}")
    monkeypatch.undo()
    assert checkpoint.load(file)["step"] == 1
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint.pt"]
