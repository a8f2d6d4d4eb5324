"""Measurements of speed, memory and quality (``make bench``). They take minutes to hours, so `make test` runs none."""

import ray_jobs  # noqa: F401  # before Ray, which reads what this package sets
