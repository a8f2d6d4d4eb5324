"""Tests of ``teacher.start_from``: training begins with another teacher's weights, but not with its class sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pdetr3d.config import Config
from pdetr3d.schema import FALLBACK_SIZE_M, DataError
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build, check_models
from pdetr3d.training.start_weights import initialize_start, start_weights
from tests.model_cases import shaken, tiny_config

SIZES = np.full((10, 3), 2, np.float32)


def saved(folder: Path, *overrides: str) -> Path:
    """A teacher's checkpoint of shaken weights."""
    config = tiny_config(*overrides)
    model = shaken(build("teacher", config, FALLBACK_SIZE_M).model)
    return checkpoint.save(folder, model, None, 7, config.to_json())


def started(kind: str, config: Config) -> dict[str, torch.Tensor]:
    model = build(kind, config, SIZES).model
    weights = start_weights(config)
    assert weights is not None
    initialize_start(model, weights, kind, config)
    return model.state_dict()


@pytest.mark.parametrize("overrides", [[], ["teacher.fusion=none"], ["teacher.model=crop"]])
def test_a_teacher_begins_with_all_weights_and_its_own_sizes(overrides: list[str], tmp_path: Path) -> None:
    file = saved(tmp_path, *overrides)
    given, now = (
        checkpoint.load(file)["model"],
        started("teacher", tiny_config(f"teacher.start_from={file}", *overrides)),
    )
    sizes = [name for name in now if name.endswith("prior_size_m")]
    assert now.keys() == given.keys() and len(sizes) == 1 and now[sizes[0]].tolist() == SIZES.tolist()
    assert all(torch.equal(now[name], given[name]) for name in now if name not in sizes)


def test_the_crop_branch_begins_with_the_teachers(tmp_path: Path) -> None:
    """The branch's training heads, which no teacher keeps, start anew."""
    file = saved(tmp_path)
    config = tiny_config(f"teacher.start_from={file}")
    given, now = checkpoint.load(file)["model"], started("crops", config)
    fresh = build("crops", config, SIZES).model.state_dict()
    crops = [name for name in now if name.startswith("crops.")]
    assert len(crops) > 10 and all(torch.equal(now[name], given[name]) for name in crops)
    assert any(not torch.equal(fresh[name], now[name]) for name in crops)
    others = now.keys() - set(crops)
    assert others and all(torch.equal(fresh[name], now[name]) for name in others)
    check_models(config, SIZES)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path)
    assert start_weights(tiny_config()) is None
    with pytest.raises(DataError, match=r"teacher.start_from nowhere.pt: no such file"):
        check_models(tiny_config("teacher.start_from=nowhere.pt"), SIZES)
    wider = tiny_config(f"teacher.start_from={file}", "teacher.channels=32")
    with pytest.raises(
        DataError, match=r"of the \d+ weights of this run's teacher are missing in it or have another shape"
    ):
        check_models(wider, SIZES)
    own = "{a: {size_m: [1, 1, 1]}, b: {size_m: [2, 1, 1]}}"
    other = tiny_config(f"teacher.start_from={file}", f"data.classes={own}")
    with pytest.raises(DataError, match=r"trained on the classes car, .* but data.classes has a, b"):
        check_models(other, SIZES[:2])
