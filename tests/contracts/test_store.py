"""One suite over all stores: what a run directory promises, whoever keeps it."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import StorageError
from sam3lt_ray.storage.store import RunStore, open_store, probe_conditional_put
from tests.servers.s3_server import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Bucket

STORES = ("local", "moto", "seaweed")

# Names that shards have had in the wild; each is one file in one directory.
ODD_NAMES = (
    "a b.tar/000-256.parquet",
    "été-照片-😀/1.parquet",
    "100%41+plus&amp;=eq/2.parquet",
    "hash#question?x=1/3.parquet",
    "quote'double\"and more/4.parquet",
    "brackets[0]{1}(2)*/5.parquet",
    "trailing dot./ leading space",
    "tilde~,;:@!$^|<>/6",
    "x" * 255 + "/" + "y" * 255,
)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> RunStore:
    """An empty run directory on each kind of store."""
    if request.param == "local":
        return open_store(str(request.getfixturevalue("tmp_path") / "runs" / "one"), StorageSettings())
    bucket: S3Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return open_store(bucket.uri("runs/one/"), bucket.storage())


def paths(store: RunStore, prefix: str = "") -> list[str]:
    return [file.path for file in store.list(prefix)]


def _settings_of(request: pytest.FixtureRequest) -> StorageSettings:
    kind = request.node.callspec.params["store"]
    return StorageSettings() if kind == "local" else request.getfixturevalue(f"{kind}_bucket").storage()


def test_a_name_is_created_once(store: RunStore) -> None:
    assert store.create("labels/base/0.parquet", b"first")
    assert not store.create("labels/base/0.parquet", b"second")
    assert store.read("labels/base/0.parquet") == b"first"


def test_sixteen_writers_have_one_winner(store: RunStore, request: pytest.FixtureRequest) -> None:
    # SeaweedFS makes writers of one name wait for each other in steps of a second.
    rounds = 1 if "seaweed" in request.node.callspec.id else 5
    bodies = [bytes([number]) * 100_000 for number in range(16)]
    start = threading.Barrier(len(bodies))

    def write(body: bytes) -> bool:
        start.wait(30)
        return store.create("labels/unit.parquet", body)

    for _ in range(rounds):
        with ThreadPoolExecutor(len(bodies)) as pool:
            told = list(pool.map(write, bodies))
        assert sum(told) == 1
        assert store.read("labels/unit.parquet") == bodies[told.index(True)]
        assert paths(store) == ["labels/unit.parquet"]
        store.delete("labels/unit.parquet")


def test_create_takes_a_name_again_after_delete(store: RunStore) -> None:
    assert store.create("run.json", b"1")
    store.delete("run.json")
    assert not store.exists("run.json")
    assert store.create("run.json", b"2")
    assert store.read("run.json") == b"2"


def test_replace_makes_and_overwrites(store: RunStore) -> None:
    store.replace("run_summary.json", b"long first content")
    store.replace("run_summary.json", b"short")
    assert store.read("run_summary.json") == b"short"
    assert paths(store) == ["run_summary.json"]


@pytest.mark.parametrize("num_bytes", [0, 17, 60 * 2**20])  # the last one is sent to S3 in parts
def test_replace_from_a_file_makes_and_overwrites(store: RunStore, tmp_path: Path, num_bytes: int) -> None:
    source = tmp_path / "export.json"
    source.write_bytes(b"old")
    store.replace_from_file("exports/coco/instances.json", source)
    content = (b"0123456789abcdef" * (num_bytes // 16 + 1))[:num_bytes]
    source.write_bytes(content)
    store.replace_from_file("exports/coco/instances.json", source)
    assert store.read("exports/coco/instances.json") == content
    assert paths(store) == ["exports/coco/instances.json"]


def test_missing_files(store: RunStore) -> None:
    store.create("labels/a", b"x")
    for missing in ("nothing.json", "labels/b", "no/such/place", "labels"):
        assert not store.exists(missing)
    for missing in ("nothing.json", "labels/b", "no/such/place"):
        for read in (store.read, store.open):
            with pytest.raises(FileNotFoundError, match=missing):
                read(missing)
        store.delete(missing)
    assert paths(store, "no/such") == []


def test_a_new_directory_is_empty(store: RunStore) -> None:
    assert paths(store) == []
    assert not store.exists("run.json")


def test_an_empty_file_is_read_as_such(store: RunStore) -> None:
    store.create("empty", b"")
    assert store.read("empty") == b""


def test_open_is_seekable(store: RunStore) -> None:
    table = pa.table({"index": list(range(5000)), "key": [f"key-{n}" for n in range(5000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=500)
    store.create("labels/unit.parquet", sink.getvalue().to_pybytes())
    with store.open("labels/unit.parquet") as file:
        assert file.read(4) == b"PAR1"
        assert file.seek(-4, os.SEEK_END) == sink.getvalue().size - 4
        assert file.read() == b"PAR1"
        assert pq.read_table(file).equals(table)


def test_listing_is_sorted_recursive_and_complete(store: RunStore) -> None:
    # "-" and "." sort before "/": servers that keep real directories list these in another order.
    names = ["a/1", "a/b/c/d", "a-b/2", "a.c", "a/10", "Z", "é", "a/1-x", "b"]
    before_s = time.time()
    for name in names:
        store.create(name, name.encode())
    files = list(store.list())
    assert [file.path for file in files] == sorted(names)
    assert [file.size_bytes for file in files] == [len(name.encode()) for name in sorted(names)]
    assert all(before_s - 60 < file.modified_s < time.time() + 60 for file in files)


def test_a_prefix_is_a_directory(store: RunStore) -> None:
    for name in ("a/1/x", "a/1/y/z", "a/10/x", "a/1.txt", "a/1-2/x", "b/1/x"):
        store.create(name, b"")
    assert paths(store, "a/1") == ["a/1/x", "a/1/y/z"]
    assert paths(store, "a/1/") == ["a/1/x", "a/1/y/z"]
    assert paths(store, "a") == ["a/1-2/x", "a/1.txt", "a/1/x", "a/1/y/z", "a/10/x"]
    assert paths(store, "a/1/x") == []


def test_neighbours_are_not_ours(store: RunStore, request: pytest.FixtureRequest) -> None:
    neighbour_uri = store.uri + "-other"
    neighbour = open_store(neighbour_uri, _settings_of(request))
    neighbour.create("run.json", b"theirs")
    assert store.create("run.json", b"ours")
    assert paths(store) == ["run.json"]
    assert neighbour.read("run.json") == b"theirs"


def test_odd_names(store: RunStore) -> None:
    for name in ODD_NAMES:
        assert store.create(name, name.encode())
        assert not store.create(name, b"other")
        assert paths(store, name.split("/")[0]) == [name]
        assert store.exists(name)
        assert store.read(name) == name.encode()
        with store.open(name) as file:
            assert file.read() == name.encode()
    assert paths(store) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        store.delete(name)
    assert paths(store) == []


IMPOSSIBLE_NAMES = (
    *("", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\0b"),
    *("a\\b", "\ud800", "z" * 256, ".sam3lt-tmp-1/x"),
)


def test_impossible_names_are_refused(store: RunStore) -> None:
    operations: list[Callable[[str], object]] = [
        lambda path: store.create(path, b""),
        lambda path: store.replace(path, b""),
        store.read,
        store.open,
        store.exists,
        store.delete,
        store.location,
    ]
    for path in IMPOSSIBLE_NAMES:
        for operation in operations:
            with pytest.raises(StorageError, match="cannot be the name of a file in a run directory"):
                operation(path)
    for prefix in ("..", "/", "/etc", "a//b", "a/../.."):
        with pytest.raises(StorageError, match="cannot be the name"):
            list(store.list(prefix))
    assert paths(store) == []


def test_pickled_store_works(store: RunStore) -> None:
    store.create("a", b"1")
    again: RunStore = pickle.loads(pickle.dumps(store))
    assert again.uri == store.uri
    assert not again.create("a", b"2")
    assert again.create("b", b"2")
    assert paths(store) == ["a", "b"]


def test_pickles_and_texts_hold_no_credentials(store: RunStore) -> None:
    store.create("a", b"1")
    for text in (pickle.dumps(store), repr(store).encode(), store.location("a").encode()):
        assert SECRET_ACCESS_KEY.encode() not in text
        assert ACCESS_KEY_ID.encode() not in text


def test_a_big_file(store: RunStore) -> None:
    body = os.urandom(1 << 20) * 60
    assert store.create("labels/big.parquet", body)
    assert not store.create("labels/big.parquet", b"small")
    assert store.read("labels/big.parquet") == body
    assert [file.size_bytes for file in store.list("labels")] == [len(body)]


def test_probe_finds_the_promise_kept(store: RunStore) -> None:
    assert probe_conditional_put(store)
    assert paths(store) == []


def test_uri_and_location(store: RunStore) -> None:
    assert not store.uri.endswith("/")
    assert store.location("labels/a") == f"{store.uri}/labels/a"


def test_a_bucket_can_be_the_run_directory(moto_bucket: S3Bucket) -> None:
    store = open_store(moto_bucket.uri(), moto_bucket.storage())
    assert store.create("run.json", b"{}")
    assert store.location("run.json") == f"s3://{moto_bucket.name}/run.json"
    assert paths(store) == moto_bucket.keys() == ["run.json"]


def test_listing_over_several_pages(seaweed_bucket: S3Bucket) -> None:
    names = [f"labels/{shard}/{unit:04}" for shard in ("a", "a-b", "a.b") for unit in range(350)]
    store = open_store(seaweed_bucket.uri("run"), seaweed_bucket.storage())
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda name: store.create(name, b"x"), names))
    assert paths(store) == sorted(names)
    assert len(paths(store, "labels/a")) == 350
