"""The job that trains the student arms of ``run.arms``; arm "ours" needs pseudo labels.

python -m ray_jobs.train_student --preset NAME run.arms=[ours]
"""

import sys

from pdetr3d.pipeline.arms import possible_arms
from pdetr3d.pipeline.execute import execute
from pdetr3d.pipeline.run import Run


def body(run: Run) -> None:
    """Train the students, print the paths of their last checkpoints. Ray must run.

    Raises:
        DataError: as the stages; and for arm "ours" when the pseudo labels are missing.
    """
    arms = possible_arms(run.data, run.config, run.observer.warn)
    execute([f"student_{arm}" for arm in arms], run, given=("pseudo_labels",))
    for arm in arms:
        print(f"{arm}: {run.checkpoints(f'student_{arm}')[-1]}")


if __name__ == "__main__":
    from ray_jobs.commands import main

    sys.exit(main(["train-student", *sys.argv[1:]]))
