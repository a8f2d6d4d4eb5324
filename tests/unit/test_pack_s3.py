"""Tests of packs on object storage, with an own S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.loading.load import load_sample
from pdetr3d.data.loading.pack import pack, verify
from pdetr3d.data.loading.packed import Pack
from pdetr3d.schema import DataError
from tests.unit.test_pack import DATA, ONE, SPLITS, tokens

URI = "s3://bucket/packs/one"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[boto3.resource]:
    """An empty bucket; the server's address is in the environment, as for users."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield boto3.resource("s3").create_bucket(Bucket="bucket")
    server.stop()


def test_a_pack_on_s3(bucket: boto3.resource, sim_world: Path, tmp_path: Path) -> None:
    """The pack is written, interrupted, continued, read by sample and verified; damage is named."""
    index_file = build_index(sim_world, "v1.0-sim", tmp_path / "index.arrow")
    pack(index_file, SPLITS, URI, **ONE)
    keys = {"index.parquet", "pack.json", "plan.json"} | {
        f"shard-{i:05d}.{e}" for i in range(3) for e in ("json", "parquet")
    }
    assert {o.key for o in bucket.objects.all()} - {"packs/", "packs/one/"} == {f"packs/one/{key}" for key in keys}

    for name in ("pack.json", "shard-00001.json", "shard-00001.parquet"):  # as if killed before its second shard
        bucket.Object(f"packs/one/{name}").delete()
    written = bucket.Object("packs/one/shard-00000.parquet").last_modified
    with pytest.raises(DataError, match="no finished pack here"):
        Pack(URI)
    pack(index_file, SPLITS, URI, **ONE)
    assert bucket.Object("packs/one/shard-00000.parquet").last_modified == written
    assert len(verify(URI).places) == 12

    index = Index.open(index_file)
    for token in tokens(index):
        record = index.record(token)
        files = load_sample(record, DATA, cameras=True)
        shards = load_sample(record, DATA.model_copy(update={"packed": URI}), cameras=True)
        np.testing.assert_array_equal(files.points, shards.points)
        np.testing.assert_array_equal(files.images, shards.images)

    damaged = bucket.Object("packs/one/shard-00002.parquet")
    content = bytearray(damaged.get()["Body"].read())
    content[len(content) // 2] ^= 1
    damaged.put(Body=bytes(content))
    with pytest.raises(DataError, match="1 of 3 shards are not what was written: shard-00002.parquet"):
        verify(URI)
