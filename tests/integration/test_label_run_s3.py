"""The whole job against object stores: a real one for truth, a counting one for costs."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.config.schema import Config
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.storage.store import open_store
from tests.run_checks import all_rows, assert_exact
from tests.servers.moto_s3 import MotoS3
from tests.servers.s3_server import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Bucket
from tests.standin import load_standin, plain_image, write_tar

pytestmark = pytest.mark.usefixtures("local_ray")


def _fill(bucket: S3Bucket, tmp_path: Path, shards: dict[str, int]) -> None:
    for name, count in shards.items():
        noise = bytes(range(256)) * 40  # a side file, so that a shard has some bytes to be skipped or read
        members: list[tuple[str, bytes]] = []
        for i in range(count):
            members += [
                (f"{i:05d}.png", plain_image((i % 200, len(name), i * 3 % 256), (44, 31))),
                (f"{i:05d}.bin", noise),
            ]
        path = tmp_path / "tars" / name
        write_tar(path, members)
        bucket.put(f"shards/{name}", path.read_bytes())


def _config(bucket: S3Bucket, output: str, **settings: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"output": output},
            "input": {"format": "webdataset", "uri": bucket.uri("shards/"), "images_per_unit": 10},
            "vocabulary": ["red circle", "star"],
            "storage": {"endpoint_url": bucket.server.endpoint_url, **settings},
        }
    )


def test_labels_on_s3_equal_labels_on_disk(seaweed_bucket: S3Bucket, tmp_path: Path) -> None:
    shards = {"a.tar": 35, "sub/b.tar": 12}
    _fill(seaweed_bucket, tmp_path, shards)
    on_s3 = _config(seaweed_bucket, seaweed_bucket.uri("runs/one"))
    summary = label_run(on_s3, load_engine=load_standin)
    assert summary.exit_code == 0, summary.message
    rows = assert_exact(open_store(on_s3.run.output, on_s3.storage), shards)
    local = Config.model_validate(
        {
            "run": {"output": str(tmp_path / "run")},
            "input": {"format": "webdataset", "uri": str(tmp_path / "tars"), "images_per_unit": 10},
            "vocabulary": ["red circle", "star"],
        }
    )
    label_run(local, load_engine=load_standin)
    assert rows == all_rows(open_store(local.run.output, local.storage))
    run = json.loads(seaweed_bucket.get("runs/one/run.json"))
    assert run["conditional_put"] is True


def test_resuming_reads_only_what_is_missing(moto_s3: MotoS3, tmp_path: Path) -> None:
    bucket = moto_s3.new_bucket()
    _fill(bucket, tmp_path, {"a.tar": 60, "b.tar": 20})
    config = _config(bucket, bucket.uri("runs/one"))
    store = open_store(config.run.output, config.storage)
    assert label_run(config, load_engine=load_standin).status == "done"
    reference = all_rows(store)

    # As if killed: all of a.tar from image 40 on is gone, b.tar is whole.
    for key in bucket.keys("runs/one/labels/000/a.tar-"):
        if int(re.search(r"/(\d{10})-", key)[1]) >= 40:  # type: ignore[index]
            bucket.delete(key)
    with tarfile.open(fileobj=io.BytesIO(bucket.get("shards/a.tar"))) as tar:
        image_40 = next(member.offset for member in tar if member.name == "00040.png")
    moto_s3.forget_requests()
    summary = label_run(config, load_engine=load_standin)
    assert summary.to_json()["session"]["images"]["total"] == 20

    reads = [
        request for request in moto_s3.requests if request.key.startswith("shards/") and request.kind == "GetObject"
    ]
    assert {request.key for request in reads} == {"shards/a.tar"}, "the finished shard was opened"
    starts = [int(re.match(r"bytes=(\d+)-", request.byte_range)[1]) for request in reads]  # type: ignore[index]
    assert min(starts) == image_40, "the tar was not taken up where its first missing unit begins"
    size = len(bucket.get("shards/a.tar"))
    assert sum(request.bytes_sent for request in reads) <= size - image_40
    assert all_rows(store) == reference


def test_an_unchanged_finished_run_reads_no_image(moto_s3: MotoS3, tmp_path: Path) -> None:
    bucket = moto_s3.new_bucket()
    _fill(bucket, tmp_path, {"a.tar": 15})
    config = _config(bucket, bucket.uri("runs/one"))
    label_run(config, load_engine=load_standin)
    moto_s3.forget_requests()
    assert label_run(config, load_engine=load_standin).status == "done"
    assert [
        request.key for request in moto_s3.requests if request.kind == "GetObject" and "shards/" in request.key
    ] == []


def test_a_lost_answer_and_a_busy_store_change_nothing(moto_s3: MotoS3, tmp_path: Path) -> None:
    bucket = moto_s3.new_bucket()
    _fill(bucket, tmp_path, {"a.tar": 30})
    config = _config(bucket, bucket.uri("runs/one"))
    moto_s3.lose_answers(1, kind="PutObject", key_part="labels/000/a.tar")
    moto_s3.fail_next(2, kind="PutObject", key_part="0000000010-", status=503)
    moto_s3.cut_bodies(1, key_part="shards/a.tar")
    assert label_run(config, load_engine=load_standin).status == "done"
    assert_exact(open_store(config.run.output, config.storage), {"a.tar": 30})


def test_no_credential_is_written_anywhere(moto_s3: MotoS3, tmp_path: Path) -> None:
    bucket = moto_s3.new_bucket()
    _fill(bucket, tmp_path, {"a.tar": 5})
    label_run(_config(bucket, bucket.uri("runs/one")), load_engine=load_standin)
    for key in bucket.keys("runs/one/"):
        body = bucket.get(key)
        assert SECRET_ACCESS_KEY.encode() not in body, key
        assert ACCESS_KEY_ID.encode() not in body, key
