"""Verbs on datasets: simulate, index, label, inspect, pack."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pdetr3d.cli.app import ConfigFile, Overrides, Preset, app, load_config, say
from pdetr3d.errors import DataError

if TYPE_CHECKING:
    from pdetr3d.class_list import ClassList
    from pdetr3d.config import LabelConfig
    from pdetr3d.data.index.index import Index
    from pdetr3d.data.label_manifest import LabelManifest
    from pdetr3d.data.labels.roles import People

IndexFile = Annotated[Path, typer.Option("--index", help="Index file that `pdetr3d index` wrote.")]
Dataroot = Annotated[Path, typer.Option(help="Folder in nuScenes format (samples/, sweeps/, maps/, VERSION/).")]


@app.command()
def simulate(
    dataroot: Annotated[Path, typer.Option(help="Folder to write the simulated nuScenes dataset to.")],
    preset: Preset = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Write a simulated world as a valid nuScenes dataset (version v1.0-sim). The sim.* keys set its size.

    Example: pdetr3d simulate --dataroot simulated sim.scenes=4 sim.val_scenes=1
    """
    config = load_config(preset, overrides, config_file)
    from pdetr3d.simulator.simulate import simulate as write_world

    write_world(dataroot, config.sim)
    say(simulated=dataroot, next=f"pdetr3d index --dataroot {shlex.quote(str(dataroot))} --version v1.0-sim")


@app.command()
def index(
    dataroot: Dataroot,
    version: Annotated[str, typer.Option(help="Table folder under the dataroot, e.g. v1.0-trainval.")],
    out: Annotated[Path | None, typer.Option(help="Default: runs/index/VERSION/index.arrow, here.")] = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Read all files for the digest (data.deep_digest=true), and decode all images."),
    ] = False,
    preset: Preset = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Read the tables of a dataset once and write the index: one row per keyframe. The data.* keys say how.

    Example: pdetr3d index --dataroot /data/nuscenes --version v1.0-mini
    """
    config = load_config(preset, overrides, config_file)
    from pdetr3d.data.index.file_ledger import CONTENT_BYTES, FileLedger
    from pdetr3d.data.index.index import Index
    from pdetr3d.data.index.nuscenes import build_index
    from pdetr3d.data.labels.summary import summarize
    from pdetr3d.data.loading.check import broken_images, broken_lidar, say_points_left_out

    # The index is not written beside the tables, because datasets are often read-only and shared.
    path = build_index(dataroot, version, out or Path("runs") / "index" / version / "index.arrow", config.data)
    made = Index.open(path)
    rows = made.table.select(["scene_token", "ann_label"]).to_pydict()
    summarize(made).show()
    deep = deep or config.data.deep_digest
    ledger, checked = FileLedger.take(made, deep), broken_lidar(made, 10**18 if deep else CONTENT_BYTES)
    say_points_left_out(checked)
    if twins := ledger.twins():
        say(warning=f"{len(twins)} files have the content of another one, e.g. {twins[0][0]} that of {twins[0][1]}")
    images = broken_images(made, deep)
    for kind, seen in (("LiDAR files that were read", checked), ("images that were looked at", images)):
        if seen.problems:
            say(
                warning=f"{len(seen.problems)} of {seen.files} {kind} cannot be used: jobs refuse them, or leave out "
                f"what reads them (data.on_error=skip); {min(seen.problems.values())}"
            )
    say(
        index=path,
        digest=made.digest,
        **{"files digest": f"{ledger.digest} ({ledger.words()})"},
        scenes=len(set(rows["scene_token"])),
        keyframes=len(made),
        objects=sum(len(labels) for labels in rows["ann_label"]),
        images=f"{images.files} looked at{'' if deep else ' (--deep: all)'}",
        **{f"split {name}": f"{len(made.tokens(name))} keyframes" for name in made.splits},
        next=f"pdetr3d label --index {shlex.quote(str(path))}",
    )


@app.command()
def label(
    index_file: IndexFile,
    split: Annotated[str | None, typer.Option(help="Split to label. Default: the train split.")] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Share of box-labeled samples, in (0, 1]. Default: label.ratio.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the split and the simulated clicks. Default: label.seed.")
    ] = None,
    split_by: Annotated[str | None, typer.Option(help="scene, keyframe or prefix. Default: label.split_by.")] = None,
    import_file: Annotated[
        Path | None, typer.Option("--import", help="People's clicks (.csv, .json, .parquet) instead of simulated ones.")
    ] = None,
    boxes_of: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|SPLIT",
            help="Samples with boxes on all objects: a file of sample tokens or scenes, one per line, or a split. "
            "Default with --import: every sample that has annotations.",
        ),
    ] = None,
    empty: Annotated[
        Path | None, typer.Option(help="File of samples or scenes that were looked at and hold no object.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder. Default: labels/SPLIT-... beside the index.")] = None,
    preset: Preset = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Write the label manifest: the role of every train sample (box, point, empty, unlabeled), and the clicks.

    Without --import all is simulated: the share --ratio of the samples is
    box-labeled, and every object of the others gets a click. With --import
    people's work decides the role of a sample. Box: it has boxes in the tables,
    or --boxes-of names it. Point: it has clicks. Empty: --empty names it.
    Unlabeled: all others, which are never trained on as background. With
    --import and --ratio (or another key of the draw) the box-labeled samples
    are drawn among those with annotations. A key of --config counts as given if
    it differs from the preset.

    Jobs train on the manifest with label.source=manifest label.manifest=FOLDER.

    Example: pdetr3d label --index INDEX --import clicks.csv --out labels
    """
    given = {"ratio": ratio, "seed": seed, "split_by": split_by}
    shortcuts = [f"label.{key}={value}" for key, value in given.items() if value is not None]
    for word in overrides or ():
        if word.partition("=")[0] in {short.partition("=")[0] for short in shortcuts} and word not in shortcuts:
            raise DataError(f"{word} is also an option of this verb, with another value: give one of them")
    load_config(preset, shortcuts, config_file)  # refuses wrong values before an index is read
    from pdetr3d.config_file import with_file
    from pdetr3d.data.index.empty import refuse_empty
    from pdetr3d.data.index.index import Index
    from pdetr3d.data.label_manifest import build_manifest
    from pdetr3d.data.labels.click_places import misplaced
    from pdetr3d.data.labels.people_manifest import import_clicks
    from pdetr3d.data.labels.summary import summarize

    opened, words = Index.open(index_file), [*(overrides or []), *shortcuts]
    # The config needs the index's classes, because keys such as label.no_boxes_of name them.
    config = load_config(preset, [*words, f"data.classes={opened.classes.text}"], config_file)
    split = split or _train_split(opened)
    drawn = drawn_keys(words if config_file is None else with_file(config_file, preset, words)[1])
    if empty is not None and import_file is None and boxes_of is None:
        raise DataError(f"--empty {empty} needs --import or --boxes-of: a simulation knows what is empty")
    people = _looked_at(opened, split, boxes_of, empty, drawn)
    by_draw = bool(drawn) or not (import_file or people.boxes_of)
    name = f"{split}-{'human' if import_file else 'sim'}-{_draw(config.label) if by_draw else 'people'}"
    folder = out or index_file.parent / "labels" / f"{name}-seed{config.label.seed}"
    if import_file:
        manifest = import_clicks(opened, split, config.label, import_file, folder, people, drawn=bool(drawn))
    else:
        found = summarize(opened, [split])
        clicks, where = int(found.objects.sum()), f"split {split!r} of {index_file}"
        refuse_empty({"clicks": clicks}, config.data.allow_empty, where, found.left_out())
        manifest = build_manifest(opened, split, config.label, folder, None if people.boxes_of is None else people)
    summarize(opened, [split], manifest, config.model.range_m).show()
    describe_manifest(manifest, opened.classes)
    if import_file and (warning := misplaced(opened, manifest, import_file)):
        say(warning=warning)
    _say_boxless(manifest, people)


def _looked_at(opened: Index, split: str, boxes_of: str | None, empty: Path | None, drawn: list[str]) -> People:
    """What people said of the samples by --boxes-of and --empty; ``drawn``: keys of a draw, which forbid the first."""
    from pdetr3d.data.labels.roles import People, read_samples

    if boxes_of is not None and drawn:
        raise DataError(f"--boxes-of {boxes_of} says who is box-labeled, {', '.join(drawn)} draws it: give one of them")
    named = None if boxes_of is None else read_samples(opened, split, boxes_of, "--boxes-of")
    nothing = read_samples(opened, split, str(empty), "--empty") if empty else ()
    return People(named, dict.fromkeys(nothing, f"--empty {empty}"))


def _say_boxless(manifest: LabelManifest, people: People) -> None:
    """Warn of samples that --boxes-of names, and that hold no box, because they are trained on as background."""
    from pdetr3d.words import some

    named = people.boxes_of or frozenset()
    if empty := [token for token, role in manifest.roles.items() if role == "empty" and token in named]:
        say(
            warning=f"{len(empty)} samples that --boxes-of names have no box in the tables, so they count as empty, as "
            f"background: {some(empty)}"
        )


def _draw(config: LabelConfig) -> str:
    """How box-labeled samples are drawn, for the name of a folder."""
    return f"fold-of-{config.folds}" if config.folds else f"{config.split_by}-{config.ratio:g}"


DRAWING = tuple(f"label.{name}" for name in ("ratio", "split_by", "folds", "balance", "no_boxes_of"))


def drawn_keys(words: list[str]) -> list[str]:
    """The keys among ``label.KEY=value`` words that control the draw of box-labeled samples."""
    keys = [word.partition("=")[0] for word in words]
    return [key for key in keys if key in DRAWING]


def _train_split(index: Index) -> str:
    """The train split of the index's version by the presets: train for v1.0-trainval, mini_train for v1.0-mini, ..."""
    from pdetr3d.presets import PRESETS

    known = {preset.data.version: preset.data.train_split for preset in PRESETS.values()}
    if index.version not in known:
        raise DataError(f"{index.path}: no train split is known for version {index.version!r}; name one with --split")
    return known[index.version]


def describe_manifest(manifest: LabelManifest, classes: ClassList) -> None:
    """Print the contents of a manifest, and warnings about them."""
    from pdetr3d.data.labels.people_manifest import STRAYS

    facts, counts = manifest.facts, manifest.role_counts()
    asked = "" if facts or manifest.config.folds else f"; asked for {manifest.config.ratio:.2%}"
    sources = {name: manifest.clicks["source"].to_pylist().count(name) for name in ("human", "sim")}
    say(
        manifest=manifest.path,
        digest=manifest.digest,
        split=manifest.split,
        samples=manifest.samples.num_rows,
        **{"box-labeled": f"{counts['box']} ({manifest.achieved_ratio:.2%}{asked})"},
        **{ROLE_LINES[role]: count for role, count in counts.items() if role != "box"},
        clicks=", ".join(f"{count} {name}" for name, count in sources.items() if count) or 0,
        **({"ignore regions": manifest.ignore.num_rows} if manifest.ignore.num_rows else {}),
        next=f"label.source=manifest label.manifest={manifest.path}",
    )
    if facts:
        say(check="are these counts what you expect? Roles decide what is trained on as background.")
    if n := facts.get("clicks_without_box"):
        say(warning=f"{n} clicks on box-labeled samples match no box of their class: {manifest.path / STRAYS}")
    if n := facts.get("not_done"):
        say(warning=f"{n} samples have clicks but are not marked as done: unclicked objects there count as background")
    for name in facts.get("classes_without_boxes", ()):
        size = " x ".join(f"{side:g}" for side in classes.fallback_size_m[classes.label_of[name]])
        say(warning=f"class {name} has clicks and no box: its boxes start from a typical size, {size} m (l, w, h)")


ROLE_LINES = {
    "point": "point-labeled",
    "empty": "empty (looked at, no object)",
    "unlabeled": "unlabeled (nobody looked)",
}


@app.command()
def inspect(
    sample: Annotated[str, typer.Argument(help="Sample token, or row number in the index (from 0).")],
    index_file: IndexFile,
    manifest: Annotated[Path | None, typer.Option(help="Folder of a label manifest whose clicks are drawn.")] = None,
    sweeps: Annotated[int, typer.Option(min=1, max=10, help="LiDAR sweeps, the keyframe included.")] = 1,
    out: Annotated[Path | None, typer.Option(help="PNG file. Default: runs/inspect/TOKEN.png, here.")] = None,
) -> None:
    """Draw a sample to a PNG: bird's-eye view and six cameras with LiDAR, boxes and clicks.

    Example: pdetr3d inspect 0 --index runs/index/v1.0-mini/index.arrow
    """
    from pdetr3d.api import token_of
    from pdetr3d.data.index.index import Index
    from pdetr3d.data.label_manifest import LabelManifest, inspection_record
    from pdetr3d.data.loading.load import load_sample
    from pdetr3d.visualize import inspect_sample

    opened = Index.open(index_file)
    token = token_of(opened, sample)
    record = inspection_record(opened, token, LabelManifest.open(manifest) if manifest else None)
    sizes = [(camera.width_px, camera.height_px) for camera in record.cameras if camera]
    read = {"num_sweeps": sweeps, "image_size_px": sizes[0] if sizes else (1, 1)}
    data = opened.reading.model_copy(update=read)
    drawn = load_sample(record, data, cameras=bool(sizes))
    path = inspect_sample(drawn, out or Path("runs/inspect") / f"{token}.png", classes=opened.classes)
    say(sample=token, picture=path)


class PointType(StrEnum):
    """The types of the points in a pack."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


@app.command()
def pack(
    out: Annotated[str, typer.Option(help="Folder, s3://... or gs://..., which data.packed then names.")],
    index_file: Annotated[
        Path | None, typer.Option("--index", help="Index file that `pdetr3d index` wrote. Only --verify needs none.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Split to pack. May be given several times. Default: all.")
    ] = None,
    num_sweeps: Annotated[int, typer.Option(min=1, max=10, help="LiDAR sweeps kept, the keyframe included.")] = 10,
    points: Annotated[PointType, typer.Option(help="float16: half the size; rounds by up to 1/64 m.")] = (
        PointType.FLOAT32
    ),
    shard_samples: Annotated[int, typer.Option(min=1, help="Samples in a shard.")] = 64,
    processes: Annotated[int, typer.Option(min=0, help="Processes; 0: one per CPU core.")] = 0,
    verify: Annotated[bool, typer.Option("--verify", help="Only compare the checksums of an existing pack.")] = False,
) -> None:
    """Write samples as Parquet shards for object storage. The same command continues an interrupted one.

    Example: pdetr3d pack --index runs/index/v1.0-mini/index.arrow --out packed
    """
    from pdetr3d.data.loading.pack import pack as write
    from pdetr3d.data.loading.pack import verify as compare

    out = out if "://" in out else str(Path(out).resolve())  # the form that data.packed needs
    if verify:
        made = compare(out)
    elif index_file is None:
        raise DataError("pdetr3d pack needs --index FILE, what pdetr3d index wrote (or --verify)")
    else:
        sizes = {"num_sweeps": num_sweeps, "shard_samples": shard_samples, "processes": processes}
        made = write(index_file, split, out, points=points.value, **sizes)
    shards = made.info["shards"]
    size_gb = sum(shard["bytes"] for shard in shards) / 1e9
    say(
        pack=out,
        samples=len(made.places),
        shards=len(shards),
        size=f"{size_gb:.3f} GB",
        next=shlex.quote(f"data.packed={out}"),
    )
