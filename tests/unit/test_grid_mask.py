"""Tests of GridMask: size and share of the squares, equal masks in all views, keyed draws, off by default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdetr3d.data.augmentation.grid_mask import FILL, grid_mask
from pdetr3d.data.draws import keyed_rng
from pdetr3d.models.image_backbone import RGB_MEAN
from pdetr3d.training.plan import BatchLoader
from tests.training_cases import open_world

IMAGES = np.random.default_rng(0).integers(0, 100, (6, 90, 160, 3), np.uint8)  # below FILL: hidden pixels are known


def hidden(images: np.ndarray) -> np.ndarray:
    return (images == FILL).all(-1)


@pytest.mark.parametrize("seed", range(8))
def test_squares_by_a_plain_loop(seed: int) -> None:
    mask = hidden(grid_mask(IMAGES, 1.0, np.random.default_rng(seed)))
    assert (mask == mask[0]).all()  # the same on all views
    rng = np.random.default_rng(seed)
    rng.random()
    period = int(rng.integers(2, 90))
    first_row, first_column = (int(n) for n in rng.integers(0, period, 2))
    kept = min(max(round(period / 2), 1), period - 1)
    for row in range(90):
        for column in range(160):
            in_rows, in_columns = ((p - f) % period < kept for p, f in ((row, first_row), (column, first_column)))
            assert mask[0, row, column] == (not in_rows and not in_columns)


def test_a_quarter_is_hidden_on_average_and_the_rest_untouched() -> None:
    shares = []
    for seed in range(200):
        masked = grid_mask(IMAGES, 1.0, np.random.default_rng(seed))
        mask = hidden(masked)
        assert np.array_equal(masked[~mask], IMAGES[~mask])
        shares.append(mask.mean())
    assert 0.2 < np.mean(shares) < 0.3


def test_probability_and_the_original() -> None:
    changed = [grid_mask(IMAGES, 0.7, np.random.default_rng(seed)) is not IMAGES for seed in range(400)]
    assert 0.62 < np.mean(changed) < 0.78
    assert grid_mask(IMAGES, 0.0, np.random.default_rng(0)) is IMAGES
    none = np.zeros((0, 0, 0, 3), np.uint8)
    assert grid_mask(none, 1.0, np.random.default_rng(0)) is none
    assert not hidden(IMAGES).any()


def test_hidden_pixels_are_the_mean_color() -> None:
    assert np.abs(np.array(FILL) - RGB_MEAN).max() <= 0.5


def test_only_training_masks_and_the_key_decides(sim_world: Path, tmp_path: Path) -> None:
    world = open_world(sim_world, tmp_path, "teacher.grid_mask=1.0")
    config, records = world.run.config, world.records[:2]
    plain = BatchLoader(config, "predict", cameras=True)(records, [0, 0])["images"]
    load = BatchLoader(config, "teacher", cameras=True)
    first = load(records, [0, 0])["images"]
    assert (first != plain).any() and np.array_equal(first, load(records, [0, 0])["images"])
    assert np.array_equal(first[1], load(records[1:], [0])["images"][0])  # independent of the rest of the batch
    assert (first != load(records, [1, 1])["images"]).any()
    rng = keyed_rng(config.run.seed, 0, records[0].sample_token, "grid_mask")
    assert np.array_equal(first[0], grid_mask(plain[0], 1.0, rng))
