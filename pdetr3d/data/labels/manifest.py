"""The label manifest: the role of every train sample, the clicks, and the regions to ignore.

It is a folder with samples.arrow, clicks.arrow, ignore.arrow (if there are such regions) and manifest.json, which is
written last: without it the folder is no manifest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pdetr3d.config import LabelConfig
from pdetr3d.data.draws import keyed_rng
from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.clicks import place_clicks
from pdetr3d.data.labels.roles import People, annotated, drawn_roles, peoples_roles
from pdetr3d.data.storage.files import atomic_path, open_arrow, table_digest, text_digest, write_arrow
from pdetr3d.data.storage.row_table import TextPlaces, places, text_column
from pdetr3d.schema import ROLES, DataError

# role: one of ROLES. clicks: their number. The table of clicks has the order of the samples; a sample's clicks are
# sorted by class and place, so that their order does not depend on the order of the input.
FILES = ("manifest.json", "samples.arrow", "clicks.arrow", "ignore.arrow", "clicks_without_box.csv")
SAMPLES_SCHEMA = pa.schema(
    [
        ("sample_token", pa.string()),
        ("scene_token", pa.string()),
        ("split", pa.string()),
        ("role", pa.string()),
        ("clicks", pa.int64()),
    ]
)
# x, y, z: LIDAR_TOP [m]. source: sim | human. annotation_token: null for people's clicks. track_id: null unless a
# person gave one.
CLICKS_SCHEMA = pa.schema(
    [
        ("click_id", pa.string()),
        ("sample_token", pa.string()),
        ("class", pa.string()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("z", pa.float64()),
        ("source", pa.string()),
        ("annotation_token", pa.string()),
        ("track_id", pa.string()),
    ]
)
# Regions in which people could not tell the objects: balls of radius_m around x, y, z (LIDAR_TOP) [m].
IGNORE_SCHEMA = pa.schema(
    [("sample_token", pa.string()), *((name, pa.float64()) for name in ("x", "y", "z", "radius_m"))]
)
CLICK_DIGITS = 6  # decimals of a click's x, y, z [m]: moving a click to another frame and back gives the same numbers

VERIFIED_CLICKS = 5_000_000  # tables with up to so many clicks are digested when opened; larger ones are only counted


class LabelManifest:
    """Read-only view of a manifest folder.

    Attributes:
        path: the folder. config: the keys ``label.*`` it was made with. split: the train split. index_digest: of the
            index that it was made from. samples, clicks, ignore: tables (SAMPLES_SCHEMA, CLICKS_SCHEMA, IGNORE_SCHEMA).
        digest: of the tables, 16 hex digits. facts: counts of the import of people's clicks (``people_manifest.py``).
    """

    def __init__(self, path: Path, samples: pa.Table, clicks: pa.Table, ignore: pa.Table, info: dict) -> None:
        self.path = path
        self.samples = samples
        self.clicks = clicks
        self.ignore = ignore
        self.facts: dict = info.get("facts", {})
        self.config = LabelConfig.model_validate_json(json.dumps(info["config"]))  # JSON has lists for tuples
        self.split: str = info["split"]
        self.index_digest: str = info["index_digest"]
        self.digest: str = info["digest"]

    @staticmethod
    def open(path: Path) -> LabelManifest:
        """Open a manifest of ``build_manifest`` or ``import_clicks``.

        Raises:
            DataError: when a file is missing, or the tables differ from the counts or digest in manifest.json.
        """
        path = Path(path)
        again = "run pdetr3d label again"
        info = read_info(path)
        samples = open_arrow(path / "samples.arrow", SAMPLES_SCHEMA)
        clicks = open_arrow(path / "clicks.arrow", CLICKS_SCHEMA)
        ignore = IGNORE_SCHEMA.empty_table()
        if info.get("ignore_regions"):
            ignore = open_arrow(path / "ignore.arrow", IGNORE_SCHEMA)
        counted = (samples.num_rows, clicks.num_rows, pc.sum(samples["clicks"], min_count=0).as_py())
        same = counted == (info.get("samples"), info.get("clicks"), info.get("clicks"))
        if same and clicks.num_rows <= VERIFIED_CLICKS:
            same = tables_digest(samples, clicks, ignore) == info["digest"]
        if not same:
            raise DataError(
                f"{path}: samples.arrow and clicks.arrow differ from manifest.json (interrupted or edited); {again}"
            )
        return LabelManifest(path, samples, clicks, ignore, info)

    @cached_property
    def roles(self) -> dict[str, str]:
        """sample_token -> one of ROLES for every train sample, in manifest order; it holds a Python object for each."""
        return dict(
            zip(self.samples.column("sample_token").to_pylist(), self.samples.column("role").to_pylist(), strict=True)
        )

    @cached_property
    def place(self) -> TextPlaces:
        """sample_token -> its row of ``samples``."""
        return TextPlaces(self.samples["sample_token"])

    @property
    def achieved_ratio(self) -> float:
        """Share of the train samples that are box-labeled."""
        return float(self.boxed.mean())

    @cached_property
    def boxed(self) -> NDArray[np.bool_]:
        """(N,) bool: the box-labeled train samples, in manifest order."""
        return pc.equal(self.samples["role"], "box").to_numpy()

    @cached_property
    def role_codes(self) -> NDArray[np.int8]:
        """(N,) int8: each train sample's role as an index into ROLES."""
        return pc.index_in(self.samples["role"], value_set=pa.array(ROLES)).to_numpy().astype(np.int8)

    def role_counts(self) -> dict[str, int]:
        """Role -> number of train samples, without roles that no sample has."""
        counts = np.bincount(self.role_codes, minlength=len(ROLES))
        return {name: int(count) for name, count in zip(ROLES, counts, strict=True) if count}

    @cached_property
    def click_range(self) -> NDArray[np.int64]:
        """(N, 2) int64: each train sample's clicks are rows ``begin .. end - 1`` of ``clicks``."""
        end = np.cumsum(self.samples["clicks"].to_numpy())
        return np.stack([end - self.samples["clicks"].to_numpy(), end], 1)

    @cached_property
    def track_of(self) -> dict[str, str]:
        """click_id -> track_id, of the clicks for which a person gave one. A track is one object of a scene."""
        tracked = self.clicks.select(["click_id", "track_id"]).filter(pc.is_valid(self.clicks["track_id"]))
        names, tracks = (column.to_pylist() for column in tracked.columns)
        return dict(zip(names, tracks, strict=True))


def read_info(path: Path) -> dict:
    """Read a folder's manifest.json: config, split, counts, digests.

    Raises:
        DataError: when the folder is no manifest.
    """
    file = Path(path) / "manifest.json"
    try:
        info = json.loads(file.read_text())
        missing = [key for key in ("config", "split", "index_digest", "digest") if key not in info]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{file}: no label manifest here ({error}); run pdetr3d label again") from error
    if missing:
        raise DataError(f"{file}: no label manifest here ({', '.join(missing)} missing); run pdetr3d label again")
    return dict(info)


def build_manifest(
    index: Index, split: str, config: LabelConfig, out_dir: Path, people: People | None = None
) -> LabelManifest:
    """Choose the box-labeled samples of ``split`` and draw one click per kept object (of a class, >= 1 sensor point).

    A click depends only on (label.seed, annotation token) and its box, not on the ratio or the split. Samples of scenes
    without any annotation are "unlabeled". If ``people`` is given, it decides which samples are box-labeled
    (``peoples_roles``); clicks are drawn as before. Writes the folder ``out_dir`` and returns the manifest.

    Raises:
        DataError: when the split has no samples, or no sample with annotations.
    """
    tokens = index.tokens(split)
    if people is None:
        roles = drawn_roles(index, split, config)
    else:
        clicked = {token for token, some in zip(tokens, annotated(index, split), strict=True) if some}
        roles = peoples_roles(index, split, clicked, people)
        config = config.model_copy(update={"ratio": roles.count("box") / len(roles)})
    clicks = simulated_clicks(index, tokens, config.seed)
    boxed = {token for token, role in zip(tokens, roles, strict=True) if role == "box"}
    return write_manifest(index, split, config, roles, _leave_out(clicks, boxed, config), out_dir)


def simulated_clicks(index: Index, tokens: Sequence[str], seed: int, but: frozenset[str] = frozenset()) -> pa.Table:
    """One click per kept object of these samples (CLICKS_SCHEMA). Annotations whose token is in ``but`` get none."""
    parts = []
    for token in tokens:
        annotations = index.annotations(token)
        kept = annotations.kept
        if but:
            kept = kept & np.array([name not in but for name in annotations.token], bool)
        known = annotations.token[kept]
        uniform = np.array([keyed_rng(seed, 0, name, "click").random(3) for name in known]).reshape(-1, 3)
        box = annotations.box[kept]
        xyz = place_clicks(box[:, :3], box[:, 3:6], box[:, 6], uniform)
        parts.append((token, known, annotations.label[kept], xyz))
    xyz = np.concatenate([np.zeros((0, 3)), *(part[3] for part in parts)]).round(CLICK_DIGITS) + 0.0  # no -0.0
    names = [str(name) for part in parts for name in part[1]]
    return pa.table(
        {
            "click_id": [click_id("sim", seed, name) for name in names],
            "sample_token": [part[0] for part in parts for _ in part[1]],
            "class": [index.classes.names[label] for part in parts for label in part[2]],
            "x": xyz[:, 0],
            "y": xyz[:, 1],
            "z": xyz[:, 2],
            "source": ["sim"] * len(names),
            "annotation_token": names,
            "track_id": [None] * len(names),
        },
        schema=CLICKS_SCHEMA,
    )


def click_id(source: str, *key: str | int | float) -> str:
    """A click's join key: ``source`` and 16 hex digits. The digits hash ``key`` and do not reveal the object."""
    return f"{source}-{text_digest(chr(31).join(str(part) for part in key))}"


def check_folder(out_dir: Path) -> None:
    """Raise DataError when ``out_dir`` is a file, or holds other files and no manifest."""
    if out_dir.is_file():
        raise DataError(f"{out_dir} is a file; name a folder by --out")
    there = {entry.name for entry in out_dir.iterdir() if entry.is_file()} if out_dir.is_dir() else set()
    if FILES[0] not in there and (others := sorted(name for name in there.difference(FILES) if name[0] != ".")):
        raise DataError(f"{out_dir} holds other files ({others[0]}) and no manifest; name another folder by --out")


def write_manifest(
    index: Index,
    split: str,
    config: LabelConfig,
    roles: Sequence[str],
    clicks: pa.Table,
    out_dir: Path,
    *,
    ignore: pa.Table | None = None,
    facts: dict | None = None,
) -> LabelManifest:
    """Write the files of a manifest, manifest.json last; each is renamed into place.

    Args:
        roles: the roles of the split's samples, in index order. clicks: rows of CLICKS_SCHEMA in any order. ignore:
            rows of IGNORE_SCHEMA. facts: values that JSON can hold.

    Raises:
        DataError: when ``out_dir`` is not for a manifest (``check_folder``).
    """
    out_dir = Path(out_dir)
    check_folder(out_dir)
    tokens = index.tokens(split)
    sample = places(clicks["sample_token"], text_column(tokens))
    label = pc.index_in(clicks["class"], value_set=pa.array(index.classes.names)).to_numpy()
    order = np.lexsort((*(clicks[axis].to_numpy() for axis in "zyx"), label, sample))
    clicks = clicks.take(pa.array(order))
    samples = pa.table(
        {
            "sample_token": tokens,
            "scene_token": index.column("scene_token", tokens),
            "split": [split] * len(tokens),
            "role": list(roles),
            "clicks": np.bincount(sample, minlength=len(tokens)),
        },
        schema=SAMPLES_SCHEMA,
    )
    ignore = IGNORE_SCHEMA.empty_table() if ignore is None else ignore
    boxed = list(roles).count("box")
    info = {
        "config": config.model_dump(mode="json"),
        "split": split,
        "samples": len(tokens),
        "box_labeled_samples": boxed,
        "achieved_ratio": boxed / len(tokens),
        "clicks": clicks.num_rows,
        "ignore_regions": ignore.num_rows,
        "index_digest": index.digest,
        "digest": tables_digest(samples, clicks, ignore),
        **({"facts": facts} if facts else {}),
    }
    (out_dir / "manifest.json").unlink(missing_ok=True)
    write_arrow(out_dir / "samples.arrow", samples)
    write_arrow(out_dir / "clicks.arrow", clicks)
    (out_dir / "ignore.arrow").unlink(missing_ok=True)
    if ignore.num_rows:
        write_arrow(out_dir / "ignore.arrow", ignore)
    with atomic_path(out_dir / "manifest.json") as temporary:
        temporary.write_text(json.dumps(info, indent=1) + "\n")
    return LabelManifest.open(out_dir)


def tables_digest(samples: pa.Table, clicks: pa.Table, ignore: pa.Table) -> str:
    """Digest of a manifest's content."""
    return table_digest(samples, clicks, *([ignore] if ignore.num_rows else []))


def _leave_out(clicks: pa.Table, boxed: set[str], config: LabelConfig) -> pa.Table:
    """Keep the share ``label.click_share`` of the simulated clicks of point-labeled samples, and all other clicks.

    The draw is keyed by (label.seed, annotation token), so that a smaller share's clicks are a subset of a larger
    one's.
    """
    if config.click_share == 1:
        return clicks
    names = zip(
        *(clicks.column(name).to_pylist() for name in ("sample_token", "source", "annotation_token")), strict=True
    )
    kept = [
        token in boxed or source != "sim" or keyed_rng(config.seed, 0, name, "clicked").random() < config.click_share
        for token, source, name in names
    ]
    return clicks.filter(pa.array(kept))
