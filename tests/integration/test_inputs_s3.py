"""Inputs on S3: listing, reading, resuming and failing, against a store that counts requests and against a real one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import InputError, StorageError
from sam3lt_ray.inputs import forward_reader
from sam3lt_ray.inputs.listing import list_shards
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.records import ReadRange, Shard, Unit
from tests.servers.moto_s3 import MotoS3
from tests.servers.s3_server import S3Bucket
from tests.unit.inputs.shard_files import images_of, keys_before, make_tar, samples, settings_for

KB = 1024


def list_at(bucket: S3Bucket, path: str = "", input_format: str = "webdataset", **changes: object) -> list[Shard]:
    return list_shards(settings_for(input_format, uri=bucket.uri(path), **changes), bucket.storage())


def read_from(bucket: S3Bucket, shard: Shard, wanted: ReadRange, known: list[Unit], **changes: object) -> list[Unit]:
    return list(read_units(shard, [wanted], settings_for(**changes), bucket.storage(), keys_before(known)))


# --- every format, on a real object store and on the counting one -----------------------------------------------------


@pytest.fixture(params=["seaweed_bucket", "moto_bucket"])
def bucket(request: pytest.FixtureRequest) -> S3Bucket:
    found: S3Bucket = request.getfixturevalue(request.param)
    return found


def test_webdataset(bucket: S3Bucket) -> None:
    bucket.put_all(
        {"in/b/1.tar": make_tar(samples(5)), "in/a.tar": make_tar(samples(2)), "in/.x.tar": b"", "in/n.txt": b""}
    )
    shards = list_at(bucket, "in/")
    assert [shard.name for shard in shards] == ["a.tar", "b/1.tar"]
    assert shards[0].uri == bucket.uri("in/a.tar")
    head = bucket.server.client.head_object(Bucket=bucket.name, Key="in/a.tar")
    assert (shards[0].size_bytes, shards[0].version) == (head["ContentLength"], head["ETag"].strip('"'))
    assert list_at(bucket, "in") == shards
    (single,) = list_at(bucket, "in/b/1.tar")
    assert (single.name, single.uri, single.version) == ("1.tar", shards[1].uri, shards[1].version)
    units = read_from(bucket, single, ReadRange(), [], images_per_unit=2)
    assert [unit.range.count for unit in units] == [2, 2, 1]
    assert [image.data for image in images_of(units)] == [bytes([number]) * 100 for number in range(5)]
    assert read_from(bucket, single, ReadRange(2, 4, units[0].resume_offset), units, images_per_unit=2) == [units[1]]


def test_parquet(bucket: S3Bucket) -> None:
    buffer = io.BytesIO()
    table = pa.table({"image": [bytes([row]) * 300 for row in range(9)], "other": ["x" * 900] * 9})
    pq.write_table(table, buffer, row_group_size=3)
    bucket.put("in/a.parquet", buffer.getvalue())
    (shard,) = list_at(bucket, "in", "parquet")
    units = read_from(bucket, shard, ReadRange(3), [], format="parquet", images_per_unit=4)
    assert [image.data for image in images_of(units)] == [bytes([row]) * 300 for row in range(3, 9)]


def test_folder_with_every_kind_of_file(bucket: S3Bucket) -> None:
    bucket.put_all(
        {"in/a.jpg": b"1", "in/b/c.PNG": b"2", "in/e.jpg": b"", "in/big.jpg": bytes(2**20 + 1), "in/x.txt": b""}
    )
    (group,) = list_at(bucket, "in", "folder")
    assert [member.key for member in group.members] == ["a.jpg", "b/c.PNG", "big.jpg", "e.jpg"]
    assert group.version is not None
    assert group.size_bytes == 2**20 + 3
    bucket.delete("in/a.jpg")
    (unit,) = read_from(bucket, group, ReadRange(), [], format="folder", max_image_mb=1)
    assert [image.error_kind for image in unit.images] == ["unreadable", None, "too_large", "empty"]
    assert unit.images[1].data == b"2"


def test_manifest_with_local_and_s3_images(bucket: S3Bucket, tmp_path: Path) -> None:
    local = tmp_path / "local.jpg"
    local.write_bytes(b"local")
    bucket.put_all({"lists/m.csv": f"uri\nnear.jpg\n{local}\n{bucket.uri('far.jpg')}\n".encode()})
    bucket.put_all({"lists/near.jpg": b"near", "far.jpg": b"far"})
    (group,) = list_at(bucket, "lists/m.csv", "manifest")
    (unit,) = read_from(bucket, group, ReadRange(), [], format="manifest")
    assert [image.data for image in unit.images] == [b"near", b"local", b"far"]


def test_missing_things(bucket: S3Bucket) -> None:
    bucket.put("in/a.parquet", b"x")
    with pytest.raises(InputError, match=r"nothing below s3://.*/empty/"):
        list_at(bucket, "empty/")
    with pytest.raises(InputError, match=r"nothing below s3://.*/in/A\.tar/"):
        list_at(bucket, "in/A.tar")
    with pytest.raises(InputError, match=r"Did you mean input\.format: parquet"):
        list_at(bucket, "in")
    for uri in ("s3://no-such-bucket-at-all/in", "s3://no-such-bucket-at-all", "s3://no-such-bucket-at-all/in/"):
        with pytest.raises(InputError, match=r"bucket .*does not exist"):
            list_shards(settings_for(uri=uri), bucket.storage())
    bucket.put("m.csv", b"uri\ns3://no-such-bucket-at-all/a.jpg\n")
    with pytest.raises(InputError, match="bucket no-such-bucket-at-all does not exist"):
        list_at(bucket, "m.csv", "manifest")


def test_server_that_is_not_there(s3_credentials: None) -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9 cannot be reached"):
        list_shards(settings_for(uri="s3://bucket/x"), StorageSettings(endpoint_url="http://127.0.0.1:9"))


def test_denied_access(seaweed_bucket: S3Bucket) -> None:
    seaweed_bucket.put("in/a.tar", make_tar([]))
    for path in ("in/", "in/a.tar"):
        with pytest.raises(InputError, match="denied"):
            list_shards(settings_for(uri=seaweed_bucket.uri(path)), seaweed_bucket.storage(anonymous=True))


# --- what is asked of the store ---------------------------------------------------------------------------------------


@pytest.fixture
def big_shard(moto_bucket: S3Bucket) -> Shard:
    moto_bucket.put("in/big.tar", make_tar(samples(64, size_bytes=30 * KB)))
    (shard,) = list_at(moto_bucket, "in")
    return shard


def first_bytes(moto_s3: MotoS3) -> list[int]:
    ranges = [request.byte_range for request in moto_s3.requests if request.kind == "GetObject"]
    return [int(byte_range.removeprefix("bytes=").partition("-")[0]) for byte_range in ranges]


def test_resuming_reads_nothing_before_its_offset(
    moto_s3: MotoS3, moto_bucket: S3Bucket, big_shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_reader, "BLOCK_BYTES", 256 * KB)
    units = read_from(moto_bucket, big_shard, ReadRange(), [], images_per_unit=16)
    offset = units[2].resume_offset
    assert offset is not None
    assert big_shard.size_bytes is not None
    moto_s3.forget_requests()
    assert read_from(moto_bucket, big_shard, ReadRange(48, None, offset), units, images_per_unit=16) == units[3:]
    assert min(first_bytes(moto_s3)) == offset
    assert moto_s3.bytes_sent <= big_shard.size_bytes - offset + 10 * KB
    assert moto_s3.counts["HeadObject"] == 1


def test_a_gap_in_the_middle_costs_the_gap(
    moto_s3: MotoS3, moto_bucket: S3Bucket, big_shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_reader, "BLOCK_BYTES", 64 * KB)
    units = read_from(moto_bucket, big_shard, ReadRange(), [], images_per_unit=16)
    moto_s3.forget_requests()
    gap = ReadRange(16, 32, units[0].resume_offset)
    assert read_from(moto_bucket, big_shard, gap, units, images_per_unit=16) == [units[1]]
    assert units[0].resume_offset is not None
    assert min(first_bytes(moto_s3)) == units[0].resume_offset
    # The gap, the next image (to know that there is one) and a block that was fetched ahead.
    assert moto_s3.bytes_sent < 18 * 32 * KB + 3 * 64 * KB


def test_a_folder_costs_one_request_an_image(moto_s3: MotoS3, moto_bucket: S3Bucket) -> None:
    moto_bucket.put_all({f"in/{number:02}.jpg": b"x" for number in range(20)})
    (group,) = list_at(moto_bucket, "in", "folder")
    moto_s3.forget_requests()
    (unit,) = read_from(moto_bucket, group, ReadRange(5), [], format="folder")
    assert unit.range.count == 15
    assert moto_s3.counts == {"GetObject": 15}


# --- failures in mid-stream -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["cut_bodies", "refuse_next", "fail_next"])
def test_failures_in_the_middle_of_a_tar(
    moto_s3: MotoS3, moto_bucket: S3Bucket, big_shard: Shard, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    monkeypatch.setattr(forward_reader, "BLOCK_BYTES", 256 * KB)
    units = read_from(moto_bucket, big_shard, ReadRange(), [], images_per_unit=16)
    reading = read_units(big_shard, [ReadRange()], settings_for(images_per_unit=16), moto_bucket.storage())
    found = [next(reading)]
    order: Callable[..., None] = getattr(moto_s3, spoil)
    order(3, kind="GetObject")
    found.extend(reading)
    assert found == units


def test_a_shard_that_was_replaced(moto_s3: MotoS3, moto_bucket: S3Bucket, big_shard: Shard) -> None:
    moto_bucket.put("in/big.tar", make_tar(samples(64, size_bytes=30 * KB))[:-512])
    with pytest.raises(StorageError, match=r"big\.tar changed"):
        read_from(moto_bucket, big_shard, ReadRange(), [])
    moto_bucket.delete("in/big.tar")
    with pytest.raises(StorageError, match="nothing at"):
        read_from(moto_bucket, big_shard, ReadRange(), [])


def test_a_store_that_stays_down(
    moto_s3: MotoS3, moto_bucket: S3Bucket, big_shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam3lt_ray.storage.s3_filesystem.pause_before_retry_s", lambda _attempt: 0.0)
    moto_s3.fail_next(1000, status=500, code="InternalError", message="Try again.", kind="GetObject")
    with pytest.raises(StorageError, match="kept failing"):
        read_from(moto_bucket, big_shard, ReadRange(), [])


def test_a_store_that_stays_down_says_nothing_about_loose_files(
    moto_s3: MotoS3, moto_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam3lt_ray.storage.s3_filesystem.pause_before_retry_s", lambda _attempt: 0.0)
    moto_bucket.put("in/a.jpg", b"x")
    (group,) = list_at(moto_bucket, "in", "folder")
    moto_s3.fail_next(1000, status=500, code="InternalError", message="Try again.", kind="GetObject")
    with pytest.raises(StorageError, match="kept failing"):
        read_from(moto_bucket, group, ReadRange(), [], format="folder")
