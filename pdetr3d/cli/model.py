"""Verbs on configs and models: show-config, plan, export, import-weights."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pdetr3d.cli.app import ConfigFile, Overrides, Preset, app, load_config, say


@app.command()
def show_config(
    preset: Preset = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, without meanings.")] = False,
    model: Annotated[
        bool, typer.Option("--model", help="Print the parameters and FLOPs of every part instead.")
    ] = False,
) -> None:
    """Print the resolved configuration as YAML for --config: every key with its meaning, unit and allowed values.

    Example: pdetr3d show-config --preset quickstart label.ratio=0.1
    """
    config = load_config(preset, overrides, config_file)
    if not model:
        if as_json:
            print(config.to_json())
            return
        from pdetr3d.config_file import to_yaml

        print(to_yaml(config), end="")
        return
    from pdetr3d.training.model_size import measure, size_table

    for stage in ("teacher", "student"):
        Console().print(size_table(stage, measure(stage, config)))


@app.command()
def plan(
    preset: Preset = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    measure: Annotated[
        Path | None,
        typer.Option(help="Measure the costs on this machine with data.dataroot, and write them to this file."),
    ] = None,
    measured: Annotated[Path | None, typer.Option(help="File of costs that --measure wrote.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers, one GPU each. Default: scaling.workers.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Train samples. Default: the measured dataset's.")] = None,
    samples_per_s: Annotated[
        list[str] | None, typer.Option(help="STAGE=NUMBER: measured samples/s of one GPU, instead of --tflops.")
    ] = None,
    from_run: Annotated[
        Path | None, typer.Option(help="Run directory: use its measured samples/s of a worker.")
    ] = None,
    tflops: Annotated[float, typer.Option(help="Peak of one GPU, in TFLOP/s: an assumption.")] = 400.0,
    mfu: Annotated[float, typer.Option(help="Share of this peak that training reaches: an assumption.")] = 0.35,
    gpus_per_node: Annotated[int, typer.Option(help="GPUs of a node.")] = 8,
    cores_per_node: Annotated[
        float, typer.Option(help="CPU cores of a GPU node. Workers take theirs, the others load.")
    ] = 64.0,
    object_store_gb: Annotated[float, typer.Option(help="Object store of a GPU node, in GB.")] = 137.4,
    head_object_store_gb: Annotated[
        float, typer.Option(help="Object store of the driver's node, in GB. It holds all records.")
    ] = 8.6,
    network_gbit_s: Annotated[float, typer.Option(help="Network of a GPU node, each way, in Gbit/s.")] = 100.0,
    storage_gb_s: Annotated[float, typer.Option(help="Shared storage, all readers together, in GB/s.")] = 10.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the estimate to this JSON file.")] = None,
) -> None:
    """Estimate time, cores, network, memory and bottleneck of a training from measured costs, for up to 512 GPUs.

    Example: pdetr3d plan --preset nuscenes-voxel --workers 8 --measured costs.json
    """
    from pdetr3d.finished.capacity.costs import make_cluster
    from pdetr3d.finished.capacity.plan import costs, print_plan
    from pdetr3d.finished.capacity.rates import given_rates, rates_of_run

    config = load_config(preset, overrides, config_file)
    cluster = make_cluster(
        gpus=config.scaling.most_workers if workers is None else workers,
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


DIFFERENCE = "largest difference to eager"


class ExportFormat(StrEnum):
    """The formats of ``pdetr3d export``."""

    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"
    MLFLOW = "mlflow"


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="Run directory with a trained student.")],
    out: Annotated[Path, typer.Option(help="Folder to write. Must not exist.")],
    arm: Annotated[str, typer.Option(help="Which student: ours, boxes_only, full, ...")] = "ours",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint file. Default: the one that the evaluation chose, or the last.")
    ] = None,
    kind: Annotated[
        ExportFormat,
        typer.Option("--format", help="TorchScript or ONNX, with a JSON that describes it, or an MLflow model."),
    ] = ExportFormat.TORCHSCRIPT,
    device: Annotated[str, typer.Option(help="Device of the TorchScript model: cpu, cuda.")] = "cpu",
) -> None:
    """Export a trained student: LiDAR points in, boxes out, without clicks or images.

    Example: pdetr3d export runs/quickstart --format onnx --out onnx-student
    """
    from pdetr3d.finished.deploy.source import TrainedStudent, chosen_checkpoint

    trained = TrainedStudent.load(checkpoint or chosen_checkpoint(run_dir, arm))
    if kind is ExportFormat.MLFLOW:
        from pdetr3d.finished.deploy.mlflow_export import export_mlflow

        export_mlflow(trained, out)
        say(exported=trained.file, to=out, next=f"mlflow models serve -m {shlex.quote(str(out))} --env-manager local")
        return
    if kind is ExportFormat.ONNX:
        from pdetr3d.finished.deploy.onnx_export import export_onnx

        info = export_onnx(trained, out)
        say(exported=trained.file, to=out, opset=info["opset"], **{DIFFERENCE: info["max_difference_to_eager"]})
        return
    from pdetr3d.finished.deploy.torchscript import export_torchscript, known_device

    info = export_torchscript(trained, out, known_device(device))
    say(exported=trained.file, to=out, **{DIFFERENCE: info["max_difference_to_eager"]})


@app.command()
def import_weights(
    file: Annotated[Path, typer.Argument(help="Checkpoint (.pth) of mmdetection3d's or OpenPCDet's CenterPoint.")],
    out: Annotated[Path, typer.Option(help="Folder to write. Must not exist.")],
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Allow parts of the student without imported weights: to be trained."),
    ] = False,
    preset: Preset = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Make a student from a CenterPoint that mmdetection3d (1.0 or later) or OpenPCDet trained on nuScenes.

    The preset (nuscenes-pillar, nuscenes-voxel) and keys must describe its
    model. The command writes checkpoint.pt for predict and export, and
    import.json, which lists the weights that were used.

    Example: pdetr3d import-weights model.pth --preset nuscenes-voxel --out new
    """
    from pdetr3d.importers.centerpoint import import_centerpoint, summary

    config = load_config(preset, overrides, config_file)
    made = import_centerpoint(file, config, out, partial)
    say(
        **summary(made),
        next=f"pdetr3d predict {shlex.quote(str(out / 'checkpoint.pt'))} --lidar FOLDER --out boxes.csv",
    )
