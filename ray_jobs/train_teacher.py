"""The job that trains the point-centric teacher and scores its boxes at the clicks of the val split.

python -m ray_jobs.train_teacher --preset NAME [key=value ...]
"""

import sys

from pdetr3d.pipeline.execute import execute, teacher_goals
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.scoring import teacher_scores
from ray_jobs.stages.report import QUALITY, print_holdout

SCORED = "evaluate_teacher"  # the stage whose result the scores are


def body(run: Run) -> None:
    """Train and score the teacher, print its figures. Ray must run.

    Raises:
        DataError: as the stages.
    """
    execute(teacher_goals(run.config), run)
    file = run.checkpoints("teacher")[-1]
    scores = run.result(SCORED)
    if scores is None:
        scores = run.dir.finish(SCORED, teacher_scores(run, file, run.config.data.val_split))
    known = {key: scores[key] for key in QUALITY if scores.get(key) is not None}
    told = ", ".join(f"{key} {value:.4g}" for key, value in known.items())
    print(f"teacher, val split: {told if known.get('n') else 'quality unknown, since no sample there has an object'}")
    print_holdout(run.result("holdout"))
    print(f"teacher: {file}")


if __name__ == "__main__":
    from ray_jobs.commands import main

    sys.exit(main(["train-teacher", *sys.argv[1:]]))
