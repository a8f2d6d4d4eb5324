"""Train the point-centric teacher on the box-labeled samples.

python -m ray_jobs.train_teacher --preset NAME [key=value ...]
"""

from ray_jobs.launch import main
from ray_jobs.stages import Stages


def body(stages: Stages) -> None:
    """The job, once Ray runs."""
    print(f"teacher: {stages.teacher()}")


if __name__ == "__main__":
    main(body, __doc__)
