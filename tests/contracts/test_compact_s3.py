"""Compaction from S3 to S3: the same rows, and what was written before a kill is not written again."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest

from sam3lt_ray.exports.compact import MANIFEST_PATH, compact_run
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.records import Shard
from sam3lt_ray.storage.snapshot import write_snapshot
from sam3lt_ray.storage.store import open_store
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_image, write_run
from tests.servers.moto_s3 import MotoS3

LABELS = (Label(3, "cat", ("cat",)),)


@pytest.mark.usefixtures("s3_credentials")
def test_on_s3(moto_s3: MotoS3) -> None:
    bucket = moto_s3.new_bucket()
    run = open_store(bucket.uri("run"), bucket.storage())
    images = [make_image(f"{n}.jpg", index=n, shard="a.tar", presence={3: 0.5}) for n in range(25)]
    write_run(run, images, LABELS, layer="000")
    write_snapshot(run, [Shard("a.tar", "s3://somewhere/a.tar")])
    target = open_store(bucket.uri("run/exports/compact"), bucket.storage())

    assert compact_run(RunReader(run), target, max_rows=10, max_mb=None).rows == 25
    files = [key for key in bucket.keys("run/exports/compact/") if key.endswith(".parquet")]
    whole = {key: bucket.get(key) for key in files}
    indexes = [index for key in files for index in pq.read_table(io.BytesIO(whole[key]))["index"].to_pylist()]
    assert indexes == list(range(25))

    bucket.delete(files[-1])
    bucket.delete(f"run/exports/compact/{MANIFEST_PATH}")
    moto_s3.forget_requests()
    assert compact_run(RunReader(run), target, max_rows=10, max_mb=None).rows_reused == 20
    written = [request.key for request in moto_s3.requests if request.kind == "PutObject" and request.status == 200]
    assert written == [files[-1], f"run/exports/compact/{MANIFEST_PATH}"]
    assert {key: bucket.get(key) for key in files} == whole
