"""The store on S3: how many requests it makes, what it survives of servers and lines, and whom they let in."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable

import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import InputError, Sam3ltError, StorageError
from sam3lt_ray.storage import s3_filesystem
from sam3lt_ray.storage.filesystem import open_filesystem
from sam3lt_ray.storage.store import RunStore, open_store, probe_conditional_put
from tests.servers.faults import Fault, FaultAction
from tests.servers.moto_s3 import MotoS3
from tests.servers.s3_server import ACCESS_KEY_ID, S3Bucket


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
