"""One worker with batch 4 and two workers with batch 2 train the same model; so do both loaders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pdetr3d.pipeline.training import Training
from pdetr3d.tracking.runs import Tracker
from ray_jobs.plug.fit import fit
from tests.training_cases import open_world, task_of, weights

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEPS, LEARNING_RATE = 5, 1e-3
# fp32, GroupNorm, no dropout: only the order of additions differs (per rank, then over ranks), about 1e-7 relative per
# operation. AdamW divides by the gradient's own size, so a weight whose gradient is all rounding may move by up to the
# learning rate either way; the others, and so the losses, follow to a small part of a step.
LOSS_TOLERANCE = 1e-3  # relative
OVERRIDES = [
    "optim.batch_size=4",
    f"optim.lr={LEARNING_RATE}",
    "student.regression_reach=1",
    "optim.amp=fp32",
    "optim.log_every=1",
    "scaling.cpus_per_worker=0.5",
    "scaling.threads_per_worker=1",
    "label.ratio=1.0",
]


Trained = tuple[list[float], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def one_worker(sim_world: Path, tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Trained:
    return train_with(sim_world, tmp_path_factory.mktemp("one"))


def train_with(dataroot: Path, folder: Path, *overrides: str) -> Trained:
    """Logged losses of every step, final weights."""
    world = open_world(dataroot, folder / "run", *OVERRIDES, *overrides)
    with Tracker.start(world.run.path, "test", "training", {}, {}, tracking_dir=folder) as tracker:
        tracking = (tracker.uri, tracker.run_id)
        stage = Training(
            "student", "student", world.run.config, world.records, world.prior_size_m, STEPS, True, tracking
        )
        files = fit(stage, world.run.path)
        assert tracker._client is not None
        history = tracker._client.get_metric_history(tracker.run_id, "loss")
    assert [point.step for point in history] == list(range(1, STEPS + 1))
    assert files[-1].name == f"step_{STEPS:07d}.pt"
    return [point.value for point in history], weights(files[-1])


def test_the_loader_changes_nothing(one_worker: Trained, sim_world: Path, tmp_path: Path) -> None:
    losses, final = train_with(sim_world, tmp_path, "data.loader=torch")
    assert losses == one_worker[0]
    assert all(torch.equal(final[name], value) for name, value in one_worker[1].items())


def test_world_size_changes_nothing(one_worker: Trained, sim_world: Path, tmp_path: Path) -> None:
    (losses_one, one), (losses_two, two) = one_worker, train_with(sim_world, tmp_path, "scaling.workers=2")
    assert losses_two == pytest.approx(losses_one, rel=LOSS_TOLERANCE)
    assert abs(losses_one[-1] / losses_one[0] - 1) > 100 * LOSS_TOLERANCE  # the losses moved by much more than that

    start = task_of("student", open_world(sim_world, tmp_path / "start", *OVERRIDES)).model.state_dict()
    moved = torch.cat([(one[k] - start[k]).flatten() for k in one])
    apart = torch.cat([(one[k] - two[k]).flatten() for k in one])
    assert moved.norm() > 0 and apart.norm() < 0.02 * moved.norm()
    assert apart.abs().max() <= 2 * STEPS * LEARNING_RATE
