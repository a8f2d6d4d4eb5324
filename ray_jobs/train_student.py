"""Train the student arms of run.arms ("ours" needs pseudo labels).

python -m ray_jobs.train_student --preset NAME run.arms=[ours]
"""

import sys

from ray_jobs.stages.arms import possible_arms
from ray_jobs.stages.stages import Stages


def body(stages: Stages) -> None:
    """The job, once Ray runs."""
    for arm in possible_arms(stages.data, stages.config):
        print(f"{arm}: {stages.student(arm)[-1]}")


if __name__ == "__main__":
    from ray_jobs.commands import main

    sys.exit(main(["train-student", *sys.argv[1:]]))
