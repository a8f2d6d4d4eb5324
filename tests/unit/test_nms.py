"""Tests of NMS: equality with plain loops, shortcuts without effect on results, and the kernel of each device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pdetr3d.config import StudentConfig
from pdetr3d.geometry.boxes import bev_iou_aligned
from pdetr3d.geometry.nms import BLOCK, may_overlap, nms_bev, nms_circle
from pdetr3d.models import suppression
from pdetr3d.models.suppression import nms_by_kernel, rotated_kernel, suppress
from pdetr3d.schema import Boxes3D, DataError
from tests.model_cases import tiny_config
from tests.reference.model_oracles import greedy_nms

RADIUS = np.array(StudentConfig().circle_radius_m)


def crowd(n: int = 4 * BLOCK, seed: int = 0) -> tuple[NDArray, NDArray, NDArray]:
    """Heavily overlapping boxes (n, 7), more than one block; scores with ties; labels of three classes."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.uniform(-12, 12, (n, 3)), rng.uniform(0.5, 6, (n, 3)), rng.uniform(-4, 4, (n, 1))], 1)
    return rows, np.round(rng.random(n), 2), rng.integers(0, 3, n)


def all_pairs(rows: NDArray) -> tuple[NDArray, NDArray]:
    """All pairs of boxes as two arrays (n * n, 7)."""
    return np.repeat(rows, len(rows), 0), np.tile(rows, (len(rows), 1))


def rotated_oracle(rows: NDArray, score: NDArray, label: NDArray, iou: float) -> list[int]:
    overlap = bev_iou_aligned(*all_pairs(rows)).reshape(len(rows), -1)
    return greedy_nms(np.where(label[:, None] == label, overlap, 0), score, iou)


@pytest.mark.parametrize("iou", [0.05, 0.2, 0.7])
def test_rotated_nms_of_many_blocks_equals_a_plain_loop(iou: float) -> None:
    rows, score, label = crowd()
    expected = rotated_oracle(rows, score, label, iou)
    assert BLOCK / 2 < len(expected) < len(rows)
    assert nms_bev(rows, score, label, iou).tolist() == expected
    for most in (1, BLOCK // 2, BLOCK, len(expected), 10_000):
        assert nms_bev(rows, score, label, iou, most).tolist() == expected[:most]


def test_circle_nms_equals_a_plain_loop() -> None:
    rows, score, label = crowd()
    near = np.zeros((len(rows), len(rows)))
    for i, (x, y) in enumerate(rows[:, :2]):
        for j, (u, v) in enumerate(rows[:, :2]):
            near[i, j] = label[i] == label[j] and (x - u) ** 2 + (y - v) ** 2 <= RADIUS[label[i]] ** 2
    expected = greedy_nms(near, score, 0.5)
    assert BLOCK / 4 < len(expected) < len(rows)
    assert nms_circle(rows[:, :3], score, label, RADIUS).tolist() == expected
    assert nms_circle(rows[:, :3], score, label, RADIUS, 7).tolist() == expected[:7]
    assert nms_circle(np.zeros((0, 3)), np.zeros(0), np.zeros(0, np.int64), RADIUS).tolist() == []


def test_circle_nms_by_hand() -> None:
    """Cars within 2 m: the second is 2.0 m from the first (dropped), the third 2.1 m (stays), the fourth is a truck."""
    center = np.array([[0, 0, 0], [2, 0, 9], [-2.1, 0, 0], [0, 0, 0]])
    kept = nms_circle(center, np.array([0.5, 0.9, 0.4, 0.1]), np.array([0, 0, 0, 1]), RADIUS)
    assert kept.tolist() == [1, 2, 3]


def test_radii_are_the_roots_of_centerpoints_squared_ones() -> None:
    squared = {(0,): 4, (1, 2): 12, (3, 4): 10, (5,): 1, (6, 7): 0.85, (8, 9): 0.175}
    for classes, value in squared.items():
        assert RADIUS[list(classes)] ** 2 == pytest.approx(value, rel=0.01)
    with pytest.raises(DataError, match=r"student.circle_radius_m .* has 2 radii; it needs 10"):
        tiny_config("student.circle_radius_m=[1,2]")


def test_pairs_said_not_to_overlap_do_not() -> None:
    """The quick bound is sound, tight for parallel boxes, and spares most pairs."""
    rows, _, _ = crowd(150, seed=1)
    a, b = all_pairs(rows)
    exact = bev_iou_aligned(a, b)
    for iou in (0.01, 0.2, 0.9):
        possible = may_overlap(a, b, iou)
        assert possible[exact > iou].all() and possible.mean() < 0.5
    # 4 x 2 m, shifted by 2 m along the length: 4 of 12 m2 are shared.
    parallel = np.array([[0, 0, 0, 4, 2, 1, 0.3]]), np.array([[2 * np.cos(0.3), 2 * np.sin(0.3), 0, 4, 2, 1, 0.3]])
    assert may_overlap(*parallel, 1 / 3 - 1e-6).all() and not may_overlap(*parallel, 1 / 3 + 1e-6).any()


def crowd_boxes() -> Boxes3D:
    rows, score, label = crowd()
    return Boxes3D.build(rows[:, :3], rows[:, 3:6], rows[:, 6], label, score=score)


def test_all_tasks_at_once_keep_what_each_alone_would() -> None:
    """The result equals one NMS per class and the best of all boxes; at ties the lower class comes first."""
    boxes = crowd_boxes()
    boxes = boxes[np.argsort(boxes.label, kind="stable")]
    student = tiny_config("student.max_boxes=50").student
    alone = [boxes[boxes.label == c] for c in range(3)]
    alone = [b[nms_bev(b.rows, b.score, b.label, student.nms_iou)] for b in alone]
    together = Boxes3D.concatenate(alone)
    expected = together[np.argsort(-together.score, kind="stable")[:50]]
    got = boxes[suppress(boxes, student, torch.device("cpu"))]
    assert len(got) == 50
    np.testing.assert_array_equal(got.rows, expected.rows)
    np.testing.assert_array_equal(got.label, expected.label)


def test_the_config_chooses_the_kind() -> None:
    boxes, cpu = crowd_boxes(), torch.device("cpu")
    circle = suppress(boxes, tiny_config("student.nms=circle").student, cpu)
    assert circle.tolist() == nms_circle(boxes.center_m, boxes.score, boxes.label, RADIUS, 500).tolist()
    assert suppress(boxes, tiny_config().student, cpu).tolist() != circle.tolist()
    assert suppress(Boxes3D.empty(), tiny_config().student, cpu).tolist() == []


def test_a_cpu_never_asks_for_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores on a CPU must not depend on the installation of mmcv."""

    def never() -> None:
        raise AssertionError("asked for mmcv's kernel")

    monkeypatch.setattr(suppression, "rotated_kernel", never)
    assert len(suppress(crowd_boxes(), tiny_config().student, torch.device("cpu")))


def test_what_the_kernel_is_given_and_what_becomes_of_its_answer() -> None:
    """A stand-in replaces mmcv's kernel, which has no classes and takes x, y, l, w, yaw in float32."""
    boxes, student = crowd_boxes(), tiny_config("student.max_boxes=100").student

    def kernel(rows: torch.Tensor, score: torch.Tensor, iou: float) -> tuple:
        assert rows.dtype == score.dtype == torch.float32 and iou == student.nms_iou
        x, y, length, width, yaw = rows.double().numpy().T
        flat = np.stack([x, y, 0 * x, length, width, 1 + 0 * x, yaw], 1)
        kept = nms_bev(flat, score.numpy(), np.zeros(len(flat), int), iou)
        return rows[kept], torch.from_numpy(kept)

    kept = nms_by_kernel(kernel, boxes, student, torch.device("cpu"))
    assert kept.tolist() == suppress(boxes, student, torch.device("cpu")).tolist()
    assert nms_by_kernel(kernel, boxes[:0], student, torch.device("cpu")).tolist() == []


@pytest.mark.compiled_ops
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_compiled_kernel_equals_ours(device: str) -> None:
    rows, score, label = crowd()
    score = np.random.default_rng(3).permutation(len(score)) / len(score)  # no ties: their order is the kernel's own
    boxes = Boxes3D.build(rows[:, :3], rows[:, 3:6], rows[:, 6], label, score=score)
    kernel, student = rotated_kernel(), tiny_config().student
    assert kernel is not None
    kept = nms_by_kernel(kernel, boxes, student, torch.device(device))
    assert kept.tolist() == suppress(boxes, student, torch.device("cpu")).tolist()
