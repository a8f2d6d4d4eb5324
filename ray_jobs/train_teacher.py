"""Train the point-centric teacher on the box-labeled samples, and score its boxes at the clicks of the val split.

python -m ray_jobs.train_teacher --preset NAME [key=value ...]
"""

import sys

from pdetr3d.pipeline.execute import execute, teacher_goals
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.scoring import teacher_scores
from ray_jobs.stages.report import QUALITY, print_holdout

SCORED = "evaluate_teacher"  # stage of the scores


def body(run: Run) -> None:
    """The job, once Ray runs."""
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
