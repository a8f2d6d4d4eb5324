"""Tests that results computed in pieces equal those computed at once: pseudo labels, quality, ranks, records."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.stats import rankdata, spearmanr

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.data.label_manifest import inspection_records, write_pseudo_labels
from pdetr3d.data.labels import pseudo_table
from pdetr3d.data.labels.pseudo_table import PseudoLabelWriter
from pdetr3d.data.loading.record_list import Joined, tokens_of
from pdetr3d.data.storage import files
from pdetr3d.data.storage.files import parquet_digest, table_digest
from pdetr3d.evaluation import pseudo_label_quality as quality
from pdetr3d.evaluation import ranks
from pdetr3d.pipeline import labeling
from pdetr3d.pipeline import quality as at_clicks
from pdetr3d.pseudo_labels import pseudo_label_rows, to_pseudo_labels, with_track_velocity
from pdetr3d.schema import FALLBACK_SIZE_M, Boxes3D, DataError
from tests.training_cases import World, open_world


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return open_world(sim_world, tmp_path_factory.mktemp("pieces") / "run")


def shifted(world: World) -> dict[str, Boxes3D]:
    """Boxes at the clicks of all samples, with an error that differs for each click."""
    found = {}
    for number, record in enumerate(world.records):
        rng = np.random.default_rng(number)
        sizes = FALLBACK_SIZE_M[record.clicks.label] * rng.uniform(0.5, 1.5, (len(record.clicks), 3))
        yaw, score = rng.uniform(-3, 3, len(record.clicks)), rng.uniform(0, 1, len(record.clicks)).round(1)
        found[record.sample_token] = Boxes3D.build(
            record.clicks.xyz_m + 0.3, sizes, yaw, record.clicks.label, score=score
        )
    return found


@pytest.mark.parametrize("rows", [1, 7, 16_384])
def test_pseudo_labels_written_by_scenes_are_those_written_at_once(
    rows: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudo_table, "CHUNK_ROWS", rows)
    monkeypatch.setattr(files, "CHUNK_ROWS", rows)
    monkeypatch.setattr(labeling, "PIECE", 1)  # a scene at a time
    boxes, records = shifted(world), world.records
    tracks = {click: f"track{i % 3}" for record in records for i, click in enumerate(record.clicks.click_id)}
    plain = [
        to_pseudo_labels(r, boxes[r.sample_token], FALLBACK_SIZE_M, "digest", classes=NUSCENES_CLASSES) for r in records
    ]
    whole = write_pseudo_labels(
        tmp_path / "whole.parquet",
        with_track_velocity(pd.concat(plain, ignore_index=True), tracks, list(records)),
        classes=NUSCENES_CLASSES,
    )

    def rows_of(some: list[Any], theirs: list[Boxes3D]) -> pd.DataFrame:
        assert len({record.scene_token for record in some}) == 1
        return pseudo_label_rows(some, theirs, FALLBACK_SIZE_M, "digest", classes=NUSCENES_CLASSES)

    count, accepted = labeling.write_labels(
        tmp_path / "pieces.parquet", records, boxes, rows_of, tracks, classes=NUSCENES_CLASSES
    )
    one, other = pq.read_table(whole), pq.read_table(tmp_path / "pieces.parquet")
    assert other.equals(one) and one.num_rows == count > 50 and 0 < accepted == sum(one["accepted"].to_pylist())
    assert one["vx"].null_count < count
    assert parquet_digest(tmp_path / "pieces.parquet") == table_digest(one.combine_chunks())
    assert pq.ParquetFile(tmp_path / "pieces.parquet").num_row_groups == -(-count // rows)


def test_a_failed_writing_leaves_nothing(world: World, tmp_path: Path) -> None:
    boxes, record = shifted(world), world.records[0]
    rows = to_pseudo_labels(record, boxes[record.sample_token], FALLBACK_SIZE_M, "digest", classes=NUSCENES_CLASSES)
    with (
        pytest.raises(ValueError, match="came twice"),
        PseudoLabelWriter(tmp_path / "labels.parquet", classes=NUSCENES_CLASSES) as writer,
    ):
        writer.add(rows)
        writer.add(rows)
    with (
        pytest.raises(DataError, match="is accepted but"),
        PseudoLabelWriter(tmp_path / "labels.parquet", classes=NUSCENES_CLASSES) as writer,
    ):
        writer.add(rows.assign(accepted=True, score=2.0))
    assert not list(tmp_path.iterdir())


def test_quality_by_pieces_is_that_of_the_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_clicks, "PIECE", 2)
    boxes, records, data = shifted(world), world.records, world.data

    def known(piece: list[Any]) -> list[Any]:
        assert len(piece) <= 2
        return inspection_records(data.index, [record.sample_token for record in piece], data.manifest)

    clicks = at_clicks.KnownClicks(records, known, classes=NUSCENES_CLASSES)
    true = known_boxes(world)
    truth, pred = Boxes3D.concatenate(true), Boxes3D.concatenate([boxes[r.sample_token] for r in records])
    expected = quality.pseudo_label_quality(
        pred, truth, np.linalg.norm(truth.center_m[:, :2], axis=1), classes=NUSCENES_CLASSES
    )
    assert expected["n"] > 50 and clicks
    assert flat(clicks.quality(boxes)) == pytest.approx(flat(expected), nan_ok=True)
    monkeypatch.setattr(quality, "PART", 7)
    monkeypatch.setattr(ranks, "PART", 5)
    assert flat(clicks.quality(boxes)) == pytest.approx(flat(expected), nan_ok=True)
    assert not at_clicks.KnownClicks(
        records, lambda piece: [without_boxes(record) for record in piece], classes=NUSCENES_CLASSES
    )


def known_boxes(world: World) -> list[Boxes3D]:
    """Each sample's true boxes in the order of its clicks: every click of the simulated world has one."""
    index, manifest = world.data.index, world.data.manifest
    found = inspection_records(index, world.records.tokens, manifest)
    return [record.boxes[record.clicks.box_index] for record in found]


def without_boxes(record: Any) -> Any:
    """A record whose clicks all lack a known box."""
    clicks = SimpleNamespace(click_id=record.clicks.click_id, box_index=np.full(len(record.clicks), -1))
    return SimpleNamespace(clicks=clicks, boxes=Boxes3D.empty())


def flat(report: dict[str, Any], before: str = "") -> dict[str, float]:
    """Numbers of a report by path; None becomes NaN."""
    found: dict[str, float] = {}
    for key, value in report.items():
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            found |= flat({str(k): v for k, v in value.items()}, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = float("nan") if value is None else value
    return found


@pytest.mark.parametrize("part", [1, 3, 10, 1000])
def test_ranks_are_scipys(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "PART", part)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 60))
        ties, free = rng.integers(0, rng.integers(2, 12), count) / 3, rng.normal(size=count)
        np.testing.assert_array_equal(ranks.ranks(ties), rankdata(ties))
        if np.ptp(ties):
            assert ranks.rank_correlation(ties, free) == pytest.approx(spearmanr(ties, free).statistic, abs=1e-12)
    assert ranks.rank_correlation(np.zeros(5), np.arange(5.0)) is None
    assert ranks.rank_correlation(np.zeros(1), np.zeros(1)) is None


def test_joined_records(world: World) -> None:
    first, rest = world.records[:2], list(world.records[2:])
    joined = Joined(first, [], rest)
    assert tokens_of(joined).to_pylist() == [r.sample_token for r in joined] == world.records.tokens
    assert len(joined) == 6
    assert [r.sample_token for r in joined[1:4]] == world.records.tokens[1:4]
    assert joined[-1].sample_token == world.records.tokens[-1]
