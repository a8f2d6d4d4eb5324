"""``RayRunner``: trains, predicts and runs functions for a pipeline, on Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

from pdetr3d.config import Config
from ray_jobs.plug.fit import fit
from ray_jobs.plug.inference import predict
from ray_jobs.plug.lanes import run_lanes

T = TypeVar("T")


class RayRunner:
    """Implements ``pdetr3d.pipeline.runner.Runner`` on the Ray cluster that this process has joined."""

    fit = staticmethod(fit)
    predict = staticmethod(predict)
    lanes = staticmethod(run_lanes)

    def map(self, function: Callable[..., T], calls: Sequence[tuple[Any, ...]], config: Config) -> list[T]:
        # Otherwise Ray would place the tasks of a search's trial in the trial's own placement group, which is empty.
        task = ray.remote(num_cpus=config.scaling.data_cpus, scheduling_strategy="DEFAULT")(function)
        return ray.get([task.remote(*call) for call in calls])
