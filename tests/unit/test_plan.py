"""The order of samples: exactly once per pass, independent of the number of workers, resumable anywhere."""

from collections import Counter

import pytest

from pdetr3d.schema import DataError
from pdetr3d.training.plan import Plan, total_steps


@pytest.mark.parametrize(("samples", "batch"), [(7, 4), (10, 4), (3, 8), (1, 2), (12, 4)])
def test_every_pass_delivers_each_sample_once(samples: int, batch: int) -> None:
    passes = 6
    plan = Plan(samples, batch, steps=-(-samples * passes // batch), seed=3)
    stream = [item for step in range(plan.steps) for item in plan.at(step, 0, 1)]
    for number in range(passes):
        got = Counter(index for index, n in stream if n == number)
        assert got == Counter(range(samples))


def test_world_size_splits_the_same_global_batch() -> None:
    plan = Plan(10, 6, 20, seed=1)
    for step in range(20):
        whole = plan.at(step, 0, 1)
        assert whole == [item for rank in range(2) for item in plan.at(step, rank, 2)]
        assert whole == [item for rank in range(3) for item in plan.at(step, rank, 3)]


def test_passes_and_seeds_differ() -> None:
    a, b = Plan(50, 5, 10, seed=0), Plan(50, 5, 10, seed=1)
    assert list(a.permutation(0)) == list(Plan(50, 5, 10, seed=0).permutation(0))
    assert list(a.permutation(0)) != list(a.permutation(1))
    assert list(a.permutation(0)) != list(b.permutation(0))


def test_no_samples_is_the_users_error() -> None:
    with pytest.raises(DataError, match="label.ratio"):
        Plan(0, 4, 10, 0)


def test_steps_count_passes_over_the_train_split() -> None:
    assert total_steps(20, 28130, 32) == round(20 * 28130 / 32)
    assert total_steps(0.001, 10, 4) == 1


def test_repeated_samples_are_keyed_by_their_place() -> None:
    """The same samples in the same order; the second number, which keys the draws, never comes twice."""
    plain, repeats = Plan(5, 4, 10, seed=2), Plan(5, 4, 10, seed=2, repeats=True)
    one, two = ([item for step in range(10) for item in plan.at(step, 0, 1)] for plan in (plain, repeats))
    assert [index for index, _ in one] == [index for index, _ in two]
    assert [number for _, number in two] == list(range(40))
