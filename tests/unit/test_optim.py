"""Learning rate and weight decay, by hand."""

import pytest
import torch
from torch import nn

from pdetr3d.config import OptimConfig
from pdetr3d.schema import DataError
from pdetr3d.training.optim import learning_rate, lr_factors, make_optimizer, set_learning_rate


def test_warm_up_then_cosine_to_a_thousandth() -> None:
    optim = OptimConfig(lr=2.0, warmup_share=0.2)
    rates = [learning_rate(optim, step, 10) for step in range(10)]
    assert rates[:3] == pytest.approx([1.0, 2.0, 2.0])  # two warm-up steps: 1/2, 2/2; the cosine starts at the peak
    # Seven intervals from step 2 to step 9; step 9 is the last.
    assert rates[9] == pytest.approx(2.0 / 1000)
    assert rates[5] + rates[6] == pytest.approx(2.0 + 2.0 / 1000)  # symmetric about the middle, 5.5
    assert rates[2:] == sorted(rates[2:], reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_shortest_schedules_stay_within_the_peak(steps: int, warmup: float) -> None:
    rates = [learning_rate(OptimConfig(lr=1.0, warmup_share=warmup), step, steps) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)


def test_no_weight_decay_on_biases_and_norms() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Linear(4, 1, bias=False))
    model[2].weight.requires_grad_(False)
    decayed, free = make_optimizer(model, OptimConfig(lr=0.5, weight_decay=0.1)).param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 3)] and decayed["weight_decay"] == 0.1
    assert [p.shape for p in free["params"]] == [(4,), (4,), (4,)] and free["weight_decay"] == 0
    assert decayed["lr"] == free["lr"] == 0.5


def test_decay_shrinks_matrices_only() -> None:
    """AdamW with zero gradients: w <- w (1 - lr * decay) on matrices, nothing on vectors."""
    model = nn.Linear(2, 2)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    optimizer = make_optimizer(model, OptimConfig(lr=0.5, weight_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), torch.full((2, 2), 0.95))
    torch.testing.assert_close(model.bias.detach(), torch.ones(2))


def named(**parts: nn.Module) -> nn.Module:
    return nn.ModuleDict(parts)


def test_multipliers_by_hand() -> None:
    """AdamW's first step changes each weight by lr, for any size of the gradient, so the factors are visible in it."""
    model = named(a=nn.Linear(2, 2), ab=nn.Linear(2, 2), c=nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    config = OptimConfig(lr=0.5, weight_decay=0.0, lr_multipliers=(("a", 0.1), ("c", 2.0), ("c.1", 0.01)))
    expected = {"a": 0.1, "ab": 1.0, "c.0": 2.0, "c.1": 0.01}  # "a" is not the beginning of "ab"; the longest counts
    for name, factor in lr_factors(model, config).items():
        assert factor == expected[name.rpartition(".")[0]], name
    optimizer = make_optimizer(model, config)
    set_learning_rate(optimizer, 0.25)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        change = torch.full_like(parameter, 0.25 * expected[name.rpartition(".")[0]])
        torch.testing.assert_close(before[name] - parameter.detach(), change, msg=name)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 8


def test_multipliers_keep_the_decay_of_matrices_only() -> None:
    optimizer = make_optimizer(named(a=nn.Linear(2, 2), b=nn.Linear(2, 2)), OptimConfig(lr_multipliers=(("a", 0.1),)))
    groups = [(g["factor"], g["weight_decay"], [p.ndim for p in g["params"]]) for g in optimizer.param_groups]
    assert groups == [(1.0, 0.01, [2]), (1.0, 0.0, [1]), (0.1, 0.01, [2]), (0.1, 0.0, [1])]


def test_a_multiplier_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="lr_multipliers: 'SECOND' is the beginning of no parameter name .* it has a"):
        make_optimizer(named(a=nn.Linear(2, 2)), OptimConfig(lr_multipliers=(("SECOND", 0.1),)))
