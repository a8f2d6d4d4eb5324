"""Tests of the order of samples: once per pass, independent of the number of workers, resumable anywhere."""

from collections import Counter

import pytest

from pdetr3d.schema import DataError
from pdetr3d.training.plan import Plan, permutation, total_steps


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
    def order(seed: int, number: int) -> list[int]:
        permutation.cache_clear()
        return list(permutation(seed, number, "order", 50))

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)


def test_no_samples_is_the_users_error() -> None:
    with pytest.raises(DataError, match="label.ratio"):
        Plan(0, 4, 10, 0)


def test_steps_count_passes_over_the_train_split() -> None:
    assert total_steps(20, 28130, 32) == round(20 * 28130 / 32)
    assert total_steps(0.001, 10, 4) == 1


def test_repeated_samples_are_keyed_by_their_place() -> None:
    """Samples and order are unchanged; the second number, the key of the random draws, is unique."""
    plain, repeats = Plan(5, 4, 10, seed=2), Plan(5, 4, 10, seed=2, repeats=True)
    one, two = ([item for step in range(10) for item in plan.at(step, 0, 1)] for plan in (plain, repeats))
    assert [index for index, _ in one] == [index for index, _ in two]
    assert [number for _, number in two] == list(range(40))


def test_each_batch_has_its_share_of_box_labeled_samples() -> None:
    """3 of 11 samples are box-labeled and take 2 of 6 places: 5 steps use 10 (3 passes and 1) and 20 of the others."""
    plan = Plan(11, 6, 5, seed=4, boxed=3, box_slots=2)
    steps = [plan.at(step, 0, 1) for step in range(5)]
    assert [sum(index < 3 for index, _ in step) for step in steps] == [2] * 5
    got = Counter(item for step in steps for item in step)
    assert {item for item in got if item[0] < 3 and item[1] < 3} == {(i, n) for i in range(3) for n in range(3)}
    assert {item for item in got if item[0] >= 3 and item[1] < 2} == {(i, n) for i in range(3, 11) for n in range(2)}
    assert max(got.values()) == 1 and got.total() == 30
    for step in range(5):
        assert steps[step] == [item for rank in range(3) for item in plan.at(step, rank, 3)]
    # Their places in the batch vary, so that none of 3 ranks gets only one kind.
    assert len({tuple(index < 3 for index, _ in step) for step in steps}) > 1


@pytest.mark.parametrize(("boxed", "slots"), [(0, 1), (11, 1), (3, 4)])
def test_parts_that_no_batch_can_hold_are_refused(boxed: int, slots: int) -> None:
    with pytest.raises(ValueError, match="no such parts"):
        Plan(11, 4, 5, seed=4, boxed=boxed, box_slots=slots)


def test_a_pass_over_a_million_samples_is_drawn_once() -> None:
    plan = Plan(1_000_000, 32, 31_250, seed=0)
    whole = [index for step in range(0, 31_250, 50) for index, _ in plan.at(step, 0, 1)]
    order = permutation(0, 0, "order", 1_000_000)
    assert whole == order.reshape(-1, 32)[::50].ravel().tolist()
    assert permutation(0, 0, "order", 1_000_000) is order  # not drawn anew
