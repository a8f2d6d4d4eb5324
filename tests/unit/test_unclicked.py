"""Tests of unclicked objects: cells where the moving average finds them are no background, derived by hand."""

import numpy as np
import pytest
import torch

from pdetr3d.batch import Batch, StudentOutput
from pdetr3d.data.label_manifest import training_records
from pdetr3d.losses.unclicked import Unclicked
from pdetr3d.schema import FALLBACK_SIZE_M, DataError
from pdetr3d.training.build import build
from tests.model_cases import change, make_batch, same_on_all_ranks, tiny_config
from tests.training_cases import open_world, run_locally

IGNORE = ["student.unclicked=ignore", "optim.ema_decay=0.9"]


def batch_with_click_at(x: float, y: float) -> Batch:
    """Two point-labeled samples, the second without a click; one box and one click of the first."""
    batch = make_batch(clicks=1)
    click, box = batch.click.clone(), batch.box.clone()
    click[0, 0, :2] = box[0, 0, :2] = torch.tensor([x, y])
    none = torch.tensor([[True], [False]])
    return change(
        batch, click=click, box=box, click_valid=none, box_valid=none, box_labeled=torch.zeros(2, dtype=torch.bool)
    )


def said(*peaks: tuple[int, int, int, int, float]) -> list[torch.Tensor]:
    """Logits of a moving average with high scores only at the given (sample, class, row, column, score)."""
    heat = torch.full((2, 10, 32, 32), -9.0)
    for sample, label, row, column, score in peaks:
        heat[sample, label, row, column] = float(np.log(score / (1 - score)))
    return [heat]


def test_confident_cells_without_a_click_by_hand() -> None:
    """The click lies at (0.4, 0.4), the middle of row 16 and column 16, and cells are 0.8 m wide.

    A radius of 2.0 m contains two cells along an axis (1.6 m), not three (2.4 m), and the cell (2, 1) at 1.79 m, not
    (2, 2) at 2.26 m.
    """
    peaks = [
        (0, 3, 16, 16, 0.9),  # at the click: known, for any class
        (0, 3, 16, 18, 0.9),
        (0, 3, 18, 17, 0.9),
        (0, 3, 18, 18, 0.9),  # beyond its reach
        (0, 0, 16, 19, 0.31),
        (0, 0, 5, 5, 0.29),  # not confident
        (1, 7, 16, 16, 0.5),  # no click there
    ]
    config = tiny_config(*IGNORE)
    unclicked = Unclicked(config, lambda average, batch: said(*peaks))
    batch = unclicked(torch.nn.Identity(), batch_with_click_at(0.4, 0.4))
    assert batch.unclicked is not None
    assert torch.nonzero(batch.unclicked).tolist() == [[0, 0, 16, 19], [0, 3, 18, 18], [1, 7, 16, 16]]
    assert unclicked.share.item() == pytest.approx(3 / (2 * 10 * 32 * 32))
    boxed = unclicked(torch.nn.Identity(), change(batch, box_labeled=torch.tensor([True, False])))
    assert boxed.unclicked is not None and torch.nonzero(boxed.unclicked).tolist() == [[1, 7, 16, 16]]


def test_heatmaps_of_tasks_come_back_in_the_order_of_classes() -> None:
    config = tiny_config(*IGNORE, "student.tasks=[[9,1],[0,2,3,4,5,6,7,8]]")
    first, second = torch.full((2, 2, 32, 32), -9.0), torch.full((2, 8, 32, 32), -9.0)
    first[0, 0, 1, 2] = second[1, 7, 3, 4] = 3.0
    batch = Unclicked(config, lambda average, batch: [first, second])(torch.nn.Identity(), batch_with_click_at(9, 9))
    assert batch.unclicked is not None
    assert torch.nonzero(batch.unclicked).tolist() == [[0, 9, 1, 2], [1, 8, 3, 4]]


def test_the_loss_says_nothing_there_but_keeps_its_objects() -> None:
    config = tiny_config(*IGNORE)
    batch = batch_with_click_at(0.4, 0.4)
    cells = torch.zeros(2, 10, 32, 32, dtype=torch.bool)
    label = int(batch.box_label[0, 0])
    cells[0, label, 16, 16] = cells[0, label, 2, 3] = cells[1, 4, 5, 6] = True  # the first is the object's own
    task = build("student", config, FALLBACK_SIZE_M)
    output = task.model.train()(batch)
    assert isinstance(output, StudentOutput)
    output.tasks[0].heatmap.retain_grad()
    task.losses(output, change(batch, unclicked=cells), same_on_all_ranks)["heatmap"].backward()
    silent = torch.nonzero(output.tasks[0].heatmap.grad == 0).tolist()
    assert silent == [[0, label, 2, 3], [1, 4, 5, 6]]


def test_the_average_is_asked_in_training(sim_world, tmp_path) -> None:
    opened = open_world(sim_world, tmp_path / "run", *IGNORE, "optim.batch_size=2", "student.unclicked_threshold=0.05")
    records = training_records(opened.data.index, opened.data.manifest)
    local = run_locally("student", opened.run.config, records, tmp_path / "student", 2)
    shares = [values["unclicked_share"] for _, values in local.history]
    # The heatmaps' bias says 0.1 everywhere at first: above 0.05, so all that lies far from clicks, but in samples
    # with boxes, is spared.
    assert 0.5 < np.mean(shares) <= 1


def test_without_an_average_it_is_refused() -> None:
    with pytest.raises(DataError, match="student.unclicked=ignore asks the student's moving average, but optim.ema_d"):
        tiny_config("student.unclicked=ignore")
    assert build("student", tiny_config(), FALLBACK_SIZE_M).teach is None
