"""The run directory holds a run's identity, data and finished stages; a rerun continues or says what differs."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdetr3d.config import Config
from pdetr3d.config_removed import changed_nothing
from pdetr3d.config_seen import seen_by
from pdetr3d.data.index.empty import refuse_empty
from pdetr3d.data.index.file_ledger import FILE as FILES
from pdetr3d.data.index.file_ledger import FileLedger, refuse_changed
from pdetr3d.data.index.index import FILE as INDEX
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.regions import FILE as REGIONS
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.data.labels.summary import empty_counts, summarize
from pdetr3d.data.loading.check import MEMORY, check_files
from pdetr3d.data.loading.packed import check_pack, index_of_pack, open_pack
from pdetr3d.data.loading.skipped import FILE as SKIPPED
from pdetr3d.data.loading.skipped import Skipped, find_skipped
from pdetr3d.data.storage.files import atomic_path, text_digest, write_json
from pdetr3d.json_files import read_json
from pdetr3d.run_files import CONFIG, DONE, FRESH
from pdetr3d.schema import DataError
from pdetr3d.tables.names import Names
from pdetr3d.training import lease
from pdetr3d.training.label_source import labels_digest, take_manifest, with_manifest
from pdetr3d.training.stage_versions import code_version

ANEW = "Choose another --run-dir; with --fresh a job begins anew in the next free directory beside this one."

SHARED = (MEMORY, SKIPPED, FILES, INDEX)  # what runs on one dataset share; the index, put last, says it is all there
SIMULATED = "v1.0-sim"  # ``data.version`` of the simulator's worlds


def check_dataroot(config: Config) -> None:
    """Check that a job has data: ``data.dataroot``, or else a preset that is made for a simulated world.

    Raises:
        DataError: for a preset of a real dataset without ``data.dataroot``.
    """
    if not config.data.dataroot and config.data.version != SIMULATED:
        raise DataError(
            f"preset {config.preset} is made for the dataset {config.data.version}, and data.dataroot is empty: set "
            f"data.dataroot=FOLDER (with samples/, sweeps/, {config.data.version}/), or take --preset quickstart, "
            "which simulates a world"
        )


class RunDir:
    """The directory of one run's files. This process holds it (``lease``) until ``close`` or the process's end.

    Args:
        path: created if missing.
        config: of the run. Keys that a label manifest fixes take the manifest's values.
        reading: True reads the finished stages of a directory that another process may hold, without holding it.
        wait_s: seconds to wait for another process that holds the directory.
        fresh: True for a run that begins anew in a ``free_path``. Its digest is unique, so that it does not continue
            from checkpoints on shared storage either.

    Attributes:
        path: absolute. config: with the manifest's values.
        digest: 16 hex digits of the identity: config keys, code versions, tables and labels.

    Raises:
        DataError: when there is no dataset (``check_dataroot``), when ``label.manifest`` holds no manifest, when the
            directory holds a dataset, or a run of another config, dataset, manifest or version of a stage (the message
            names the keys that differ), or when another process holds it.
    """

    def __init__(
        self, path: Path, config: Config, *, reading: bool = False, wait_s: float = 0.0, fresh: bool = False
    ) -> None:
        check_dataroot(config)
        if any(path.glob("sample.json")) or any(path.glob("*/sample.json")):
            raise DataError(
                f"{path} holds the tables of a dataset, so no run is written there; choose another --run-dir"
            )
        config = with_manifest(config)
        self.path, self.config = path.resolve(), config
        self.path.mkdir(parents=True, exist_ok=True)
        if not reading:
            lease.hold(self.path, wait_s)
        try:
            self.digest = self._check(self._identity(), fresh)
        except DataError:
            self.close()
            raise

    def _identity(self) -> dict[str, Any]:
        """The entries that determine the run's numbers: config keys, versions of the stages, digests of the data."""
        identity = seen_by(self.config) | {"code": code_version(), "tables": tables_digest(self.config)}
        if self.config.label.source == "manifest":
            identity["labels"] = labels_digest(self.config)
        return json.loads(json.dumps(identity))

    def _check(self, now: dict[str, Any], fresh: bool) -> str:
        """Compare with the run in the directory, or begin one; returns the run's digest."""
        file = self.path / CONFIG
        if not (file.exists() and (self.path / "data").exists()):  # new, or refused before any work was done
            before = now | ({FRESH: uuid.uuid4().hex} if fresh else {})
            write_json(file, before)
        else:
            before = self._begun(file)
            unset = Config(preset="").flat()  # defaults for keys that were added to pdetr3d after the run began
            keys = sorted((before.keys() | now.keys()) - {FRESH})
            keys = [key for key in keys if not changed_nothing(key, before.get(key))]
            differing = [k for k in keys if before.get(k, unset.get(k)) != now.get(k)]
            if differing:
                lines = "\n".join(f"  {k}: {before.get(k)} there, {now.get(k)} now" for k in differing)
                raise DataError(f"{self.path} holds another run; it differs in\n{lines}\n{ANEW}")
        return text_digest(json.dumps(before, sort_keys=True))

    def _begun(self, file: Path) -> dict[str, Any]:
        """The identity in the directory's ``run.json``."""
        before = read_json(file, f"so the run's settings are unknown. {ANEW}")
        if not isinstance(before, dict):
            raise DataError(f"{file}: must be an object of config keys; so the run's settings are unknown. {ANEW}")
        return before

    def close(self) -> None:
        """Release the directory for other processes."""
        lease.release(self.path)

    def result(self, stage: str) -> dict[str, Any] | None:
        """The result that ``finish`` stored for a stage, or None while the stage is unfinished."""
        file = self.path / stage / DONE
        if not file.exists():
            return None
        result = read_json(file, f"remove it, and {stage} is finished again from what is kept there")
        if not isinstance(result, dict):
            raise DataError(
                f"{file}: must be an object; remove it, and {stage} is finished again from what is kept there"
            )
        return result

    def finish(self, stage: str, result: dict[str, Any]) -> dict[str, Any]:
        """Mark a stage as finished, after all its files are in place; returns ``result``, which JSON must be able to
        store."""
        (self.path / stage).mkdir(exist_ok=True)
        write_json(self.path / stage / DONE, result)
        return result


def free_path(path: Path) -> Path:
    """Create and return the first of PATH, PATH-2, PATH-3, ... that does not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:
            continue
    raise AssertionError("endless")


@dataclass(frozen=True)
class Data:
    """The run's data.

    Attributes:
        index: of the dataset. manifest: the labels, drawn or from ``label.manifest``.
        skipped: samples of the run's splits that training and prediction leave out.
        files: digest of the files that the index names (``FileLedger``), or of the pack's shards.
    """

    index: Index
    manifest: LabelManifest
    skipped: list[Skipped]
    files: str

    @property
    def digest(self) -> str:
        """16 hex digits of the dataset: its index and its files."""
        return text_digest(f"{self.index.digest} {self.files}")


def prepare(run: RunDir, shared: Path | None = None) -> Data:
    """Prepare a run's data: simulate a world without ``data.dataroot``, index, check files, take labels.

    Parts that exist already are opened. Prints which samples and labels are used and left out (``Summary``). When the
    data are refused, the parts made by this call are removed, so that a corrected command may use the same directory.

    Args:
        shared: folder of an index, and of the check of its files, of runs on the same dataset, because they take
            minutes at full size and a search has many runs. They are taken from it; where it has none, they are made
            and put there. Nothing is printed.

    Raises:
        DataError: when the data cannot be used, or lack what training needs (``refuse_empty``).
    """
    new, manifest = not (run.path / "data" / INDEX).exists(), run.path / "data" / "manifest"
    own = not manifest.exists()  # a manifest that was there before is not removed
    try:
        return _prepare(run, shared)
    except (DataError, OSError):  # the second: a full disk
        if new:
            for name in (INDEX, MEMORY, SKIPPED, FILES):
                with suppress(OSError):  # the first error is the one to report
                    (run.path / "data" / name).unlink(missing_ok=True)
            if own:
                shutil.rmtree(manifest, ignore_errors=True)
            with suppress(OSError):  # a folder with a simulated world is not empty and remains
                (run.path / "data").rmdir()
        raise


def _prepare(run: RunDir, shared: Path | None) -> Data:
    config, folder = run.config, run.path / "data"
    packed = config.data.packed
    if packed and not (config.data.dataroot and ("://" in packed or Path(packed).is_absolute())):
        raise DataError(
            f"data.packed {packed} with data.dataroot {config.data.dataroot!r}: name the pack by a URI or an absolute "
            "path, since workers run in folders of their own, and the folder of its tables by data.dataroot"
        )
    index, skipped, files = open_index(run, shared)
    manifest = take_manifest(index, config, folder / "manifest")
    summary = summarize(index, _splits(config), manifest, config.model.range_m)
    if shared is None:
        summary.show()
    counts = empty_counts(summary, index, config.data.val_split, config.teacher.cameras)
    refuse_empty(counts, config.data.allow_empty, str(index.dataroot / config.data.version), summary.left_out())
    return Data(index, manifest, skipped, files)


def open_index(run: RunDir, shared: Path | None) -> tuple[Index, list[Skipped], str]:
    """A run's index, made when missing, the samples whose files are broken, and the digest of all files; ``shared``:
    see ``prepare``. Depends on the sections ``sim`` and ``data`` alone."""
    config, folder = run.config, run.path / "data"
    shared = shared if config.data.dataroot else None  # each run makes its simulated world anew
    taken_over = shared is not None and (shared / INDEX).exists()
    if shared is not None and taken_over:
        link_missing(shared, folder, SHARED)
    dataroot = Path(config.data.dataroot) if config.data.dataroot else folder / "world"
    if not config.data.dataroot:
        from pdetr3d.simulator.simulate import simulate  # imports the devkit, which imports plotting libraries

        simulate(dataroot, config.sim, config.data.version)
    file = folder / INDEX
    if not file.exists():
        if config.data.packed:
            index_of_pack(open_pack(config.data.packed), dataroot, file)
        else:
            from pdetr3d.data.index.nuscenes import build_index

            build_index(dataroot, config.data.version, file, config.data, whole=config.data.on_error == "raise")
    index = Index.open(file)
    from pdetr3d.evaluation.nuscenes_eval import refuse_unscorable

    for split in filter(None, (config.data.select_split, config.data.val_split)):
        if split in index.splits:
            refuse_unscorable(index.version, split)
    splits = _splits(config)
    # Images are checked even if the teacher reads none: the pictures of predictions show them.
    skipped = []
    if config.data.packed:
        tokens = [token for split in splits for token in index.tokens(split)]
        check_pack(open_pack(config.data.packed), config.data.version, tokens, config.data.num_sweeps)
    elif config.data.on_error == "skip":
        skipped = find_skipped(index, splits, config.data)
    else:
        check_files(index, splits, config.data.num_sweeps, cameras=True)
    files = _files_digest(index, config, taken_over)
    if shared is not None and not taken_over:
        share_index(run, shared)
    return index, skipped, files


def _splits(config: Config) -> list[str]:
    """The splits that a run reads."""
    return [s for s in (config.data.train_split, config.data.select_split, config.data.val_split) if s]


def _files_digest(index: Index, config: Config, taken_over: bool) -> str:
    """The digest of the dataset's files when the run began. When a run continues, the files must still be the same.

    Args:
        taken_over: True when another run on the same files has just checked that they have not changed.

    Raises:
        DataError: when files have changed since the run began.
    """
    if config.data.packed:
        shards = [shard["sha256"] for shard in open_pack(config.data.packed).info["shards"]]
        return text_digest(json.dumps(shards))
    times = bool(config.data.dataroot)  # every run rewrites its simulated world, so its files' times do not count
    ledger = FileLedger.open(index, times)
    if ledger is None:
        return FileLedger.take(index, config.data.deep_digest, times).digest
    if not taken_over:
        # With "skip", the samples to leave out were decided when the run began: files mended later are not read.
        refuse_changed(ledger, index, allowed=config.data.on_error == "skip")
    return ledger.digest


def share_index(run: RunDir, shared: Path) -> None:
    """Put a prepared run's index, and the check of its files, where other runs find them (``prepare``)."""
    link_missing(run.path / "data", shared, SHARED)


def link_missing(source: Path, target: Path, names: Sequence[str]) -> None:
    """Link those of the named files that ``source`` has and ``target`` lacks, or copy them, each atomically, where the
    storage knows no hard links. Files of a run directory are replaced, never written into."""
    for name in names:
        if (source / name).exists() and not (target / name).exists():
            target.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source / name, target / name)
            except OSError:
                with atomic_path(target / name) as temporary:
                    shutil.copyfile(source / name, temporary)


def tables_digest(config: Config) -> str:
    """16 hex digits of names, sizes and times of the dataset's tables and regions, and of the content of the files that
    map names of categories and cameras; empty for the simulated world, which the config determines."""
    if not config.data.dataroot:
        return ""
    folder = Path(config.data.dataroot) / config.data.version
    tables = [*sorted(folder.glob("*.json")), *folder.glob(REGIONS)]
    stats: list[Any] = [(t.name, t.stat().st_size, t.stat().st_mtime_ns) for t in tables]
    if config.data.categories or config.data.cameras:
        stats.append(Names.read(config.data.categories, config.data.cameras, config.classes).as_dict())
    return text_digest(json.dumps(stats))
