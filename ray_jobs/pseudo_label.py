"""The job that turns every click of the point-labeled samples into a box with the trained teacher.

python -m ray_jobs.pseudo_label --preset NAME [key=value ...]
"""

import sys

from pdetr3d.pipeline.execute import execute
from pdetr3d.pipeline.run import Run
from ray_jobs.stages.report import print_labels


def body(run: Run) -> None:
    """Make the pseudo labels, print their quality and their file. Ray must run.

    Raises:
        DataError: as the stages; and when the run directory has no trained teacher.
    """
    execute(["pseudo_labels"], run, given=("teacher",))
    print_labels(run.finished("pseudo_labels"), run.result("holdout"))
    print(f"pseudo labels: {run.pseudo_file}")


if __name__ == "__main__":
    from ray_jobs.commands import main

    sys.exit(main(["pseudo-label", *sys.argv[1:]]))
