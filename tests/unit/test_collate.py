"""Batches: padding and masks by hand, empty samples, clicks before augmentation, NumPy to torch."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch

from pdetr3d.batch import Batch
from pdetr3d.data.augmentation.augment import AugmentRange, augment
from pdetr3d.data.draws import keyed_rng
from pdetr3d.data.loading.collate import collate
from pdetr3d.schema import Boxes3D, PointLabels, Sample, SampleRecord


def make_sample(token: str, points: int, boxes: int, clicks: int, cameras: bool = True) -> Sample:
    """A sample whose fields hold numbers that identify their origin: 100 * sample + row."""
    base = 100.0 * int(token[-1])
    rows = base + np.arange(boxes)
    truth = Boxes3D.build(
        np.stack([rows, rows + 0.25, rows + 0.5], 1),
        np.tile([4.0, 2.0, 1.5], (boxes, 1)),
        np.full(boxes, 0.5),
        np.arange(boxes) % 10,
        velocity_m_s=np.stack([rows, -rows], 1),
        score=np.full(boxes, 0.75),
    )
    truth = replace(truth, source=(np.arange(boxes) % 2).astype(np.int8))
    labels = PointLabels(
        np.array([f"{token}-{i}" for i in range(clicks)], object),
        np.arange(clicks)[:, None] + base + np.array([0.0, 0.1, 0.2]),
        np.arange(clicks) % 10,
        np.arange(clicks) - 1,
    )
    record = SampleRecord(token, "scene", 0, "box", "", (), (None,) * 6, np.eye(4), np.eye(4), truth, labels)
    cloud = np.full((points, 5), base, np.float32) + np.arange(points, dtype=np.float32)[:, None]
    images = np.full((6, 4, 8, 3), int(token[-1]), np.uint8) if cameras else np.zeros((0, 0, 0, 3), np.uint8)
    valid = np.array([cameras] * 5 + [False])
    return Sample(record, cloud, images, np.tile(np.eye(4), (6, 1, 1)), valid, truth, labels, np.eye(4))


def test_padding_and_masks() -> None:
    arrays = collate([make_sample("s1", 3, 1, 2), make_sample("s2", 2, 3, 0)])
    assert arrays["token"].tolist() == [b"s1", b"s2"]
    assert arrays["points"][:, 0].tolist() == [100, 101, 102, 200, 201]
    assert arrays["point_sample"].tolist() == [0, 0, 0, 1, 1]
    assert arrays["box_valid"].tolist() == [[True, False, False], [True, True, True]]
    np.testing.assert_array_equal(arrays["box"][0, 0], np.float32([100, 100.25, 100.5, 4, 2, 1.5, 0.5]))
    np.testing.assert_array_equal(arrays["box"][1, :, 0], [200, 201, 202])
    np.testing.assert_array_equal(arrays["box"][0, 1:], np.zeros((2, 7)))
    assert arrays["box_label"].tolist() == [[0, 0, 0], [0, 1, 2]]
    assert arrays["box_source"].tolist() == [[0, 0, 0], [0, 1, 0]]
    assert arrays["box_score"].tolist() == [[0.75, 0, 0], [0.75, 0.75, 0.75]]
    np.testing.assert_array_equal(arrays["velocity"][1], [[200, -200], [201, -201], [202, -202]])
    assert np.isnan(arrays["velocity"][0, 1:]).all()  # padding is "unknown", so that no loss can use it
    assert arrays["click_valid"].tolist() == [[True, True], [False, False]]
    assert arrays["click_box"].tolist() == [[-1, 0], [-1, -1]]
    np.testing.assert_allclose(arrays["click"][0], [[100, 100.1, 100.2], [101, 101.1, 101.2]], rtol=1e-6)
    assert arrays["images"].shape == (2, 6, 4, 8, 3) and arrays["images"][1].min() == 2
    assert arrays["camera_valid"].tolist() == [[True] * 5 + [False]] * 2
    assert arrays["weak_points"].shape == (0, 5) and arrays["weak_point_sample"].shape == (0,)


def test_samples_say_whether_people_drew_their_boxes() -> None:
    box, point = make_sample("s1", 1, 1, 1), make_sample("s2", 1, 1, 1)
    point = replace(point, record=replace(point.record, role="point"))
    assert collate([box, point, box])["box_labeled"].tolist() == [True, False, True]


def test_the_weak_view_is_delivered_beside() -> None:
    weak = [make_sample("s1", 3, 0, 0), make_sample("s2", 1, 0, 0)]
    arrays = collate([make_sample("s3", 2, 0, 0), make_sample("s4", 2, 0, 0)], weak)
    assert arrays["weak_points"][:, 0].tolist() == [100, 101, 102, 200]
    assert arrays["weak_point_sample"].tolist() == [0, 0, 0, 1]
    assert arrays["points"][:, 0].tolist() == [300, 301, 400, 401]


def test_empty_samples_are_shapes() -> None:
    empty = make_sample("s0", 0, 0, 0, cameras=False)
    batch = Batch.from_arrays(collate([empty, empty], [empty, empty]))
    assert len(batch) == 2
    assert batch.points.shape == batch.weak_points.shape == (0, 5)
    assert batch.box.shape == (2, 0, 7) and batch.velocity.shape == (2, 0, 2) and batch.box_valid.shape == (2, 0)
    assert batch.click.shape == batch.canonical_click.shape == (2, 0, 3) and batch.click_box.shape == (2, 0)
    assert batch.images.shape == (2, 0, 0, 0, 3)
    mixed = Batch.from_arrays(collate([empty, make_sample("s1", 2, 1, 1, cameras=False)]))
    assert mixed.point_sample.tolist() == [1, 1]
    assert mixed.box_valid.tolist() == mixed.click_valid.tolist() == [[False], [True]]


def test_canonical_clicks_undo_the_augmentation() -> None:
    ranges = AugmentRange(flip=True, rotation_rad=0.4, scale=(0.85, 1.15), translation_m=0.5)
    samples = [make_sample("s1", 1, 0, 4), make_sample("s2", 1, 0, 2)]
    moved = [augment(s, ranges.draw(keyed_rng(0, 0, s.record.sample_token, "augment"))) for s in samples]
    arrays = collate(moved)
    assert np.abs(arrays["click"][0] - samples[0].clicks.xyz_m).max() > 1
    for row, sample in enumerate(samples):
        n = len(sample.clicks)
        np.testing.assert_allclose(arrays["canonical_click"][row, :n], sample.clicks.xyz_m, atol=1e-4)
        linear, shift = arrays["augmentation"][row, :3, :3], arrays["augmentation"][row, :3, 3]
        np.testing.assert_allclose(arrays["click"][row, :n], sample.clicks.xyz_m @ linear.T + shift, atol=1e-3)


def test_arrays_and_batch_hold_the_same() -> None:
    arrays = collate([make_sample("s1", 3, 1, 2), make_sample("s2", 2, 3, 1)], [make_sample("s1", 3, 1, 2)] * 2)
    optional = {f.name for f in fields(Batch) if f.default is None}  # of datasets with regions, of students with EMA
    assert {f.name for f in fields(Batch)} - optional == set(arrays) and optional == {"known", "unclicked"}
    for array in arrays.values():
        array.flags.writeable = False  # as from Ray's object store
    batch = Batch.from_arrays(arrays)
    kinds = {"f": torch.float32, "i": torch.int64, "b": torch.bool, "u": torch.uint8}
    for name, array in arrays.items():
        value = getattr(batch, name)
        if name != "token":
            assert value.dtype == kinds[array.dtype.kind], name
            value = value.numpy()
        np.testing.assert_array_equal(value, array)
    batch.points[:] = 0  # torch may write: the store's memory must not change
    assert arrays["points"].max() == 201
