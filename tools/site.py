"""A hook of mkdocs: the site's pages are the repository's documents at the same paths, so that links work in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = (
    "*.md",
    "docs/**/*.md",
    "docs/*.svg",
    "docs/*.css",
    "docs/*.js",
    "docs/*.png",
    "docs/*.ipynb",
    "cluster/README.md",
    "tune_spaces/README.md",
)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Replace the files that mkdocs found under ``docs/`` by the documents; the theme's files stay."""
    found = [file for file in files if not str(file.abs_src_path or "").startswith(str(ROOT / "docs"))]
    paths = sorted(path for pattern in (*PATTERNS, "results/*.png") for path in ROOT.glob(pattern))
    return Files(found + [_file(path, config) for path in paths])


def _file(path: Path, config: Any) -> File:
    return File(
        str(path.relative_to(ROOT)), str(ROOT), config["site_dir"], use_directory_urls=config["use_directory_urls"]
    )
