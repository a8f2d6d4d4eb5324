"""The Typer app, and the options and functions that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from pdetr3d.config import Config

# The names of pdetr3d.presets, which --help must not import.
PRESET_NAMES = (
    "quickstart",
    "headline",
    "real-smoke",
    "fusion-study",
    "nuscenes-pillar",
    "nuscenes-voxel",
    "kitti-small",
    "kitti",
)

app = typer.Typer(
    name="pdetr3d",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Preset = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(PRESET_NAMES)}. Default: that of --config, else quickstart.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file of config keys. They replace the preset's; key=value replaces both."),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="Config keys to change, as key=value (see show-config).")]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"pdetr3d {version('pdetr3d')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train LiDAR 3D object detectors from point clicks."""


def load_config(preset: str | None, overrides: list[str] | None, file: Path | None = None) -> Config:
    """Load a preset (default: quickstart), then the file's keys, then the overrides.

    Raises:
        DataError: as ``pdetr3d.config_file.with_file``.
    """
    from pdetr3d.presets import load

    if file is None:
        return load(preset or "quickstart", overrides)
    from pdetr3d.config_file import with_file

    return load(*with_file(file, preset, overrides))


def say(**rows: object) -> None:
    """Print one line per item. Long values are not wrapped, so that paths and commands can be copied."""
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        Console().print(Text(f"{name:>{width}}", style="bold"), Text(str(value)), soft_wrap=True)
