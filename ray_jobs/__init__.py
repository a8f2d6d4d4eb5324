"""The jobs of pdetr3d on Ray: ``python -m ray_jobs.NAME``."""

import os

# Read when Ray is imported. Otherwise any call of Ray after ``ray.shutdown`` starts another Ray: a job that is
# interrupted would do so in the threads that still train, and never end.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
