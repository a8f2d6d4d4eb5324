"""The ``pdetr3d`` command: the verbs of ``pdetr3d.cli``, and those of the jobs on Ray, which this module declares.

``pdetr3d train-teacher ...`` and ``python -m ray_jobs.train_teacher ...`` do the same. Each verb's function imports its
job when it is called, so that --help imports neither Ray nor torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tune_spaces
from pdetr3d.cli import main
from pdetr3d.cli.app import PRESET_NAMES, ConfigFile, Overrides, app
from pdetr3d.cli.predict import Arm, Columns, IndexFile, IntensityMax, Lidar, MinScore, Model, MoreLidar, Poses, Split

if TYPE_CHECKING:
    from pdetr3d.pipeline.run import Run

__all__ = ["job", "main"]

PANEL = "Jobs on Ray (a cluster's where RAY_ADDRESS names one)"
SPACES = sorted(file.stem for file in Path(tune_spaces.__file__).parent.glob("*.yaml"))

Preset = Annotated[str | None, typer.Option(help=f"One of {', '.join(PRESET_NAMES)}. Default: that of --config.")]

Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Show on the screen what is otherwise only in DIR/logs: output of Ray and MLflow, all progress lines. "
        "PDETR3D_VERBOSE=1 does the same.",
    ),
]


def asked_for_all(verbose: bool) -> bool:
    """Whether the whole output is wanted on the screen, by the option or by PDETR3D_VERBOSE."""
    return verbose or os.environ.get("PDETR3D_VERBOSE", "0") not in ("", "0")


def job(body: Callable[[], Callable[[Run], object]]) -> Callable[..., None]:
    """Make the function of a verb that runs stages in a run directory.

    Args:
        body: imports and returns the job's function. It is called after the options are parsed.
    """

    def run(
        overrides: Overrides = None,
        preset: Preset = None,
        config: ConfigFile = None,
        run_dir: Annotated[
            Path | None, typer.Option(help="Folder of everything that the run writes. Default: runs/PRESET.")
        ] = None,
        fresh: Annotated[
            bool,
            typer.Option("--fresh", help="Begin anew in DIR-2, DIR-3, ... where DIR exists. Nothing is overwritten."),
        ] = False,
        verbose: Verbose = False,
    ) -> None:
        from ray_jobs.start.launch import Asked, run_job

        run_job(body, Asked(preset, config, tuple(overrides or ()), run_dir, fresh, asked_for_all(verbose)))

    return run


def _pipeline() -> Callable[[Run], object]:
    """Run everything in one command: data, teacher, pseudo labels, students, scores, report.

    A run directory keeps what is finished; the same command continues an
    interrupted run. Config keys and their units: pdetr3d show-config.

    Example: pdetr3d pipeline --preset quickstart label.ratio=0.1 --run-dir runs/ten-percent
    """
    from ray_jobs.pipeline import body

    return body


def _train_teacher() -> Callable[[Run], object]:
    """Train the teacher on the box-labeled samples, and score its boxes at the clicks of the val split.

    Example: pdetr3d train-teacher --preset quickstart teacher.optim.lr=0.001
    """
    from ray_jobs.train_teacher import body

    return body


def _pseudo_label() -> Callable[[Run], object]:
    """Turn every click of the point-labeled samples into a box with the trained teacher.

    Example: pdetr3d pseudo-label --preset quickstart
    """
    from ray_jobs.pseudo_label import body

    return body


def _train_student() -> Callable[[Run], object]:
    """Train the students that run.arms names. "ours" needs pseudo labels.

    Example: pdetr3d train-student --preset quickstart --run-dir runs/quickstart
    """
    from ray_jobs.train_student import body

    return body


def _evaluate() -> Callable[[Run], object]:
    """Score the trained students that run.arms names on the val split: mAP, NDS and SPNDS, by the devkit's rules.

    Example: pdetr3d evaluate --preset quickstart --run-dir runs/quickstart
    """
    from ray_jobs.evaluate import body

    return body


for _body in (_pipeline, _train_teacher, _pseudo_label, _train_student, _evaluate):
    _name = _body.__name__.strip("_").replace("_", "-")
    app.command(_name, help=_body.__doc__, rich_help_panel=PANEL)(job(_body))


@app.command(rich_help_panel=PANEL)
def search(
    space: Annotated[str, typer.Argument(help=f"One of {', '.join(SPACES)}, or a .yaml file.")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="Config keys to change in every trial.")
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the world and all trials. Default: runs/search-SPACE-PRESET.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of SPACE.json.")] = Path("results"),
    seeds: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SEED ...",
            help="Seeds of weights, order, labels and clicks, e.g. --seeds 0 1 2. Default: those of the space.",
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Train only this variant of the space. May be given several times."),
    ] = None,
    pretrained: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Run directory of this search on another world: teachers also begin with its teachers."
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials of a random or Optuna search. Default: what the space says.")
    ] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at once. Default: what the cluster has room for.")
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="SAMPLES",
            help="Training samples, of all trials together, after which the search ends. Default: no limit.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Samples behind learning curves at clicks, and corrupted input. Default: what the space says.",
        ),
    ] = None,
    final_samples: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Point-labeled samples behind final figures. 0: all. Default: what the space says."
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Compare variants, or search a space of config keys: trials side by side, shared stages trained once, one report.

    The same call continues: finished trials stay, interrupted and failed ones
    continue from their checkpoints. Writes search.json and report.html in its run
    directory, and results/SPACE.json.

    Example: pdetr3d search label_ratio --preset quickstart --seeds 0 1 2
    """
    from pdetr3d.config_file import with_file
    from ray_jobs.search import run
    from ray_jobs.searches.command import Asked, seeds_and_overrides

    numbers, overrides = seeds_and_overrides([*(seeds or ()), *(words or ())])
    preset, overrides = with_file(config, preset, overrides)
    variants = tuple(variant or ())
    counts = (trials, concurrent, budget, samples, final_samples)
    run(Asked(space, preset, overrides, numbers, run_dir, out, variants, pretrained, *counts, asked_for_all(verbose)))


@app.command(rich_help_panel=PANEL)
def predict_blocks(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder of block-NNNNNN.parquet. Its parent must exist.")],
    more: MoreLidar = None,
    lidar: Lidar = None,
    columns: Columns = None,
    intensity_max: IntensityMax = 255.0,
    poses: Poses = None,
    index_file: IndexFile = None,
    split: Split = None,
    arm: Arm = "ours",
    min_score: MinScore = 0.0,
    block_samples: Annotated[int, typer.Option(min=1, help="Samples of an output file.")] = 64,
    actors: Annotated[int, typer.Option(min=1, help="Actors that predict side by side.")] = 1,
    cpus: Annotated[float, typer.Option(min=0, help="Logical CPUs that Ray counts for an actor.")] = 1.0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch in an actor.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give each actor a GPU of its own.")] = False,
) -> None:
    """Predict large sets with a trained student, one output file a block (python -m ray_jobs.predict).

    A killed job continues with the same command: blocks whose file is there are
    not predicted again. Frames and units are those of pdetr3d predict. On a
    cluster the model, the data and the output folder must be on storage that
    all nodes see.

    Example: pdetr3d predict-blocks runs/quickstart --lidar recordings --out predictions --actors 4
    """
    from pdetr3d.inference.frames import Asked
    from ray_jobs.predict import Actors, run

    files = Asked([*(lidar or ()), *(more or ())], columns, intensity_max, poses, index_file, split)
    run(model, arm, files, out, min_score, block_samples, Actors(actors, cpus, threads, gpu))


if __name__ == "__main__":
    sys.exit(main())
