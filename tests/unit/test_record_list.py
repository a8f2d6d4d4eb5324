"""Tests of records made on access: they equal records made by hand from the index, also after pickling."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import LabelConfig
from pdetr3d.data.index.index import Index, write_index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.index.rows import RecordTable
from pdetr3d.data.label_manifest import eval_records, training_records, write_pseudo_labels
from pdetr3d.data.labels import manifest as manifests
from pdetr3d.data.labels.manifest import CLICKS_SCHEMA, LabelManifest, build_manifest, write_manifest
from pdetr3d.data.loading import records as record_module
from pdetr3d.data.loading.record_list import Records, boxed, pick
from pdetr3d.data.storage import files
from pdetr3d.data.storage.files import open_arrow, write_arrow
from pdetr3d.schema import CLASSES, DataError, SampleRecord
from tests.training_cases import poison

CONFIG = LabelConfig(ratio=0.3)


@pytest.fixture(scope="module", params=[2, 16_384])
def chunk_rows(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def index(sim_world: Path, tmp_path_factory: pytest.TempPathFactory, chunk_rows: int) -> Index:
    folder = tmp_path_factory.mktemp("index")
    whole = Index.open(build_index(sim_world, "v1.0-sim", folder / "whole.arrow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK_ROWS", chunk_rows)
        write_index(folder / "index.arrow", whole.table, whole.dataroot, whole.version)
    return Index.open(folder / "index.arrow")


@pytest.fixture(scope="module")
def manifest(index: Index, tmp_path_factory: pytest.TempPathFactory, chunk_rows: int) -> LabelManifest:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK_ROWS", chunk_rows)
        return build_manifest(index, "sim_train", CONFIG, tmp_path_factory.mktemp("manifest"))


def by_hand(index: Index, manifest: LabelManifest, labels: dict[str, dict] | None = None) -> list[SampleRecord]:
    """The expected result of ``training_records``, made from the tables as Python lists."""
    clicks, made = manifest.clicks.to_pylist(), []
    for row in manifest.samples.to_pylist():
        token, whole = row["sample_token"], row["role"] == "box"
        plain, annotations = index.record(token), index.annotations(token)
        mine = [click for click in clicks if click["sample_token"] == token]
        kept = list(annotations.token[annotations.kept])
        boxes = plain.boxes
        if whole:
            boxes = annotations.boxes()
        elif labels is not None:
            rows = [labels[click["click_id"]] for click in mine if labels[click["click_id"]]["accepted"]]
            boxes = type(boxes).build(
                np.array([[r["x"], r["y"], r["z"]] for r in rows]).reshape(-1, 3),
                np.array([[r["l"], r["w"], r["h"]] for r in rows]).reshape(-1, 3),
                np.array([r["yaw"] for r in rows]),
                np.array([CLASSES.index(r["class"]) for r in rows]),
                score=np.array([r["score"] for r in rows]),
                source=1,
            )
        points = dataclasses.replace(
            plain.clicks,
            click_id=np.array([click["click_id"] for click in mine], object),
            xyz_m=np.array([[click[axis] for axis in "xyz"] for click in mine]).reshape(-1, 3),
            label=np.array([CLASSES.index(click["class"]) for click in mine], np.int64),
            box_index=np.array([kept.index(click["annotation_token"]) if whole else -1 for click in mine], np.int64),
        )
        made.append(dataclasses.replace(plain, role=row["role"], boxes=boxes, clicks=points))
    return made


def assert_equal(one: SampleRecord, other: SampleRecord) -> None:
    for part in ("boxes", "clicks"):
        a, b = (vars(getattr(record, part)) for record in (one, other))
        for name, value in a.items():
            np.testing.assert_array_equal(value, b[name], err_msg=f"{part}.{name}")
            assert value.dtype == b[name].dtype and value.shape == b[name].shape
    plain = [dataclasses.replace(r, boxes=None, clicks=None) for r in (one, other)]  # type: ignore[arg-type]
    assert pickle.dumps(dataclasses.asdict(plain[0])) == pickle.dumps(dataclasses.asdict(plain[1]))


def pseudo_file(manifest: LabelManifest, folder: Path) -> tuple[Path, dict[str, dict]]:
    rows = {
        click["click_id"]: {key: click[key] for key in ("click_id", "sample_token", "class", "x", "y", "z")}
        | {"l": 4.0 + i, "w": 2.0, "h": 1.5, "yaw": 0.1, "score": 0.5, "accepted": i % 3 != 0}
        | {"reason": "", "teacher_digest": "t"}
        for i, click in enumerate(manifest.clicks.to_pylist())
    }
    return write_pseudo_labels(folder / "pseudo.parquet", list(rows.values()), classes=NUSCENES_CLASSES), rows


@pytest.mark.parametrize("piece", [1, 2048])
def test_records_are_what_the_tables_say(
    piece: int, index: Index, manifest: LabelManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "PIECE", piece)
    file, labels = pseudo_file(manifest, tmp_path)
    for records, expected in (
        (training_records(index, manifest), by_hand(index, manifest)),
        (training_records(index, manifest, file), by_hand(index, manifest, labels)),
    ):
        assert len(records) == len(expected) == 6 and {record.role for record in expected} == {"box", "point"}
        assert records.tokens == [record.sample_token for record in expected]
        assert records.boxed.tolist() == [record.role == "box" for record in expected]
        assert records.clicked.all() and all(len(record.boxes) for record in expected if record.role == "box")
        for mine, other in zip(records, expected, strict=True):
            assert_equal(mine, other)


def test_chosen_and_pickled_records_are_the_same(index: Index, manifest: LabelManifest, tmp_path: Path) -> None:
    records = training_records(index, manifest, pseudo_file(manifest, tmp_path)[0])
    for places in ([0, 1, 2, 3, 4, 5], [4, 1, 1, 5], [3], []):
        chosen = records.select(np.array(places, np.int64))
        travelled: Records = pickle.loads(pickle.dumps(chosen))
        assert len(chosen) == len(travelled) == len(places)
        assert len(travelled.table.rows) == len(set(places))  # only needed rows are pickled
        for place, mine, other in zip(places, chosen, travelled, strict=True):
            assert_equal(mine, records[place])
            assert_equal(other, records[place])
        assert chosen.tokens == travelled.tokens
        assert_equal(pickle.loads(pickle.dumps(travelled))[0], chosen[0]) if places else None
    assert [r.sample_token for r in records[1:4]] == records.tokens[1:4]
    whole = records.select(records.boxed)
    assert 0 < len(whole) < 6 and boxed(whole).all() and boxed(list(whole)).all()
    assert [r.sample_token for r in pick(list(records), ~records.boxed)] == pick(records, ~records.boxed).tokens  # type: ignore[attr-defined]


def test_what_travels_holds_no_box_of_a_point_labeled_sample(
    index: Index, manifest: LabelManifest, tmp_path: Path
) -> None:
    point = {token for token, role in manifest.roles.items() if role == "point"}

    def bits(tokens: set[str]) -> bytes:
        poison(index, tokens, tmp_path / "poisoned.arrow")
        return pickle.dumps(training_records(Index.open(tmp_path / "poisoned.arrow"), manifest))

    assert bits(set()) == bits(point) != bits(set(manifest.roles))


def test_records_to_score_have_no_labels(index: Index) -> None:
    records = eval_records(index, "sim_val")
    assert records.tokens == index.tokens("sim_val") and not records.clicked.any() and not records.boxed.any()
    for record in (*records, *pickle.loads(pickle.dumps(records))):
        assert (record.role, len(record.boxes), len(record.clicks)) == ("unlabeled", 0, 0)
        assert_equal(record, index.record(record.sample_token))


def test_clicks_of_a_sample_become_neighbors(index: Index, manifest: LabelManifest, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(manifest.clicks.num_rows)
    roles = list(manifest.roles.values())
    again = write_manifest(index, "sim_train", CONFIG, roles, manifest.clicks.take(pa.array(order)), tmp_path)
    for mine, other in zip(training_records(index, again), training_records(index, manifest), strict=True):
        moved = np.argsort(mine.clicks.click_id), np.argsort(other.clicks.click_id)
        for name, value in vars(mine.clicks).items():
            np.testing.assert_array_equal(value[moved[0]], vars(other.clicks)[name][moved[1]])


def test_of_many_clicks_only_the_numbers_are_compared(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = build_manifest(index, "sim_train", CONFIG, tmp_path).digest
    file = tmp_path / "clicks.arrow"
    clicks = open_arrow(file, CLICKS_SCHEMA)
    moved = clicks.set_column(3, "x", pa.array(clicks["x"].to_numpy() + 1))
    write_arrow(file, moved)
    with pytest.raises(DataError, match=r"differ from manifest\.json"):
        LabelManifest.open(tmp_path)
    monkeypatch.setattr(manifests, "VERIFIED_CLICKS", 0)
    assert LabelManifest.open(tmp_path).digest == digest
    write_arrow(file, moved.slice(1))
    with pytest.raises(DataError, match=r"differ from manifest\.json"):
        LabelManifest.open(tmp_path)


def test_row_numbers(index: Index) -> None:
    tokens = index.table["sample_token"].to_pylist()
    assert index.rows_of(pa.chunked_array([[tokens[7], "x"], [tokens[0]]])).tolist() == [7, -1, 0]
    expected = [row for row, names in enumerate(index.table["splits"].to_pylist()) if "sim_val" in names]
    assert index.rows("sim_val").tolist() == expected and len(expected) == 4
    assert isinstance(index.records, RecordTable) and index.record(tokens[3]).sample_token == tokens[3]
