"""Tests of packs: samples equal those read from files, interrupted packs continue, damage is named."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pdetr3d.cli import main
from pdetr3d.config import DataConfig
from pdetr3d.data.index.index import Index, write_index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.loading import pack as pack_module
from pdetr3d.data.loading import packed
from pdetr3d.data.loading.load import load_sample
from pdetr3d.data.loading.pack import pack, verify
from pdetr3d.data.loading.packed import Pack, check_pack
from pdetr3d.finished.deploy.sweeps import to_sample
from pdetr3d.schema import CAMERAS, DataError
from pdetr3d.training.run_dir import RunDir, prepare
from tests.training_cases import world_config
from tests.unit.test_bad_input import replace

pytestmark = pytest.mark.xdist_group("pack")  # the fixtures of this file take seconds

SPLITS = ["sim_train", "sim_select", "sim_val"]
DATA = DataConfig(num_sweeps=3, image_size_px=(80, 45))
ONE = {"num_sweeps": 3, "shard_samples": 5, "processes": 1}


@pytest.fixture(scope="module")
def index_file(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("pack") / "index.arrow")


@pytest.fixture(scope="module")
def whole(index_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """A pack of all 12 samples in shards of 5."""
    return pack(index_file, SPLITS, str(tmp_path_factory.mktemp("pack") / "whole"), **ONE)


def tokens(index: Index) -> list[str]:
    """The tokens in the order of a pack of all splits."""
    return [token for split in sorted(SPLITS) for token in index.tokens(split)]


@pytest.mark.parametrize(("num_sweeps", "cameras"), [(3, True), (2, False), (1, True)])
def test_a_packed_sample_is_the_sample(num_sweeps: int, cameras: bool, index_file: Path, whole: Pack) -> None:
    index = Index.open(index_file)
    assert len(whole.places) == len(tokens(index)) == 12
    data = DATA.model_copy(update={"num_sweeps": num_sweeps})
    for token in tokens(index):
        record = index.record(token)
        files = load_sample(record, data, cameras)
        shards = load_sample(record, data.model_copy(update={"packed": whole.uri}), cameras)
        for name in ("points", "images", "lidar2img", "camera_valid"):
            a, b = getattr(files, name), getattr(shards, name)
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_one_row_group_per_sample_in_shards_of_the_asked_size(whole: Pack) -> None:
    sizes = [len(shard["samples"]) for shard in whole.info["shards"]]
    assert sizes == [5, 5, 2]
    for shard in whole.info["shards"]:
        file = pq.ParquetFile(Path(whole.uri) / shard["file"])
        assert file.num_row_groups == len(shard["samples"])
        assert file.read()["sample_token"].to_pylist() == shard["samples"]
    assert sorted(p.name for p in Path(whole.uri).iterdir()) == sorted(
        ["index.parquet", "pack.json", "plan.json"]
        + [f"shard-{i:05d}.{e}" for i in range(3) for e in ("json", "parquet")]
    )


def test_float16_rounds_by_at_most_half_its_spacing(index_file: Path, tmp_path: Path) -> None:
    index, half = Index.open(index_file), pack(index_file, ["sim_val"], str(tmp_path / "half"), points="float16", **ONE)
    for token in index.tokens("sim_val"):
        record = index.record(token)
        a = load_sample(record, DATA, False).points
        b = load_sample(record, DATA.model_copy(update={"packed": half.uri}), False).points
        assert b.dtype == np.float32 and (a != b).any()
        # 11 significant bits: from 2^e on the spacing is 2^(e - 10); below 2^-14 it is 2^-24.
        exponent = np.floor(np.log2(np.maximum(np.abs(a), 2.0**-14)))
        assert (np.abs(a - b) <= 0.5 * 2.0 ** (exponent - 10)).all()


def test_an_interrupted_pack_continues(sim_world: Path, whole: Pack, tmp_path: Path) -> None:
    """The second of three shards has a broken file; after its repair the same call continues."""
    shutil.copytree(sim_world, tmp_path / "world", copy_function=os.link)
    file = build_index(tmp_path / "world", "v1.0-sim", tmp_path / "index.arrow")
    index, uri = Index.open(file), str(tmp_path / "pack")
    path = Path(index.record(tokens(index)[6]).lidar_path)
    content = path.read_bytes()
    replace(path, content[:-3])
    with pytest.raises(DataError, match=rf"{path.name}: truncated LiDAR file"):
        pack(file, SPLITS, uri, **ONE)
    done = Path(uri) / "shard-00000.parquet"
    before = done.stat().st_mtime_ns
    assert not (Path(uri) / "pack.json").exists() and not (Path(uri) / "shard-00001.json").exists()
    with pytest.raises(DataError, match="no finished pack here"):
        Pack(uri)
    with pytest.raises(DataError, match=r"num_sweeps: 3 there, 2 now"):
        pack(file, SPLITS, uri, **{**ONE, "num_sweeps": 2})
    replace(path, content)
    (Path(uri) / ".shard-00001.parquet.0123456789ab.tmp").write_bytes(b"of a process that was killed")
    made = pack(file, SPLITS, uri, **ONE)
    assert done.stat().st_mtime_ns == before
    assert {f.name for f in Path(uri).iterdir()} == {f.name for f in Path(whole.uri).iterdir()}
    assert [s["sha256"] for s in made.info["shards"]] == [s["sha256"] for s in whole.info["shards"]]


def test_damage_is_found_and_named(whole: Pack, tmp_path: Path) -> None:
    shutil.copytree(whole.uri, tmp_path / "pack")
    assert len(verify(str(tmp_path / "pack")).places) == 12
    shard = tmp_path / "pack" / "shard-00001.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"1 of 3 shards .*shard-00001.parquet"):
        verify(str(tmp_path / "pack"))
    assert main(["pack", "--verify", "--out", str(tmp_path / "pack")]) == 2
    shard.write_bytes(content[:-10])
    with pytest.raises(DataError, match=rf"shard-00001.parquet: {len(content) - 10} bytes instead of {len(content)}"):
        check_pack(Pack(str(tmp_path / "pack")), "v1.0-sim", [], 3)
    with pytest.raises(DataError, match=r"shard-00001.parquet: cannot read .*--verify"):
        Pack(str(tmp_path / "pack")).read(whole.info["shards"][1]["samples"][0], 3, False)


@pytest.mark.parametrize("column", ["points", "images.list.element"])
def test_a_damaged_page_is_not_read(column: str, whole: Pack, tmp_path: Path) -> None:
    """Damage is found on reading, without --verify, even if the shard's size is right."""
    shutil.copytree(whole.uri, tmp_path / "pack")
    file, tokens_there = tmp_path / "pack" / "shard-00000.parquet", whole.info["shards"][0]["samples"]
    group = pq.read_metadata(file).row_group(1)
    (chunk,) = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    content = bytearray(file.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    file.write_bytes(content)
    damaged = Pack(str(tmp_path / "pack"))
    check_pack(damaged, "v1.0-sim", tokens_there, 3)
    with pytest.raises(DataError, match=r"shard-00000.parquet: cannot read .*CRC checksum .*pdetr3d pack --verify"):
        damaged.read(tokens_there[1], 3, cameras=True)
    for token in (tokens_there[0], tokens_there[2]):
        points, images = damaged.read(token, 3, cameras=True)
        expected, expected_images = whole.read(token, 3, cameras=True)
        np.testing.assert_array_equal(points, expected)
        assert images == expected_images


def test_a_broken_image_is_not_packed(index_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing also refuses an image that the loader would accept: complete, but damaged inside."""
    index, real = Index.open(index_file), pack_module.read_file
    token = index.tokens("sim_val")[0]
    camera = index.record(token).cameras[3]
    assert camera is not None
    content = real(Path(camera.path), "JPEG")
    middle = len(content) // 2
    damaged = {camera.path: content[:middle] + bytes(200) + content[middle + 200 :]}
    monkeypatch.setattr(pack_module, "read_file", lambda path, kind: damaged.get(str(path)) or real(path, kind))
    with pytest.raises(DataError, match=rf"{Path(camera.path).name}: missing or broken JPEG .*copy the file again"):
        pack_module.packed_row(index, token, 1, "float32")
    damaged.clear()
    assert pack_module.packed_row(index, token, 1, "float32")["images"][0].as_py()[3] == content


@pytest.mark.parametrize("name", ["../shard-00000.parquet", "/etc/passwd", "a/shard.parquet", "shard", ""])
def test_a_pack_names_no_files_beside_its_own(name: str, whole: Pack, tmp_path: Path) -> None:
    info = json.loads(json.dumps(whole.info))
    info["shards"][1]["file"] = name
    (tmp_path / "pack.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=f"pack.json: shard '{name}' is not a file of the pack"):
        Pack(str(tmp_path))


def test_a_run_reads_a_pack_without_the_raw_files(sim_world: Path, whole: Pack, tmp_path: Path) -> None:
    shutil.copytree(sim_world / "v1.0-sim", tmp_path / "tables" / "v1.0-sim")
    shutil.copytree(sim_world / "maps", tmp_path / "tables" / "maps")
    config = world_config(tmp_path / "tables", f"data.packed={whole.uri}", "data.num_sweeps=3")
    data = prepare(RunDir(tmp_path / "run", config))
    assert data.index.dataroot == tmp_path / "tables" and data.index.digest == whole.info["index"]
    record = data.index.record(data.index.tokens("sim_train")[0])
    assert not Path(record.lidar_path).exists()
    sample = load_sample(record, config.data, cameras=True)
    assert len(sample.points) > 100 and sample.images.shape == (len(CAMERAS), 32, 64, 3)
    for override, reason in (
        (["data.num_sweeps=10"], r"holds 3 sweeps a sample, but data.num_sweeps=10"),
        (["data.packed=" + str(tmp_path / "none")], r"data.packed .*none: no finished pack here"),
        (["data.packed=runs/packed"], r"data.packed runs/packed .* by a URI or an absolute path"),
        (["data.packed=nfs4://x/y"], r"nfs4://x/y: not a place to keep a pack"),
    ):
        with pytest.raises(DataError, match=reason):
            prepare(
                RunDir(
                    tmp_path / override[0][-5:].replace("/", "_"),
                    world_config(tmp_path / "tables", f"data.packed={whole.uri}", *override),
                )
            )


def test_samples_that_are_not_in_it_are_named(index_file: Path, tmp_path: Path) -> None:
    index, part = Index.open(index_file), pack(index_file, ["sim_val"], str(tmp_path / "part"), **ONE)
    check_pack(part, "v1.0-sim", index.tokens("sim_val"), 3)
    token = index.tokens("sim_train")[0]
    with pytest.raises(DataError, match=rf"1 of the run's 1 samples are not in it, e.g. '{token}'.* splits sim_val"):
        check_pack(part, "v1.0-sim", [token], 3)
    with pytest.raises(DataError, match="holds data.version=v1.0-sim, not v1.0-mini"):
        check_pack(part, "v1.0-mini", [], 3)
    with pytest.raises(DataError, match=f"sample '{token}' is not in it"):
        part.read(token, 1, False)


def test_a_missing_camera_stays_missing(index_file: Path, tmp_path: Path) -> None:
    index = Index.open(index_file)
    table = index.table
    paths = [[None, *names[1:]] for names in table["camera_path"].to_pylist()]
    column = table.schema.get_field_index("camera_path")
    file = tmp_path / "index.arrow"
    changed = table.set_column(column, table.schema.field("camera_path"), [paths])
    write_index(file, changed, index.dataroot, index.version)
    index, made = Index.open(file), pack(file, ["sim_val"], str(tmp_path / "pack"), **ONE)
    record = index.record(index.tokens("sim_val")[0])
    assert record.cameras[0] is None
    files, shards = (load_sample(record, data, True) for data in (DATA, DATA.model_copy(update={"packed": made.uri})))
    assert shards.camera_valid.tolist() == [False] + [True] * 5 and not shards.images[0].any()
    np.testing.assert_array_equal(files.images, shards.images)


def test_the_command_says_what_to_set(index_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = str(tmp_path / "pack")
    words = ["--split", "sim_val", "--num-sweeps", "1", "--processes", "1", "--points", "float16"]
    assert main(["pack", "--out", uri, "--index", str(index_file), *words]) == 0
    assert f"data.packed={uri}" in capsys.readouterr().out.replace("\n", "")
    info = json.loads((tmp_path / "pack" / "pack.json").read_text())
    assert (info["splits"], info["num_sweeps"], info["points"]) == (["sim_val"], 1, "float16")
    assert main(["pack", "--out", uri]) == 2 and "--index FILE" in capsys.readouterr().err


def test_footers_are_read_once(index_file: Path, whole: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    index, reads = Index.open(index_file), []
    real = pq.read_metadata
    monkeypatch.setattr(packed.pq, "read_metadata", lambda source: reads.append(1) or real(source))
    packed.footer.cache_clear()
    for token in tokens(index)[:5]:
        load_sample(dataclasses.replace(index.record(token)), DATA.model_copy(update={"packed": whole.uri}), False)
    assert len(reads) == 1


def test_a_deployed_student_reads_its_callers_files_not_the_pack(index_file: Path, whole: Pack) -> None:
    index = Index.open(index_file)
    record = index.record(index.tokens("sim_val")[0])
    data = DATA.model_copy(update={"packed": whole.uri})
    sample = to_sample({"sweeps": [{"path": record.lidar_path}]}, "a caller's", data)
    expected = load_sample(record, DATA.model_copy(update={"num_sweeps": 1}), cameras=False)
    np.testing.assert_array_equal(sample.points, expected.points)
