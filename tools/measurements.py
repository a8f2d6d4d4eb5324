"""The measurements behind the tables of README.md and docs/: the commands, and what they need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "results"


@dataclass(frozen=True)
class Measurement:
    """One measurement.

    Attributes:
        name: of the JSON file in ``results/``. commands: arguments of Python, one tuple per command. tables: arguments
            of ``tools/result_tables.py``, which is called at the end. shown: the command that the documents name.
        needs: environment variable with the path of real data, or "". ``commands`` may contain it as $NAME.
        seeds: how many seeds the last command, a search, trains. 0: it is not a search.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    tables: tuple[str, ...]
    shown: str
    needs: str = ""
    seeds: int = 0


def folder(name: str) -> str:
    """The folder in which a result is measured."""
    return str(RUNS / name)


def pipeline(preset: str, *dataset: str) -> Measurement:
    """A run of ``ray_jobs.pipeline``. dataset: of KITTI's frames; none: the simulated world."""
    words = ("-m", "ray_jobs.pipeline", "--preset", preset)
    command = (*words, "--run-dir", folder(preset), *(f"data.dataroot={path}" for path in dataset))
    if not dataset:
        return Measurement(preset, (command,), (preset, folder(preset)), f"make {preset}")
    commands = (*map(import_kitti, dataset), command)
    shown = python((*words, "data.dataroot=dataset"))
    return Measurement(preset, commands, (preset, folder(preset)), shown, "PDETR3D_KITTI_DATA")


def search(quick: bool, space: str, preset: str, *overrides: str, kitti: bool = False) -> Measurement:
    """A search. quick: over one seed, not three. kitti: on KITTI's frames, else on the simulated world."""
    name = space.replace("_", "-")
    place = folder(f"{name}-quick" if quick else name)
    words = ("-m", "ray_jobs.search", space, "--preset", preset, *overrides, *(("--seeds", "0") if quick else ()))
    dataset = f"{place}-dataset"
    data, shown_data = ((f"data.dataroot={path}",) if kitti else () for path in (dataset, "dataset"))
    command = (*words, *data, "--out", place, "--run-dir", place)
    commands = (import_kitti(dataset), command) if kitti else (command,)
    needs = "PDETR3D_KITTI_DATA" if kitti else ""
    shown = python((*words, *shown_data))
    return Measurement(name, commands, (name, f"{place}/search.json"), shown, needs, seeds=1 if quick else 3)


def import_kitti(dataset: str) -> tuple[str, ...]:
    """The command that imports KITTI's frames as a dataset."""
    source = ("--root", "$PDETR3D_KITTI_DATA", "--scenes", "$PDETR3D_KITTI_DATA/scenes.csv")
    return ("-m", "ray_jobs.commands", "import", "kitti", *source, "--out", dataset)


def python(words: tuple[str, ...]) -> str:
    """The command line that runs Python with these arguments."""
    return " ".join(("python", *words))


def measurements(quick: bool = False) -> tuple[Measurement, ...]:
    """All measurements. quick: searches train one seed, in folders of their own."""
    return (
        pipeline("quickstart"),
        pipeline("kitti-small", folder("kitti-small-dataset")),
        Measurement(
            "chaos",
            (("-m", "tests.chaos.suite", "--folder", folder("chaos")),),
            ("chaos", f"{folder('chaos')}/chaos.json"),
            "make chaos",
        ),
        Measurement(
            "your-data",
            (("-m", "benchmarks.bench_your_data", folder("your-data")),),
            ("your-data", f"{folder('your-data')}/your-data.json"),
            "python -m benchmarks.bench_your_data runs/results/your-data",
        ),
        search(quick, "kitti_clicks", "kitti-small", kitti=True),
        Measurement(
            "costs",
            (("-m", "benchmarks.costs", f"{folder('costs')}/costs.json"),),
            ("costs", f"{folder('costs')}/costs.json"),
            "python -m benchmarks.costs costs.json",
            "PDETR3D_REAL_DATA",
        ),
        search(
            *(quick, "unclicked", "quickstart"),
            *("teacher.fusion=none", "teacher.optim.epochs=7", "optim.epochs=1.05", "optim.checkpoints=1"),
        ),
    )
