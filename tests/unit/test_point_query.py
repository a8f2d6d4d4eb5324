"""Tests of queries: the information of each initialization about a click, and the jitter of groups."""

import numpy as np
import torch

from pdetr3d.batch import hashed_uniform
from pdetr3d.models.point_query import JITTER_SHARE, ExplicitQuery, GroupQuery, ImplicitQuery, LearnedQuery
from pdetr3d.schema import FALLBACK_SIZE_M
from tests.model_cases import make_batch

PRIOR, RANGE, BATCH = torch.tensor(FALLBACK_SIZE_M), (-12.8, -12.8, -5.0, 12.8, 12.8, 3.0), make_batch(clicks=6)
COMMON = (24, PRIOR, RANGE)


def test_group_in_evaluation_is_explicit() -> None:
    group, explicit = GroupQuery(*COMMON, copies=3).eval(), ExplicitQuery(*COMMON)
    explicit.load_state_dict(group.state_dict())
    one, other = group(BATCH.click, BATCH.click_label), explicit(BATCH.click, BATCH.click_label)
    torch.testing.assert_close([one.content, one.position, one.reference], [other.content, other.position, BATCH.click])


def test_copies_of_a_group_surround_their_click() -> None:
    queries = GroupQuery(*COMMON, copies=3).train()(BATCH.click, BATCH.click_label)
    assert queries.click.tolist() == [[*range(6)] * 3] * 2
    offset = queries.reference.unflatten(1, (3, 6)) - BATCH.click[:, None]
    size = PRIOR[BATCH.click_label][:, None]
    side = (size[..., 0] * size[..., 1]).sqrt()
    assert (offset[:, 0] == 0).all() and (offset[:, 1:].abs().amax(-1) > 0).all()
    assert (offset[..., :2].abs() <= JITTER_SHARE * side[..., None] + 1e-5).all()
    assert (offset[..., 2].abs() <= JITTER_SHARE * size[..., 2] + 1e-5).all()
    assert (queries.anchor == queries.reference).all()


def test_jitter_is_the_clicks_own() -> None:
    """The jitter depends neither on torch's generator nor on other clicks of the batch, and differs between clicks."""
    expected = hashed_uniform(BATCH.click, 4)
    torch.rand(7)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(hashed_uniform(BATCH.click[1:, order], 4), expected[1:, order])
    assert expected.flatten().unique().numel() > 0.99 * expected.numel()


def test_jitter_is_uniform_and_uncorrelated() -> None:
    draws = hashed_uniform(torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)), 2).flatten(1).numpy()
    assert draws.min() >= -1 and draws.max() < 1
    np.testing.assert_allclose(np.histogram(draws, bins=8, range=(-1, 1))[0] / draws.size, 1 / 8, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(6), atol=0.06)


def test_implicit_queries_know_x_y_and_class_only() -> None:
    query = ImplicitQuery(*COMMON)
    before = query(BATCH.click, BATCH.click_label)
    higher = query(BATCH.click + torch.tensor([0, 0, 0.5]), BATCH.click_label)
    assert torch.equal(before.content, higher.content) and torch.equal(before.content, before.position)
    assert torch.equal(before.reference, higher.reference) and not torch.equal(before.anchor, higher.anchor)
    aside = query(BATCH.click + torch.tensor([0, 0.5, 0]), BATCH.click_label)
    assert (aside.reference - before.reference).abs().amax(-1).min() > 0


def test_learned_queries_know_no_click() -> None:
    query = LearnedQuery(*COMMON, queries=50)
    before = query(BATCH.click, BATCH.click_label)
    after = query(-BATCH.click, 9 - BATCH.click_label)
    for key in ("content", "reference"):
        one, other = getattr(before, key), getattr(after, key)
        assert torch.equal(one, other) and one.shape[:2] == (2, 50)
    assert (before.click == -1).all() and (before.reference.abs() <= torch.tensor([12.8, 12.8, 5.0])).all()
    assert before.reference[0, :, :2].std() > 5  # spread over the range: uniform has 12.8 / sqrt(3) = 7.4
    np.testing.assert_allclose(before.prior_size[0, 0].detach(), np.exp(np.log(FALLBACK_SIZE_M).mean(0)), rtol=1e-5)
