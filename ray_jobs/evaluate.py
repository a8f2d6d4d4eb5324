"""Score the trained student arms of run.arms with the devkit's scorer: python -m ray_jobs.evaluate --preset NAME"""

from ray_jobs.arms import possible_arms
from ray_jobs.launch import main
from ray_jobs.report import print_arms
from ray_jobs.scoring import evaluate
from ray_jobs.stages import Stages


def body(stages: Stages) -> None:
    """The job, once Ray runs."""
    print_arms(evaluate(stages, possible_arms(stages.data, stages.config)))


if __name__ == "__main__":
    main(body, __doc__)
