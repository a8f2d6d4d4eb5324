"""The measurements behind the tables of README.md and docs/: the commands, and what they need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "results"
ON_SIMULATED = (  # of the search whose teachers learn from the simulated world
    "data.version=v1.0-sim",
    "data.train_split=sim_train",
    "data.val_split=sim_val",
    "sim.scenes=200",
    "label.folds=5",
    "teacher.crop_optim.epochs=100",
    "teacher.optim.epochs=10",
)

# Variants of the search ``initialization``: how queries begin, with and without attention to one another.
QUERIES = ("explicit-direct", "implicit-direct", "implicit-direct-attending", "learned-hungarian")
QUERIES += ("learned-hungarian-attending", "explicit-direct-crop")
STUDENTS = ("boxes only", "ours", "boxes everywhere")  # variants of the search ``headline``


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


def search(quick: bool, space: str, preset: str, *words: str, name: str = "") -> Measurement:
    """A search over three seeds. quick: over one. words: options and key=value of the search. name: "": the space's."""
    name = name or space.replace("_", "-")
    place = folder(f"{name}-quick" if quick else name)
    command = ("-m", "ray_jobs.search", space, "--preset", preset, *words, *(("--seeds", "0") if quick else ()))
    tables = (name, f"{place}/search.json")
    seeds = 1 if quick else 3
    return Measurement(name, ((*command, "--out", place, "--run-dir", place),), tables, python(command), seeds=seeds)


def kitti_clicks(quick: bool) -> Measurement:
    """The search on KITTI's frames, also from teachers of the simulated world. quick: over one seed, not three."""
    what = "kitti-clicks-quick" if quick else "kitti-clicks"
    dataset, simulated = folder(f"{what}-dataset"), folder(f"{what}-sim")
    words = ("--pretrained", simulated, f"data.dataroot={dataset}", "scaling.inference_workers=1")
    found = search(quick, "kitti_clicks", "kitti-small", *words)
    before = ("-m", "ray_jobs.search", "kitti_clicks", "--preset", "kitti-small", "--run-dir", simulated)
    before += ("--out", simulated, "--seeds", "0", *ON_SIMULATED)
    shown = found.shown.replace(simulated, "runs/kitti-clicks-sim").replace(dataset, "dataset")
    commands = (import_kitti(dataset), before)
    return replace(found, commands=(*commands, *found.commands), shown=shown, needs="PDETR3D_KITTI_DATA")


def kitti_students(quick: bool) -> Measurement:
    """Students of KITTI's frames, with boxes in some, clicks in the others, or boxes in all. quick: as ``search``."""
    dataset = folder(f"kitti-students{'-quick' if quick else ''}-dataset")
    found = students(quick, "kitti-small", "kitti-students", f"data.dataroot={dataset}", "label.ratio=0.29")
    shown = found.shown.replace(dataset, "dataset")
    return replace(found, commands=(import_kitti(dataset), *found.commands), shown=shown, needs="PDETR3D_KITTI_DATA")


def students(quick: bool, preset: str, name: str, *words: str) -> Measurement:
    """The search ``headline`` with the variants STUDENTS. words: further ones of the command. quick: as ``search``."""
    chosen = [word for variant in STUDENTS for word in ("--variant", variant)]
    words = (*words, "scaling.inference_workers=1")  # two trials at once on two CPUs
    found = search(quick, "headline", preset, *chosen, *words, name=name)
    shown = found.shown
    for variant in STUDENTS:
        shown = shown.replace(variant, f'"{variant}"' if " " in variant else variant)
    return replace(found, shown=shown)


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
        Measurement(
            "transfer",
            (
                ("-m", "ray_jobs.train_teacher", "--preset", "quickstart", "--run-dir", folder("quickstart")),
                ("-m", "benchmarks.transfer", folder("quickstart"), f"{folder('transfer')}/transfer.json"),
            ),
            ("transfer", f"{folder('transfer')}/transfer.json"),
            "python -m benchmarks.transfer runs/quickstart transfer.json",
            "PDETR3D_REAL_DATA",
        ),
        kitti_clicks(quick),
        kitti_students(quick),
        students(quick, "headline", "headline"),
        search(
            quick,
            "initialization",
            "quickstart",
            *(word for variant in QUERIES for word in ("--variant", variant)),
            *("--samples", "40", "--final-samples", "200"),
            *("teacher.fusion=none", "teacher.optim.epochs=56", "scaling.inference_workers=1"),
        ),
        search(
            quick,
            "self_labels",
            "quickstart",
            *("--samples", "40", "--final-samples", "200", "scaling.inference_workers=1"),
        ),
        Measurement(
            "costs",
            (("-m", "benchmarks.costs", f"{folder('costs')}/costs.json"),),
            ("costs", f"{folder('costs')}/costs.json"),
            "python -m benchmarks.costs costs.json",
            "PDETR3D_REAL_DATA",
        ),
        search(
            quick,
            "unclicked",
            "quickstart",
            "teacher.fusion=none",
            "teacher.optim.epochs=7",
            "optim.epochs=1.05",
            "optim.checkpoints=1",
        ),
    )
