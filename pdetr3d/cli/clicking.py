"""The verb ``click``: people make clicks in a browser."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from pdetr3d.cli.app import app
from pdetr3d.cli.dataset import IndexFile
from pdetr3d.schema import DataError


@app.command()
def click(
    index_file: IndexFile,
    split: Annotated[str, typer.Option(help="Split of the index whose frames are clicked.")],
    out: Annotated[Path, typer.Option(help="CSV file of the clicks; one that exists is gone on with.")],
    host: Annotated[str, typer.Option(help="Address to serve at; one that others reach needs --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    token: Annotated[str, typer.Option(envvar="PDETR3D_CLICK_TOKEN", help="What a browser must type first.")] = "",
    sweeps: Annotated[int, typer.Option(min=1, max=10, help="LiDAR sweeps shown, the keyframe included.")] = 1,
) -> None:
    """Make clicks in a browser: a page of LiDAR, images and clicks. Every act is saved at once; Ctrl-C ends.

    The clicks become labels by `pdetr3d label --import`; OUT.done.json beside them says which frames are done.
    """
    missing = [name for name in ("viser", "filelock") if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(f"pdetr3d click needs {', '.join(missing)}: pip install 'pdetr3d[click]'")
    from pdetr3d.click.server import serve
    from pdetr3d.data.index import Index

    serve(Index.open(index_file), split, out, host=host, port=port, token=token, sweeps=sweeps)
