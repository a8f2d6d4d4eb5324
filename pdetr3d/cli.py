"""The ``pdetr3d`` command: what needs no Ray. Each verb imports its heavy modules itself, so that --help is quick."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from pdetr3d.config import DataConfig, override
from pdetr3d.exits import guarded
from pdetr3d.presets import PRESETS, load
from pdetr3d.schema import DataError

if TYPE_CHECKING:
    from pdetr3d.data.index import Index
    from pdetr3d.data.label_manifest import LabelManifest

app = typer.Typer(
    name="pdetr3d",
    help="Point clicks to 3D detectors: simulate a world, index a dataset, label it, look at it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class ExportFormat(StrEnum):
    """What ``pdetr3d export`` writes."""

    TORCHSCRIPT = "torchscript"
    MLFLOW = "mlflow"


class PointType(StrEnum):
    """What ``pdetr3d pack`` keeps points in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


Preset = Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Config keys to change, as key=value (see show-config).")]
IndexFile = Annotated[Path, typer.Option("--index", help="Index file that `pdetr3d index` wrote.")]
Dataroot = Annotated[Path, typer.Option(help="Folder in nuScenes format (samples/, sweeps/, maps/, VERSION/).")]

# The train split of a version, as the presets have it: v1.0-trainval -> train, v1.0-mini -> mini_train ...
TRAIN_SPLITS = {preset.data.version: preset.data.train_split for preset in PRESETS.values()}


@app.command()
def simulate(
    dataroot: Annotated[Path, typer.Option(help="Folder to write the simulated nuScenes dataset to.")],
    preset: Preset = "quickstart",
    overrides: Overrides = None,
) -> None:
    """Write a simulated world as a valid nuScenes dataset (version v1.0-sim). Its size: the sim.* keys."""
    config = load(preset, overrides)
    from pdetr3d.data.simulate import simulate as write_world

    write_world(dataroot, config.sim)
    _say(simulated=dataroot, next=f"pdetr3d index --dataroot {dataroot} --version v1.0-sim")


@app.command()
def index(
    dataroot: Dataroot,
    version: Annotated[str, typer.Option(help="Table folder under the dataroot, e.g. v1.0-trainval.")],
    out: Annotated[Path | None, typer.Option(help="Default: runs/index/VERSION/index.arrow, here.")] = None,
) -> None:
    """Read the tables of a dataset once and write the index: one row per keyframe (Parquet)."""
    from pdetr3d.data.index import Index
    from pdetr3d.data.nuscenes import build_index

    # Not beside the tables: datasets are often read-only and shared.
    path = build_index(dataroot, version, out or Path("runs") / "index" / version / "index.arrow")
    made = Index.open(path)
    rows = made.table.select(["scene_token", "ann_label"]).to_pydict()
    _say(
        index=path,
        digest=made.digest,
        scenes=len(set(rows["scene_token"])),
        keyframes=len(made),
        objects=sum(len(labels) for labels in rows["ann_label"]),
        **{f"split {name}": f"{len(made.tokens(name))} keyframes" for name in made.splits},
        next=f"pdetr3d label --index {path}",
    )


@app.command()
def label(
    index_file: IndexFile,
    split: Annotated[str | None, typer.Option(help="Default: the version's train split.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Share of box-labeled samples, in (0, 1]: label.ratio.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the split and the simulated clicks: label.seed.")] = None,
    split_by: Annotated[str | None, typer.Option(help="scene, keyframe or prefix: label.split_by.")] = None,
    import_file: Annotated[
        Path | None, typer.Option("--import", help="People's clicks (.csv, .json, .parquet) instead of simulated ones.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder. Default: labels/SPLIT-... beside the index.")] = None,
    preset: Preset = "quickstart",
    overrides: Overrides = None,
) -> None:
    """Write the label manifest: which samples are box-labeled, and one click per object of every train sample."""
    given = {"ratio": ratio, "seed": seed, "split_by": split_by}
    shortcuts = [f"label.{key}={value}" for key, value in given.items() if value is not None]
    config = override(load(preset, overrides), shortcuts).label
    from pdetr3d.data.human_clicks import import_clicks
    from pdetr3d.data.index import Index
    from pdetr3d.data.label_manifest import build_manifest

    opened = Index.open(index_file)
    split = split or _train_split(opened)
    kind = "human" if import_file else "sim"
    name = f"{split}-{kind}-{config.split_by}-{config.ratio:g}-seed{config.seed}"
    folder = out or index_file.parent / "labels" / name
    if import_file:
        manifest = import_clicks(opened, split, config, import_file, folder)
    else:
        manifest = build_manifest(opened, split, config, folder)
    _describe(manifest)


def _train_split(index: Index) -> str:
    if index.version not in TRAIN_SPLITS:
        raise DataError(f"{index.path}: no train split is known for version {index.version!r}; name one with --split")
    return TRAIN_SPLITS[index.version]


def _describe(manifest: LabelManifest) -> None:
    samples = len(manifest.roles)
    boxed = sum(role == "box" for role in manifest.roles.values())
    _say(
        manifest=manifest.path,
        digest=manifest.digest,
        split=manifest.split,
        samples=samples,
        **{"box-labeled": f"{boxed} ({manifest.achieved_ratio:.2%}; asked for {manifest.config.ratio:.2%})"},
        clicks=manifest.clicks.num_rows,
    )


@app.command()
def inspect(
    sample: Annotated[str, typer.Argument(help="Sample token, or row number in the index (from 0).")],
    index_file: IndexFile,
    manifest: Annotated[Path | None, typer.Option(help="Label manifest folder: draws its clicks, too.")] = None,
    sweeps: Annotated[int, typer.Option(min=1, max=10, help="LiDAR sweeps, the keyframe included.")] = 1,
    out: Annotated[Path | None, typer.Option(help="PNG file. Default: runs/inspect/TOKEN.png, here.")] = None,
) -> None:
    """Draw a sample to a PNG: bird's-eye view and six cameras with LiDAR, boxes and clicks."""
    from pdetr3d.data.index import Index
    from pdetr3d.data.label_manifest import LabelManifest, inspection_record
    from pdetr3d.data.load import load_sample
    from pdetr3d.visualize import inspect_sample

    opened = Index.open(index_file)
    token = _sample_token(opened, sample)
    record = inspection_record(opened, token, LabelManifest.open(manifest) if manifest else None)
    sizes = [(camera.width_px, camera.height_px) for camera in record.cameras if camera]
    data = DataConfig(num_sweeps=sweeps, image_size_px=sizes[0] if sizes else (1, 1))
    path = inspect_sample(load_sample(record, data, cameras=bool(sizes)), out or Path("runs/inspect") / f"{token}.png")
    _say(sample=token, picture=path)


@app.command()
def pack(
    out: Annotated[str, typer.Option(help="Folder, s3://... or gs://...: what data.packed is set to.")],
    index_file: Annotated[Path | None, typer.Option("--index", help="Index file that `pdetr3d index` wrote.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="May be given several times. Default: all of them.")] = None,
    num_sweeps: Annotated[int, typer.Option(min=1, max=10, help="LiDAR sweeps kept, the keyframe included.")] = 10,
    points: Annotated[PointType, typer.Option(help="float16: half the size; rounds by up to 1/64 m.")] = (
        PointType.FLOAT32
    ),
    shard_samples: Annotated[int, typer.Option(min=1, help="Samples in a shard.")] = 64,
    processes: Annotated[int, typer.Option(min=0, help="0: one per CPU core.")] = 0,
    verify: Annotated[bool, typer.Option("--verify", help="Only read what is there and compare checksums.")] = False,
) -> None:
    """Write a dataset's samples as Parquet shards for object storage; the same call continues an interrupted one."""
    from pdetr3d.data.pack import pack as write
    from pdetr3d.data.pack import verify as compare

    out = out if "://" in out else str(Path(out).resolve())  # as data.packed wants it
    if verify:
        made = compare(out)
    elif index_file is None:
        raise DataError("pdetr3d pack needs --index FILE, what pdetr3d index wrote (or --verify)")
    else:
        sizes = {"num_sweeps": num_sweeps, "shard_samples": shard_samples, "processes": processes}
        made = write(index_file, split, out, points=points.value, **sizes)
    shards = made.info["shards"]
    size_gb = sum(shard["bytes"] for shard in shards) / 1e9
    _say(pack=out, samples=len(made.places), shards=len(shards), size=f"{size_gb:.3f} GB", next=f"data.packed={out}")


class LabelFormat(StrEnum):
    """What ``pdetr3d export-labels`` writes."""

    RESULTS = "results"
    TABLES = "tables"


RunFolder = Annotated[Path, typer.Argument(help="Run directory whose pseudo labels are made.", metavar="RUN_DIR")]


@app.command()
def export_labels(
    run_dir: RunFolder,
    out: Annotated[Path, typer.Option(help="results: the JSON file; tables: the new dataroot. Must not exist.")],
    kind: Annotated[
        LabelFormat, typer.Option("--format", help="A results file, or complete v1.0 tables under a new dataroot.")
    ] = LabelFormat.TABLES,
) -> None:
    """Write a run's labels (human boxes, accepted pseudo labels elsewhere) in nuScenes' formats, for other tools."""
    from pdetr3d.labels.export_results import export_results
    from pdetr3d.labels.export_tables import export_tables
    from pdetr3d.labels.run_labels import RunLabels

    write = export_results if kind is LabelFormat.RESULTS else export_tables
    _say(**write(RunLabels.open(run_dir), out))


@app.command()
def report_labels(
    run_dir: RunFolder,
    out: Annotated[Path | None, typer.Option(help="New folder. Default: RUN_DIR/pseudo_labels/report.")] = None,
    worst: Annotated[int, typer.Option(min=0, help="Pictures of the worst accepted labels, class by class.")] = 20,
) -> None:
    """Report a run's pseudo labels: quality by class, distance, score; reasons; pictures of the worst (index.html)."""
    from pdetr3d.labels.report import write_report
    from pdetr3d.labels.run_labels import RunLabels

    _say(**write_report(RunLabels.open(run_dir), out or run_dir / "pseudo_labels" / "report", worst))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run directories.", metavar="RUN...")],
    html: Annotated[
        Path | None, typer.Option(help="HTML file to write, too, with pictures; over an older one.")
    ] = None,
) -> None:
    """Print the final figures of runs side by side, and the config keys that they differ in."""
    from pdetr3d.report.compare import print_comparison, write_comparison
    from pdetr3d.report.runs import open_runs

    opened = open_runs(runs)
    print_comparison(opened)
    if html is not None:
        _say(page=write_comparison(opened, html))


@app.command()
def report(
    sweep: Annotated[Path, typer.Argument(help="Run directory of a sweep that has ended.", metavar="SWEEP")],
    out: Annotated[Path | None, typer.Option(help="HTML file, over an older one. Default: SWEEP/report.html.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help='Row to compare with, e.g. "ratio=0.05". Default: that of the config\'s own values.'),
    ] = None,
) -> None:
    """Write a sweep's report as one HTML page: table, curves, importance of parameters, commands that repeat rows."""
    from pdetr3d.report.sweep_page import write_report

    _say(**write_report(sweep, out, baseline))


@app.command()
def budget(
    runs: Annotated[
        list[Path], typer.Argument(help="Finished run directories at three label ratios or more, or sweep folders.")
    ],
    box_cost: Annotated[float, typer.Option(help="Of one 3D box, in any currency.")],
    click_cost: Annotated[float, typer.Option(help="Of one click.")],
    budget: Annotated[float, typer.Option(help="For all labels.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the answer to this JSON file, too.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write the curves to this PNG file, too.")] = None,
) -> None:
    """Say which mix of boxes and clicks buys the most SPNDS, by the label-efficiency curve of finished runs."""
    from pdetr3d.labels.budget import Prices, plan_budget
    from pdetr3d.labels.budget_report import draw_budget, print_budget
    from pdetr3d.labels.measured_runs import read_runs
    from pdetr3d.training.run_dir import write_json

    prices = Prices(box_cost, click_cost, budget)
    answer = plan_budget(read_runs(runs), prices)
    print_budget(answer)
    if json_file is not None:
        write_json(json_file, answer)
    if png is not None:
        draw_budget(answer, png)
    if written := {name: path for name, path in (("json", json_file), ("picture", png)) if path is not None}:
        _say(**written)


@app.command()
def doctor(
    run_dir: Annotated[Path, typer.Argument(help="Run directory to look at.", metavar="RUN_DIR")],
    against: Annotated[
        Path | None, typer.Option(help="Run directory on the same clicks with teacher.fusion=none: what do images add?")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say what is wrong with a run, with the evidence and what to try next. Reads only; problems are no error."""
    from pdetr3d.doctor.diagnosis import diagnose, lines
    from pdetr3d.doctor.run import Run, check_comparable

    run, other = Run(run_dir), None if against is None else Run(against)
    if other is not None:
        check_comparable(run, other)
    results = diagnose(run, other)
    if as_json:
        print(json.dumps({name: asdict(result) for name, result in results.items()}, indent=1))
        return
    for style, line in lines(results):
        Console().print(Text(line, style), soft_wrap=True)


def _sample_token(index: Index, sample: str) -> str:
    """The token itself, or that of the row with this number."""
    if sample in index or not sample.isdecimal():
        index.row(sample)  # an unknown token gets its message here
        return sample
    if int(sample) >= len(index):
        raise DataError(f"sample number {sample}: {index.path} has {len(index)} samples, 0..{len(index) - 1}")
    return str(index.table.column("sample_token")[int(sample)].as_py())


@app.command()
def show_config(
    preset: Preset = "quickstart",
    overrides: Overrides = None,
    model: Annotated[bool, typer.Option("--model", help="Parameters and FLOPs of every part instead.")] = False,
) -> None:
    """Print the resolved configuration as JSON: every key that an override may change."""
    config = load(preset, overrides)
    if not model:
        Console().print_json(config.to_json())
        return
    from pdetr3d.training.model_size import measure, size_table

    for stage in ("teacher", "student"):
        Console().print(size_table(stage, measure(stage, config)))


@app.command()
def plan(
    preset: Preset = "quickstart",
    overrides: Overrides = None,
    measure: Annotated[
        Path | None,
        typer.Option(help="Measure the preset's costs on data.dataroot, here, and write them to this file."),
    ] = None,
    measured: Annotated[Path | None, typer.Option(help="File of costs that --measure wrote.")] = None,
    workers: Annotated[int | None, typer.Option(help="GPUs, one a worker. Default: scaling.workers.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Train samples. Default: the measured dataset's.")] = None,
    samples_per_s: Annotated[
        list[str] | None, typer.Option(help="STAGE=NUMBER, of one GPU, measured elsewhere; instead of --tflops.")
    ] = None,
    from_run: Annotated[Path | None, typer.Option(help="Run directory whose samples/s a worker are taken.")] = None,
    tflops: Annotated[float, typer.Option(help="Peak of one GPU [1e12 FLOP/s]: an assumption.")] = 400.0,
    mfu: Annotated[float, typer.Option(help="Share of it that training reaches: an assumption.")] = 0.35,
    gpus_per_node: Annotated[int, typer.Option(help="Of a GPU node.")] = 8,
    cores_per_node: Annotated[float, typer.Option(help="Of a GPU node; workers take theirs, the rest loads.")] = 64.0,
    object_store_gb: Annotated[float, typer.Option(help="Of a GPU node.")] = 137.4,
    head_object_store_gb: Annotated[float, typer.Option(help="Of the driver's node: it holds all records.")] = 8.6,
    network_gbit_s: Annotated[float, typer.Option(help="Of a GPU node, each way.")] = 100.0,
    storage_gb_s: Annotated[float, typer.Option(help="Of the shared storage, in all.")] = 10.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Capacity: hours, cores, network, memory and the first bottleneck, of measured costs; swept up to 512 GPUs."""
    from pdetr3d.capacity.costs import make_cluster
    from pdetr3d.capacity.plan import costs, print_plan
    from pdetr3d.capacity.rates import given_rates, rates_of_run

    config = load(preset, overrides)
    cluster = make_cluster(
        gpus=config.scaling.workers if workers is None else workers,
        gpus_per_node=gpus_per_node,
        cores_per_node=cores_per_node,
        object_store_gb=object_store_gb,
        head_object_store_gb=head_object_store_gb,
        network_gbit_s=network_gbit_s,
        storage_gb_s=storage_gb_s,
        tflops=tflops,
        mfu=mfu,
    )
    rates = (rates_of_run(from_run, config) if from_run else {}) | given_rates(samples_per_s or [])
    print_plan(costs(config, measure, measured), config, cluster, samples, rates, json_file)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="Run directory with a trained student.")],
    out: Annotated[Path, typer.Option(help="Folder to write. Must not exist.")],
    arm: Annotated[str, typer.Option(help="Which student: ours, boxes_only, full, ...")] = "ours",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint file. Default: the one the evaluation chose, else the last.")
    ] = None,
    kind: Annotated[
        ExportFormat,
        typer.Option("--format", help="TorchScript with a JSON that says how to use it, or an MLflow model."),
    ] = ExportFormat.TORCHSCRIPT,
    device: Annotated[str, typer.Option(help="Where the TorchScript model will run: cpu, cuda.")] = "cpu",
) -> None:
    """Export a trained student: LiDAR points in, boxes out, without clicks or images."""
    from pdetr3d.deploy.source import TrainedStudent, chosen_checkpoint

    trained = TrainedStudent.load(checkpoint or chosen_checkpoint(run_dir, arm))
    if kind is ExportFormat.MLFLOW:
        from pdetr3d.deploy.mlflow_export import export_mlflow

        export_mlflow(trained, out)
        _say(exported=trained.file, to=out, next=f"mlflow models serve -m {out} --env-manager local")
        return
    from pdetr3d.deploy.torchscript import export_torchscript, known_device

    info = export_torchscript(trained, out, known_device(device))
    _say(exported=trained.file, to=out, **{"largest difference to eager": info["max_difference_to_eager"]})


def _say(**rows: object) -> None:
    """One line per item; long values are not wrapped, so that paths and commands can be copied."""
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        Console().print(Text(f"{name:>{width}}", style="bold"), Text(str(value)), soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code (see exits.py)."""
    return guarded(lambda: app(arguments, prog_name="pdetr3d"))


if __name__ == "__main__":
    sys.exit(main())
