"""Turn every click of the point-labeled samples into a box with the trained teacher.

python -m ray_jobs.pseudo_label --preset NAME [key=value ...]
"""

import sys

from ray_jobs.stages.holdout import STAGE as HOLDOUT
from ray_jobs.stages.report import print_labels
from ray_jobs.stages.stages import Stages


def body(stages: Stages) -> None:
    """The job, once Ray runs."""
    print_labels(stages.pseudo_labels(), stages.run.result(HOLDOUT))
    print(f"pseudo labels: {stages.pseudo_file}")


if __name__ == "__main__":
    from ray_jobs.commands import main

    sys.exit(main(["pseudo-label", *sys.argv[1:]]))
