"""Score the trained student arms of run.arms with the devkit's scorer: python -m ray_jobs.evaluate --preset NAME"""

import sys

from ray_jobs.stages.arms import possible_arms
from ray_jobs.stages.report import print_arms
from ray_jobs.stages.scoring import evaluate
from ray_jobs.stages.stages import Stages


def body(stages: Stages) -> None:
    """The job, once Ray runs."""
    print_arms(evaluate(stages, possible_arms(stages.data, stages.config)))


if __name__ == "__main__":
    from ray_jobs.commands import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))
