"""The jobs of pdetr3d on Ray, each a command: ``python -m ray_jobs.NAME``."""

import os

# Ray reads this variable when it is imported. Without it, any call of Ray after ``ray.shutdown`` starts another Ray.
# The threads of an interrupted job that still train would do so, and the job would never end.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
# Ray warns when a machine has more processes than twice its CPUs. The readers of one training are already more.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "PYTHON worker processes have been started")
