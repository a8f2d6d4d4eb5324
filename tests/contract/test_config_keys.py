"""Checks presets and config keys (design section 8): presets build, keys can be overridden, fixed keys exist."""

from __future__ import annotations

import json

import pytest

from pdetr3d import presets
from pdetr3d.config import Config, override

# These keys must not be renamed: tune_spaces, READMEs and people's scripts use them.
FIXED = """
data.dataroot data.version data.train_split data.val_split data.num_sweeps data.loader data.on_error
label.ratio label.seed label.split_by
teacher.query_init teacher.matching teacher.fusion teacher.roi_grid teacher.free_points teacher.decoder_layers
student.guidance student.mask_sigma_factor student.mask_sigma_floor_m student.guidance_weight
model.norm optim.lr optim.epochs optim.batch_size
scaling.workers scaling.cpus_per_worker scaling.threads_per_worker scaling.use_gpu
run.seed run.name storage.path sim.scenes sim.keyframes sim.image_size_px sim.lidar_azimuth_steps
""".split()
PRESETS = {"quickstart", "headline", "real-smoke", "fusion-study", "nuscenes-pillar", "nuscenes-voxel"}


@pytest.fixture(autouse=True)
def _real_data_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDETR3D_REAL_DATA", "a-folder")


def test_the_presets_exist_under_their_own_names() -> None:
    assert set(presets.PRESETS) >= PRESETS
    assert all(name == preset.preset for name, preset in presets.PRESETS.items())


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_builds_and_round_trips_through_json(name: str) -> None:
    config = presets.load(name)
    assert Config.from_json(config.to_json()) == config
    assert hash(config) == hash(Config.from_json(config.to_json()))


def as_overrides(config: Config) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in config.flat().items() if key != "preset"]


@pytest.mark.parametrize("name", presets.PRESETS)
def test_all_keys_together_are_accepted_as_overrides(name: str) -> None:
    """Overriding all keys with their own values gives an equal config, also on top of another preset."""
    config = presets.load(name)
    other = presets.QUICKSTART.model_copy(update={"preset": name})
    assert override(config, as_overrides(config)) == override(other, as_overrides(config)) == config


def test_every_key_alone_is_accepted_as_an_override() -> None:
    items = as_overrides(presets.QUICKSTART)
    assert len(items) > 60
    for item in items:
        assert override(presets.QUICKSTART, [item]) == presets.QUICKSTART, item


def test_the_fixed_keys_exist() -> None:
    assert set(FIXED) <= set(presets.QUICKSTART.flat())


def test_scalars_with_a_unit_say_so() -> None:
    """Lengths, angles and times end in _m, _rad, _s, _us, _px (design section 4)."""
    quantities = ("sigma_floor", "rotation", "translation", "range", "image_size", "pillar_", "threshold_", "voxel_")
    units = ("_m", "_rad", "_s", "_us", "_px", "_channels", "_points")  # the last two endings are counts
    for key in presets.QUICKSTART.flat():
        if any(word in key for word in quantities):
            assert key.endswith(units), key
