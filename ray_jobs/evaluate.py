"""The job that scores the trained students of ``run.arms``: python -m ray_jobs.evaluate --preset NAME"""

import sys

from pdetr3d.pipeline.arms import possible_arms
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.scoring import evaluate
from ray_jobs.stages.report import print_arms


def body(run: Run) -> None:
    """Score the students on the val split with the devkit's scorer, print the table. Ray must run.

    Raises:
        DataError: when a student is not trained.
    """
    print_arms(evaluate(run, possible_arms(run.data, run.config, run.observer.warn)))


if __name__ == "__main__":
    from ray_jobs.commands import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))
