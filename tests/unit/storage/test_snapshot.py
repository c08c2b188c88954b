"""The snapshot keeps what a run covers, and notices when the input is not what it was."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import RunMismatchError
from sam3lt_ray.records import LooseFile, Shard
from sam3lt_ray.storage.ledger import shard_directory
from sam3lt_ray.storage.snapshot import SNAPSHOT_PATH, merge_snapshot, read_editions, read_snapshot, write_snapshot
from sam3lt_ray.storage.store import open_store

SHARDS = [
    Shard("a.tar", "s3://b/a.tar", 100, "etag-a"),
    Shard(
        "group-000000", "/data", None, None, (LooseFile("x/1.jpg", "/data/x/1.jpg"), LooseFile("2.png", "/data/2.png"))
    ),
]


def test_round_trip(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), StorageSettings())
    assert read_snapshot(store) == []
    write_snapshot(store, SHARDS)
    assert read_snapshot(store) == SHARDS


def test_an_empty_shard_is_the_same_at_the_next_start(tmp_path: Path) -> None:
    store, empty = open_store(str(tmp_path), StorageSettings()), Shard("e.tar", "s3://b/e.tar", 0, "etag-e")
    write_snapshot(store, [empty])
    assert read_snapshot(store) == [empty]
    # Snapshots of 0.1.0 have null there.
    assert merge_snapshot([dataclasses.replace(empty, size_bytes=None)], [empty]).shards == [empty]
    with pytest.raises(RunMismatchError, match=r"e\.tar was 0 bytes \(version etag-e\) and is 7 bytes"):
        merge_snapshot([empty], [Shard("e.tar", "s3://b/e.tar", 7, "etag-7")])


def test_new_and_vanished_shards_are_told_apart() -> None:
    listed = [Shard("b.tar", "s3://b/b.tar", 5, "etag-b"), SHARDS[1]]
    merged = merge_snapshot(SHARDS, listed)
    assert [shard.name for shard in merged.shards] == ["a.tar", "group-000000", "b.tar"]
    assert [shard.name for shard in merged.new] == ["b.tar"]
    assert (merged.changed, merged.vanished) == ([], ["a.tar"])


@pytest.mark.parametrize(
    "now",
    [Shard("a.tar", "s3://b/a.tar", 101, "etag-a"), Shard("a.tar", "s3://b/a.tar", 100, "etag-z")],
    ids=["size", "version"],
)
def test_changed_shard_is_refused_by_name(now: Shard) -> None:
    with pytest.raises(RunMismatchError, match=r"(?s)a\.tar was 100 bytes.*--changed relabel"):
        merge_snapshot(SHARDS, [now, SHARDS[1]])


def test_a_changed_shard_gets_an_edition_that_stays(tmp_path: Path) -> None:
    now = Shard("a.tar", "s3://b/a.tar", 101, "etag-z")
    merged = merge_snapshot(SHARDS, [now, SHARDS[1]], "relabel")
    (changed,) = merged.changed
    assert merged.shards == [changed, SHARDS[1]]
    assert dataclasses.replace(changed, edition="") == now
    assert len(changed.edition) == 8
    assert merge_snapshot(merged.shards, [now, SHARDS[1]]).shards == merged.shards
    other = Shard("a.tar", "s3://b/a.tar", 101, "etag-y")
    assert merge_snapshot(SHARDS, [other, SHARDS[1]], "relabel").changed[0].edition != changed.edition

    store = open_store(str(tmp_path), StorageSettings())
    write_snapshot(store, merged.shards)
    assert read_snapshot(store) == merged.shards
    assert read_editions(store) == {shard_directory("a.tar"): shard_directory("a.tar", changed.edition)}


def test_group_with_other_members_is_refused() -> None:
    other = Shard("group-000000", "/data", None, None, (LooseFile("3.jpg", "/data/3.jpg"),))
    with pytest.raises(RunMismatchError, match="group-000000"):
        merge_snapshot(SHARDS, [SHARDS[0], other])


def _group(**versions: str | None) -> Shard:
    members = tuple(LooseFile(key, f"/d/{key}", version) for key, version in versions.items())
    return Shard("group-000000", "/d", 9, "-".join(str(version) for version in versions.values()), members)


def test_images_that_are_gone_from_a_group_are_told() -> None:
    before = _group(a="1", b="1", c="1")
    gone = dataclasses.replace(before.members[1], is_gone=True)
    now = dataclasses.replace(before, members=(before.members[0], gone, before.members[2]))
    merged = merge_snapshot([before], [now])
    assert (merged.changed, merged.vanished, merged.vanished_images) == ([], [], ["b"])
    merged = merge_snapshot([before], [SHARDS[0]])
    assert (merged.vanished, merged.vanished_images) == (["group-000000"], ["a", "b", "c"])


def test_changed_images_of_a_group_are_named() -> None:
    before = _group(a="1", b="1", c="1", d="1")
    with pytest.raises(RunMismatchError, match=r"\(changed: c; gone: b\)\. Put the old"):
        merge_snapshot([before], [_group(a="1", c="2", d="1")])


def test_versions_of_images_are_kept(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), StorageSettings())
    write_snapshot(store, [_group(a="1", b=None)])
    assert read_snapshot(store) == [_group(a="1", b=None)]


def test_a_snapshot_of_the_first_version_has_no_editions(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), StorageSettings())
    write_snapshot(store, SHARDS)
    table = pq.read_table(io.BytesIO(store.read(SNAPSHOT_PATH)))
    members = pa.list_(pa.struct([("key", pa.string()), ("uri", pa.string())]))  # and no versions of them
    position = table.schema.get_field_index("members")
    old = table.drop_columns(["edition"]).set_column(
        position, "members", pa.array(table["members"].to_pylist(), members)
    )
    sink = io.BytesIO()
    pq.write_table(old, sink)
    store.replace(SNAPSHOT_PATH, sink.getvalue())
    assert read_snapshot(store) == SHARDS
    assert read_editions(store) == {}


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_damaged_snapshot_is_named(tmp_path: Path, kept: float) -> None:
    store = open_store(str(tmp_path), StorageSettings())
    write_snapshot(store, SHARDS)
    data = store.read(SNAPSHOT_PATH)
    store.replace(SNAPSHOT_PATH, data[: int(len(data) * kept)])
    for read in (read_snapshot, read_editions):
        with pytest.raises(RunMismatchError, match=r"shards\.parquet is not a readable Parquet file"):
            read(store)
