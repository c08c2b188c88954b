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
from sam3lt_ray.errors import InputError, Sam3ltError, StorageError
from sam3lt_ray.storage import s3_filesystem
from sam3lt_ray.storage.filesystem import open_filesystem
from sam3lt_ray.storage.store import RunStore, open_store, probe_conditional_put
from tests.servers.faults import Fault, FaultAction
from tests.servers.moto_s3 import MotoS3
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


@pytest.fixture
def s3_store(moto_bucket: S3Bucket) -> RunStore:
    """A run directory on the server that fails on demand."""
    return open_store(moto_bucket.uri("runs/one"), moto_bucket.storage())


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Wait as often as in production, but not as long; the attempts that were waited for."""
    attempts: list[int] = []

    def short_pause_s(attempt: int) -> float:
        attempts.append(attempt)
        return 0.001

    monkeypatch.setattr(s3_filesystem, "pause_before_retry_s", short_pause_s)
    return attempts


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


def test_a_new_file_is_one_request_whatever_its_size(s3_store: RunStore, moto_s3: MotoS3) -> None:
    # Above s3fs's own limit, from which it would cut bodies into parts.
    body = bytes(110 << 20)
    assert s3_store.create("labels/unit.parquet", body)
    [request] = moto_s3.requests
    assert (request.kind, request.condition, request.bytes_received) == ("PutObject", "*", len(body))


def test_reading_is_one_request(s3_store: RunStore, moto_s3: MotoS3) -> None:
    s3_store.create("a", b"0123456789")
    moto_s3.forget_requests()
    s3_store.read("a")
    assert moto_s3.counts == {"GetObject": 1}
    assert moto_s3.bytes_sent == 10


def test_listing_is_never_remembered(s3_store: RunStore, moto_bucket: S3Bucket) -> None:
    assert paths(s3_store) == []
    moto_bucket.put("runs/one/labels/a", b"x")
    assert paths(s3_store) == ["labels/a"]
    filesystem, folder = open_filesystem(s3_store.uri, moto_bucket.storage())
    assert [name.rpartition("/")[2] for name in filesystem.find(folder)] == ["a"]
    moto_bucket.put("runs/one/labels/b", b"x")
    assert [name.rpartition("/")[2] for name in filesystem.find(folder)] == ["a", "b"]


def test_a_listing_that_is_cut_short_is_asked_for_again(s3_store: RunStore, moto_s3: MotoS3) -> None:
    for name in ("a", "b", "c"):
        s3_store.create(name, b"1")
    moto_s3.spoil(Fault("short_body", 2, "ListObjectsV2"))
    assert paths(s3_store) == ["a", "b", "c"]


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (503, "ServiceUnavailable"), (500, "InternalError")])
def test_bursts_of_errors_are_survived(
    s3_store: RunStore, moto_s3: MotoS3, patience: list[int], status: int, code: str
) -> None:
    operations: list[Callable[[], object]] = [
        lambda: s3_store.create("a", b"123"),
        lambda: s3_store.replace("b", b"1"),
        lambda: s3_store.read("a"),
        lambda: s3_store.open("a").read(),
        lambda: s3_store.exists("a"),
        lambda: paths(s3_store),
        lambda: s3_store.delete("b"),
    ]
    times = 6
    for operation in operations:
        moto_s3.fail_next(times, status=status, code=code)
        operation()
    assert moto_s3.counts.total() >= (times + 1) * len(operations)
    assert paths(s3_store) == ["a"]


def test_broken_connections_are_survived(s3_store: RunStore, moto_s3: MotoS3) -> None:
    moto_s3.refuse_next(3)
    assert s3_store.create("a", bytes(100_000))
    moto_s3.cut_bodies(2)
    assert s3_store.read("a") == bytes(100_000)
    moto_s3.cut_bodies(1)
    with s3_store.open("a") as file:
        assert file.read() == bytes(100_000)


@pytest.mark.parametrize("spoil", ["cut_body", "reset_body", "short_body", "stall_body", "delay", "refuse"])
def test_spoiled_answers_are_asked_for_again_and_not_for_ever(
    moto_bucket: S3Bucket, moto_s3: MotoS3, patience: list[int], spoil: FaultAction
) -> None:
    store = open_store(moto_bucket.uri("runs/one"), moto_bucket.storage(timeout_s=0.5))
    body = os.urandom(100_000)
    assert store.create("a", body)
    for num_bytes, read in (
        (None, store.read),
        (None, lambda path: store.open(path).read()),
        (70_000, lambda path: store.open(path).read(70_000)),
    ):
        moto_s3.spoil(Fault(spoil, 2, "GetObject", delay_s=1.5))
        assert read("a") == body[:num_bytes]
    moto_s3.forget_requests()
    moto_s3.spoil(Fault(spoil, 1000, "GetObject", delay_s=1.5))
    with pytest.raises(StorageError, match="broke again and again"):
        store.read("a")
    # Six times, not six times six. Where a connection that was kept is closed, aiohttp asks once more by itself.
    assert 6 <= moto_s3.counts["GetObject"] <= 14


def test_an_answer_that_trickles_has_an_end(
    moto_bucket: S3Bucket, moto_s3: MotoS3, patience: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_filesystem, "TIMEOUTS_PER_ATTEMPT", 1)
    monkeypatch.setattr(s3_filesystem, "SLOWEST_BYTES_PER_S", 1_000_000)
    store = open_store(moto_bucket.uri("runs/one"), moto_bucket.storage(timeout_s=2.0))
    assert store.create("a", bytes(10_000))
    moto_s3.spoil(Fault("trickle", 1, "GetObject", delay_s=60.0))  # never silent for as long as the timeout
    assert store.read("a") == bytes(10_000)
    assert patience != []


def test_a_server_that_stays_busy_is_given_up(s3_store: RunStore, moto_s3: MotoS3, patience: list[int]) -> None:
    moto_s3.fail_next(1000, status=503, code="ServiceUnavailable")
    with pytest.raises(StorageError, match=r"kept failing .* \(HTTP 503 ServiceUnavailable\)"):
        s3_store.create("a", b"1")
    assert 1 < moto_s3.counts["PutObject"] < 100


def test_conflicts_are_tried_again(s3_store: RunStore, moto_s3: MotoS3, patience: list[int]) -> None:
    moto_s3.fail_next(3, status=409, code="ConditionalRequestConflict", kind="PutObject")
    assert s3_store.create("a", b"ours")
    assert moto_s3.counts["PutObject"] == 4
    moto_s3.fail_next(1, status=409, code="ConditionalRequestConflict", kind="PutObject")
    assert not s3_store.create("a", b"other")
    assert s3_store.read("a") == b"ours"
    moto_s3.fail_next(3, status=409, code="ConditionalRequestConflict", kind="PutObject")
    s3_store.replace("a", b"newer")
    assert s3_store.read("a") == b"newer"


def test_lost_answer_finds_its_own_file(s3_store: RunStore, moto_s3: MotoS3) -> None:
    moto_s3.lose_answers(1, kind="PutObject")
    assert not s3_store.create("labels/unit", b"ours")
    assert s3_store.read("labels/unit") == b"ours"
    assert moto_s3.counts["PutObject"] == 2


def test_probe_finds_servers_that_ignore_conditions(s3_store: RunStore, moto_s3: MotoS3) -> None:
    moto_s3.ignore_conditions()
    assert not probe_conditional_put(s3_store)
    assert paths(s3_store) == []


def test_missing_bucket(moto_s3: MotoS3) -> None:
    store = open_store("s3://no-such-bucket/run", StorageSettings(endpoint_url=moto_s3.endpoint_url))
    operations: list[Callable[[], object]] = [
        lambda: store.create("a", b""),
        lambda: store.replace("a", b""),
        lambda: store.read("a"),
        lambda: paths(store),
        lambda: probe_conditional_put(store),
    ]
    for operation in operations:
        with pytest.raises(InputError, match=r"The bucket of s3://no-such-bucket/run.* does not exist at http"):
            operation()


def test_denied_access(s3_store: RunStore, moto_s3: MotoS3) -> None:
    s3_store.create("a", b"1")
    moto_s3.fail_next(1000, status=403, code="AccessDenied", message=f"no, {ACCESS_KEY_ID}")
    operations: list[Callable[[], object]] = [
        lambda: s3_store.create("b", b""),
        lambda: s3_store.replace("a", b""),
        lambda: s3_store.read("a"),
        lambda: s3_store.open("a"),
        lambda: s3_store.exists("a"),
        lambda: paths(s3_store),
        lambda: s3_store.delete("a"),
    ]
    for operation in operations:
        with pytest.raises(InputError, match="is denied") as caught:
            operation()
        assert "requester_pays" in caught.value.message
        assert ACCESS_KEY_ID not in caught.value.message


def test_wrong_credentials_on_a_real_server(seaweed_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = "planted-secret-that-nobody-may-see"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", planted)
    store = open_store(seaweed_bucket.uri("run"), seaweed_bucket.storage())
    with pytest.raises(InputError, match="does not accept the credentials") as caught:
        store.create("a", b"1")
    assert planted not in str(caught.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "PLANTEDKEYIDENTIFIER")
    other = open_store(seaweed_bucket.uri("run"), seaweed_bucket.storage(region="eu-west-1"))
    with pytest.raises(InputError, match="does not accept the credentials") as caught:
        list(other.list())
    assert "PLANTEDKEYIDENTIFIER" not in str(caught.value)


def test_reader_may_not_write(seaweed_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.servers.seaweed import READ_ONLY_ACCESS_KEY_ID, READ_ONLY_SECRET_ACCESS_KEY

    seaweed_bucket.put("run/a", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READ_ONLY_ACCESS_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READ_ONLY_SECRET_ACCESS_KEY)
    store = open_store(seaweed_bucket.uri("run"), seaweed_bucket.storage())
    assert store.read("a") == b"1"
    assert paths(store) == ["a"]
    with pytest.raises(InputError, match="is denied"):
        store.create("b", b"1")


def test_public_bucket_without_credentials(seaweed_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.servers.seaweed import PUBLIC_BUCKET

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    public = S3Bucket(seaweed_bucket.server, PUBLIC_BUCKET)
    public.put("anonymous/a", b"for all")
    store = open_store(public.uri("anonymous"), public.storage(anonymous=True))
    assert paths(store) == ["a"]
    assert store.read("a") == b"for all"
    closed = open_store(seaweed_bucket.uri(), seaweed_bucket.storage(anonymous=True))
    with pytest.raises(InputError, match=r"set storage\.anonymous to false"):
        closed.read("a")
    with pytest.raises(InputError, match="There are no credentials"):
        open_store(public.uri("anonymous"), public.storage()).read("a")


def test_requester_pays_is_said_with_every_read(moto_bucket: S3Bucket, moto_s3: MotoS3) -> None:
    store = open_store(moto_bucket.uri("run"), moto_bucket.storage(requester_pays=True))
    store.create("a", b"1")
    store.read("a")
    paths(store)
    assert [request.payer for request in moto_s3.requests] == ["requester"] * 3


def test_endpoint_from_the_environment(moto_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_bucket.server.endpoint_url)
    store = open_store(moto_bucket.uri("run"), StorageSettings())
    assert store.create("a", b"1")
    assert moto_bucket.keys() == ["run/a"]


def test_unreachable_server(s3_credentials: None, patience: list[int]) -> None:
    from tests.servers.process import free_ports

    [port] = free_ports(1)
    store = open_store("s3://bucket/run", StorageSettings(endpoint_url=f"http://127.0.0.1:{port}"))
    with pytest.raises(StorageError, match=rf"The server at http://127.0.0.1:{port} cannot be reached"):
        list(store.list())
    assert patience == [0, 1, 2, 3, 4]


def test_unknown_profile(s3_credentials: None) -> None:
    store = open_store("s3://bucket/run", StorageSettings(endpoint_url="http://127.0.0.1:9", profile="nobody"))
    with pytest.raises(InputError, match=r"The profile 'nobody'"):
        list(store.list())


def test_errors_pickle(s3_store: RunStore, moto_s3: MotoS3) -> None:
    moto_s3.fail_next(10, status=403, code="AccessDenied")
    with pytest.raises(Sam3ltError) as caught:
        s3_store.read("a")
    assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message
