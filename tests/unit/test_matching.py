"""Tests of the matching of queries to clicks' boxes, on cases whose cheapest assignment is obvious."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pdetr3d.batch import Batch, TeacherOutput
from pdetr3d.losses.center_criterion import DIRECTION_WEIGHT
from pdetr3d.losses.matching import focal_cost, focal_loss, match_direct, match_hungarian
from pdetr3d.losses.teacher_criterion import TeacherCriterion
from pdetr3d.models.box_code import decode_click_box, encode_click_box, viewing_direction
from pdetr3d.schema import CLASSES, SOURCE_HUMAN, SOURCE_PSEUDO
from tests.model_cases import change, make_batch, same_on_all_ranks, tiny_config


def labeled(*labels: int) -> Batch:
    """One sample with clicks of these classes, each with a box."""
    batch = make_batch(1, clicks=len(labels), points=1)
    return change(batch, click_label=torch.tensor([labels]), box_label=torch.tensor([labels]))


def output_of(click: list[int], logit: torch.Tensor | None = None) -> TeacherOutput:
    """The output of one decoder layer whose queries belong to the given clicks."""
    q = len(click)
    zero = torch.zeros(1, q)
    code, point = torch.zeros(1, q, 10), torch.zeros(1, q, 3)
    logits = [] if logit is None else [logit]
    return TeacherOutput(
        [zero], [code], [zero], [point], [viewing_direction(point)], logits, point + 1, torch.tensor([click])
    )


def match(output: TeacherOutput, batch: Batch, costs: list[list[float]]) -> list[tuple[int, ...]]:
    """The matched (query, click) pairs if the loss of query q's code for click k's box is costs[q][k]."""
    table = torch.tensor(costs)

    def box_loss(layer: int, sample: torch.Tensor, query: torch.Tensor, click: torch.Tensor) -> torch.Tensor:
        assert layer == 0 and (sample == 0).all()
        return table[query, click]

    _, query, click = match_hungarian(output, 0, batch, box_loss, box_weight=0.25, class_weight=2.0)
    return sorted(zip(query.tolist(), click.tolist(), strict=True))


def test_the_cheapest_permutation_by_hand() -> None:
    """The assignment 0-2, 1-0, 2-1 costs 0 + 1 + 0; the identity costs 15, and greedy choices cost more than 1."""
    costs = [[5.0, 1, 0], [1, 5, 0], [0.5, 0, 5]]
    assert match(output_of([0, 1, 2]), labeled(4, 4, 4), costs) == [(0, 2), (1, 0), (2, 1)]


def test_boxes_are_swapped_within_a_class_only() -> None:
    costs = [[5.0, 1, 0], [1, 5, 0], [0, 0, 900]]
    assert match(output_of([0, 1, 2]), labeled(4, 4, 7), costs) == [(0, 1), (1, 0), (2, 2)]


def test_clicks_without_a_known_box_take_no_part() -> None:
    batch = change(labeled(4, 4, 4), click_box=torch.tensor([[0, -1, 2]]))
    assert match(output_of([0, 1, 2]), batch, [[5.0, 0, 1], [0, 0, 0], [1, 0, 5]]) == [(0, 2), (2, 0)]
    nobody = change(batch, click_valid=torch.zeros(1, 3, dtype=torch.bool))
    assert match(output_of([0, 1, 2]), nobody, [[0.0] * 3] * 3) == []


def test_each_set_of_copies_is_assigned_on_its_own() -> None:
    costs = [[0.0, 9], [9, 0], [9, 0], [0, 9]]
    assert match(output_of([0, 1, 0, 1]), labeled(4, 4), costs) == [(0, 0), (1, 1), (2, 1), (3, 0)]


def test_learned_queries_are_assigned_by_box_and_class() -> None:
    logit = torch.full((1, 3, 10), -3.0)
    logit[0, 2, 4] = logit[0, 0, 7] = 3.0  # query 2 sees class 4, query 0 class 7; query 1 sees nothing
    assert match(output_of([-1] * 3, logit), labeled(4, 7), [[0.0, 0]] * 3) == [(0, 1), (2, 0)]
    far = [[0.0, 99.0], [0, 0], [99, 99]]  # a box that fits outweighs a class that does not
    assert match(output_of([-1] * 3, logit), labeled(4, 7), far) == [(0, 0), (1, 1)]


def test_a_diverged_model_is_matched_somehow() -> None:
    assert len(match(output_of([0, 1]), labeled(4, 4), [[torch.nan, 0], [torch.inf, 1]])) == 2


def test_focal_cost_and_loss_by_hand() -> None:
    """At probability 1/2 the loss is 0.25 * 0.25 * log 2 if the class is present and 0.75 * 0.25 * log 2 if not."""
    zero, log2 = torch.zeros(1), np.log(2)
    assert focal_cost(zero).item() == pytest.approx((0.0625 - 0.1875) * log2)
    assert focal_loss(zero, zero + 1).item() == pytest.approx(0.0625 * log2)
    assert focal_loss(zero, zero).item() == pytest.approx(0.1875 * log2)


def test_direct_pairs_every_copy_with_its_own_click() -> None:
    batch = change(labeled(4, 4, 7), click_box=torch.tensor([[2, -1, 0]]))
    sample, query, click = match_direct(output_of([0, 1, 2, 0, 1, 2]), batch)
    assert sample.tolist() == [0] * 4 and query.tolist() == [0, 2, 3, 5] and click.tolist() == [0, 2, 0, 2]


def test_the_direction_loss_by_hand() -> None:
    """Two cars and a barrier have the log odds 3, -1 and 2 for their true heading; the rest of their codes is right."""
    batch = labeled(0, 0, CLASSES.index("barrier"))
    prior, frame = torch.ones(1, 3, 3), viewing_direction(batch.click)
    code = encode_click_box(batch.box, batch.click, prior, frame)
    code[..., 6:8] *= torch.tensor([3.0, -1.0, 2.0])[:, None]
    output = replace(output_of([0, 1, 2]), code=[code], anchor=[batch.click], frame=[frame], prior_size=prior)
    output = replace(output, box=[decode_click_box(code, batch.click, prior, frame)], quality=[torch.zeros(1, 3)])
    config = tiny_config("teacher.box_weight=1.0")
    terms = TeacherCriterion(config, encode_click_box, same_on_all_ranks)(output, batch)
    expected = DIRECTION_WEIGHT * (np.log1p(np.exp(-3)) + np.log1p(np.exp(1))) / 3
    assert terms["box"].item() == pytest.approx(expected, rel=1e-4)


def test_a_models_own_box_teaches_no_quality() -> None:
    """Two boxes are met exactly, with the log odds 0 of that. One is human, the other one is a model's."""
    batch = change(labeled(0, 0), box_source=torch.tensor([[SOURCE_HUMAN, SOURCE_PSEUDO]]))
    prior, frame = torch.ones(1, 2, 3), viewing_direction(batch.click)
    code = encode_click_box(batch.box, batch.click, prior, frame)
    output = replace(output_of([0, 1]), code=[code], anchor=[batch.click], frame=[frame], prior_size=prior)
    output = replace(output, box=[batch.box], quality=[torch.zeros(1, 2)])
    terms = TeacherCriterion(tiny_config(), encode_click_box, same_on_all_ranks)(output, batch)
    assert terms["quality"].item() == pytest.approx(np.log(2) / 2, rel=1e-4)


def test_a_box_of_unknown_direction_teaches_its_axis_alone() -> None:
    """Three equal cars with the log odds 1. Of their directions the first is known, one has p = .75, one .5."""
    batch = change(labeled(0, 0, 0), box_direction=torch.tensor([[1.0, 0.75, 0.5]]))
    prior, frame = torch.ones(1, 3, 3), viewing_direction(batch.click)
    code = encode_click_box(batch.box, batch.click, prior, frame)
    output = replace(output_of([0, 1, 2]), code=[code], anchor=[batch.click], frame=[frame], prior_size=prior)
    output = replace(output, box=[decode_click_box(code, batch.click, prior, frame)], quality=[torch.zeros(1, 3)])
    config = tiny_config("teacher.box_weight=1.0")
    terms = TeacherCriterion(config, encode_click_box, same_on_all_ranks)(output, batch)
    expected = DIRECTION_WEIGHT * (1 + 0.5 + 0) * np.log1p(np.exp(-1)) / 3
    assert terms["box"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("matching", "right"), [("direct", False), ("hungarian", True)])
def test_queries_that_say_one_anothers_boxes(matching: str, right: bool) -> None:
    """Each code encodes the other click's box relative to its own click, which only Hungarian matching accepts."""
    batch = labeled(4, 4)
    prior = torch.ones(1, 2, 3)
    frame = viewing_direction(batch.click)
    code = encode_click_box(batch.box.flip(1), batch.click, prior, frame)
    code[..., 6:8] *= 30  # log odds of the direction
    box = decode_click_box(code, batch.click, prior, frame)
    output = replace(output_of([0, 1]), box=[box], code=[code], anchor=[batch.click], frame=[frame], prior_size=prior)
    output = replace(output, quality=[torch.full((1, 2), 20.0)])
    config = tiny_config(f"teacher.matching={matching}")
    terms = TeacherCriterion(config, encode_click_box, same_on_all_ranks)(output, batch)
    assert (terms["box"] < 1e-4) == right and (terms["quality"] < 1e-3) == right
