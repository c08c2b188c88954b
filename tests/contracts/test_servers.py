"""What the servers promise to tests beside what the contract of stores shows."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from tests.servers.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Bucket


@pytest.mark.parametrize("server", ["moto", "seaweed"])
def test_what_arrow_sends_in_chunks_arrives_whole(server: str, request: pytest.FixtureRequest) -> None:
    bucket: S3Bucket = request.getfixturevalue(f"{server}_bucket")
    table = pa.table({"id": [f"{number:032d}" for number in range(1000)]})
    pq.write_table(table, f"{bucket.name}/ids.parquet", filesystem=arrow_filesystem(bucket))
    assert pq.read_table(io.BytesIO(bucket.get("ids.parquet"))).equals(table)


def arrow_filesystem(bucket: S3Bucket) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        access_key=ACCESS_KEY_ID,
        secret_key=SECRET_ACCESS_KEY,
        region=REGION,
        endpoint_override=bucket.server.endpoint_url,
    )
