"""The moving average of weights: three steps by hand, buffers, and that it survives checkpoints and resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pdetr3d.config import Config
from pdetr3d.training import checkpoint
from pdetr3d.training.ema import averaged
from tests.training_cases import World, open_world, run_locally
from tests.unit.test_loop import Interrupted, equal

EMA = ["model.norm=batch", "optim.batch_size=2", "optim.ema_decay=0.8", "optim.lr=0.01", "label.ratio=1.0"]


class One(nn.Module):
    """One weight, one averaged buffer, one counter and one buffer that is not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(7.0))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("cells", torch.tensor([1023, 9]), persistent=False)

    def set(self, value: float, count: int) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.mean.fill_(value / 2)
            self.count.fill_(count)


def after(decay: float, values: list[float]) -> nn.Module:
    model = One()
    average = averaged(model, decay)
    for count, value in enumerate(values, start=9):
        model.set(value, count)
        average.update_parameters(model)
    return average.module


def test_three_steps_by_hand() -> None:
    """w = 9: d = 1 - 10/11 = 1/11 at the second step, 1 - 10/12 = 1/6 at the third."""
    assert after(0.999, []).weight.item() == 7
    assert after(0.999, [1]).weight.item() == 1  # the average starts with the first step's weights
    second = 1 / 11 * 1 + 10 / 11 * 4
    assert after(0.999, [1, 4]).weight.item() == pytest.approx(second)
    third = 1 / 6 * second + 5 / 6 * -2
    assert after(0.999, [1, 4, -2]).weight.item() == pytest.approx(third)
    assert after(0.999, [1, 4, -2]).mean.item() == pytest.approx(third / 2)


def test_decay_bounds_the_warm_up() -> None:
    """d = 0.05 from the second step on: 0.05 * 1 + 0.95 * 4 = 3.85; 0.05 * 3.85 - 0.95 * 2 = -1.7075."""
    assert after(0.05, [1, 4]).weight.item() == pytest.approx(3.85)
    assert after(0.05, [1, 4, -2]).weight.item() == pytest.approx(-1.7075)


def test_whole_numbers_are_copied_and_constants_stay() -> None:
    average = after(0.999, [1.0] * 40)
    assert average.count.item() == 9 + 39 and average.cells.tolist() == [1023, 9] and average.weight.item() == 1
    assert not average.training


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return open_world(sim_world, tmp_path_factory.mktemp("ema"), *EMA)


def every_step(config: Config) -> Config:
    """Checkpoints after each of four steps."""
    update = {"checkpoints": 5, "checkpoints_from": 0.0}
    return config.model_copy(update={"optim": config.optim.model_copy(update=update)})


def test_the_checkpoints_average_is_that_of_the_steps_weights(world: World, tmp_path: Path) -> None:
    run_locally("student", every_step(world.run.config), world.records, tmp_path, 4)
    states = [checkpoint.load(tmp_path / f"step_{n:07d}" / "checkpoint.pt") for n in range(1, 5)]
    for name, value in states[0]["model"].items():
        if not value.is_floating_point():
            continue
        expected = value
        for state, d in zip(states[1:], (1 / 11, 1 / 6, 3 / 13), strict=True):
            expected = d * expected + (1 - d) * state["model"][name]
        torch.testing.assert_close(checkpoint.best_weights(states[3])[name], expected, msg=name)
    assert any("running_mean" in name for name in states[0]["model"])
    assert not equal(checkpoint.best_weights(states[3]), states[3]["model"])


def test_a_resume_continues_the_average_with_the_same_bits(world: World, tmp_path: Path) -> None:
    config = every_step(world.run.config)
    run_locally("student", config, world.records, tmp_path / "straight", 5)
    with pytest.raises(KeyboardInterrupt):
        run_locally("student", config, world.records, tmp_path / "resumed", 5, Interrupted)
    run_locally("student", config, world.records, tmp_path / "resumed", 5)
    one, two = (checkpoint.load(tmp_path / run / "step_0000005" / "checkpoint.pt") for run in ("straight", "resumed"))
    assert equal(dict(one["average"]), dict(two["average"])) and one["average"]["n_averaged"] == 5


def test_it_is_off_by_default_and_changes_no_weight(world: World, tmp_path: Path) -> None:
    config = world.run.config
    off = config.model_copy(update={"optim": config.optim.model_copy(update={"ema_decay": 0.0})})
    for name, chosen in (("on", config), ("off", off)):
        run_locally("student", chosen, world.records, tmp_path / name, 2)
    on, without = (checkpoint.load(tmp_path / name / "step_0000002" / "checkpoint.pt") for name in ("on", "off"))
    assert "average" in on and "average" not in without
    assert equal(dict(on["model"]), dict(without["model"]))
    assert checkpoint.best_weights(without) is without["model"]
    assert Config(preset="x").optim.ema_decay == 0
