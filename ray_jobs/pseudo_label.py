"""Turn every click of the point-labeled samples into a box with the trained teacher.

python -m ray_jobs.pseudo_label --preset NAME [key=value ...]
"""

from ray_jobs.stages.holdout import STAGE as HOLDOUT
from ray_jobs.stages.report import print_labels
from ray_jobs.stages.stages import Stages
from ray_jobs.start.launch import main


def body(stages: Stages) -> None:
    """The job, once Ray runs."""
    print_labels(stages.pseudo_labels(), stages.run.result(HOLDOUT))
    print(f"pseudo labels: {stages.pseudo_file}")


if __name__ == "__main__":
    main(body, __doc__)
