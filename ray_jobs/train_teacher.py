"""Train the point-centric teacher on the box-labeled samples, and score its boxes at the clicks of the val split.

python -m ray_jobs.train_teacher --preset NAME [key=value ...]
"""

import sys

from ray_jobs.stages.holdout import measure_holdout
from ray_jobs.stages.report import QUALITY, print_holdout
from ray_jobs.stages.scoring import teacher_scores
from ray_jobs.stages.stages import Stages

SCORED = "evaluate_teacher"  # stage of the scores


def body(stages: Stages) -> None:
    """The job, once Ray runs."""
    file = stages.teacher()
    scores = stages.run.result(SCORED)
    if scores is None:
        scores = stages.run.finish(SCORED, teacher_scores(stages, file, stages.config.data.val_split))
    known = {key: scores[key] for key in QUALITY if scores.get(key) is not None}
    told = ", ".join(f"{key} {value:.4g}" for key, value in known.items())
    print(f"teacher, val split: {told if known.get('n') else 'quality unknown, since no sample there has an object'}")
    print_holdout(measure_holdout(stages))
    print(f"teacher: {file}")


if __name__ == "__main__":
    from ray_jobs.commands import main

    sys.exit(main(["train-teacher", *sys.argv[1:]]))
