"""Tests of the assignment of learned queries to clicks."""

import torch

from pdetr3d.batch import TeacherOutput
from pdetr3d.models.click_answers import answers
from tests.model_cases import change, make_batch

CLICK = torch.tensor([[[3.0, 0, 0], [-5.0, 0, 0], [9.0, 9, 0]]])
BATCH = change(make_batch(1, clicks=3), click=CLICK, click_label=torch.tensor([[4, 4, 7]]))


def output_of(centers: torch.Tensor, classes: list[int]) -> TeacherOutput:
    """Decoder output: queries with cubes of 1 m at the given centers and high scores for the given classes."""
    q = len(classes)
    box = torch.cat([centers[None], torch.ones(1, q, 3), torch.zeros(1, q, 1)], -1)
    logit = torch.full((1, q, 10), -9.0)
    logit[0, torch.arange(q), torch.tensor(classes)] = 9.0
    nobody = torch.full((1, q), -1)
    return TeacherOutput([box], [box], [logit[..., 0]], [box[..., :3]], [box[..., :2]], [logit], box[..., 3:6], nobody)


def test_the_nearest_box_of_the_class() -> None:
    output = output_of(CLICK[0, [2, 0, 1]] + 0.1, [7, 4, 4])
    assert answers(output, BATCH, 0).tolist() == [1, 2, 0]


def test_a_box_of_the_class_beats_a_slightly_nearer_one_of_another() -> None:
    centers = torch.stack([CLICK[0, 0] + 0.1, CLICK[0, 0] + 0.3, CLICK[0, 1], CLICK[0, 2]])
    assert answers(output_of(centers, [8, 4, 4, 7]), BATCH, 0).tolist() == [1, 2, 3]


def test_no_two_clicks_share_a_query_while_there_are_enough() -> None:
    near = CLICK[0, [0, 0, 0]] + torch.tensor([[0.0], [0.5], [90.0]])
    assert sorted(answers(output_of(near, [4, 4, 7]), BATCH, 0).tolist()) == [0, 1, 2]


def test_more_clicks_than_queries() -> None:
    assert answers(output_of(CLICK[0, [2, 0]], [7, 4]), BATCH, 0).tolist() == [1, 1, 0]


def test_padded_clicks_get_none() -> None:
    batch = change(BATCH, click_valid=torch.tensor([[False, True, True]]))
    assert answers(output_of(CLICK[0], [4, 4, 7]), batch, 0).tolist() == [1, 2]
    nobody = change(BATCH, click_valid=torch.zeros(1, 3, dtype=torch.bool))
    assert answers(output_of(CLICK[0], [4, 4, 7]), nobody, 0).tolist() == []
