"""One holder at a time; a dead one is recognised; a sleeper notices that it lost."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import RetryableRunError, RunTakenOverError, StorageError
from sam3lt_ray.storage import lease as lease_module
from sam3lt_ray.storage.lease import Lease, latest_lease
from sam3lt_ray.storage.lease_record import LeaseRecord, is_dead_neighbour, own_record
from sam3lt_ray.storage.store import RunStore, open_store
from tests.clocks import SteppedClock


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return open_store(str(tmp_path), StorageSettings())


def _as_other_machine(store: RunStore, **changes: object) -> None:
    """Rewrite the newest lease as if another machine had written it."""
    newest = sorted(item.path for item in store.list("lease"))[-1]
    record = json.loads(store.read(newest)) | {"host": "elsewhere", "boot_id": "other"} | changes
    store.replace(newest, json.dumps(record).encode())


def test_second_driver_is_refused_and_told_who_holds_it(store: RunStore) -> None:
    with Lease(store) as first:
        first.acquire()
        with pytest.raises(RetryableRunError, match=rf"process {os.getpid()} on .* since \d{{4}}-"):
            Lease(store).acquire()


def test_released_lease_is_free_at_once(store: RunStore) -> None:
    with Lease(store) as first:
        first.acquire()
    told: list[str] = []
    with Lease(store) as second:
        second.acquire(told.append)
        assert not second.lost
    assert told == []


def test_killed_holder_of_this_machine_is_succeeded_at_once(tmp_path: Path, store: RunStore) -> None:
    script = (
        "import os, signal\n"
        "from sam3lt_ray.config.schema import StorageSettings\n"
        "from sam3lt_ray.storage.lease import Lease\n"
        "from sam3lt_ray.storage.store import open_store\n"
        f"Lease(open_store({str(tmp_path)!r}, StorageSettings())).acquire()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert any(True for _ in store.list("lease"))
    told: list[str] = []
    with Lease(store) as successor:
        successor.acquire(told.append)
    assert [text for text in told if "Waiting" in text] == []
    assert "was not given back by" in told[0]


def _edited(store: RunStore, **changes: object) -> LeaseRecord:
    """Rewrite the newest lease; None removes a field."""
    newest = sorted(item.path for item in store.list("lease"))[-1]
    record = json.loads(store.read(newest)) | changes
    record = {name: value for name, value in record.items() if value is not None}
    store.replace(newest, json.dumps(record).encode())
    found = latest_lease(store)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("pid_namespace", ["pid:[1]", "", None], ids=["another", "not told", "0.1.0"])
def test_who_cannot_see_the_holders_process_watches_its_lease(store: RunStore, pid_namespace: str | None) -> None:
    holder = Lease(store, duration_s=1000, renews_itself=False)
    holder.acquire()
    # Two containers with one name: this process has no such number, or has another process under it.
    record = _edited(store, pid=2**22 + 1, pid_namespace=pid_namespace)
    assert not is_dead_neighbour(record)
    clock = SteppedClock()
    clock.now_s = record.renewed_at
    clock.on_sleep = lambda: _edited(store, renewed_at=clock.now_s) and None
    told: list[str] = []
    with pytest.raises(RetryableRunError, match=f"process {record.pid}"):
        Lease(store, duration_s=60, clock=clock, renews_itself=False).acquire(told.append)
    assert "Waiting 60 s" in told[0]


def test_a_missing_process_of_the_same_table_is_proof(store: RunStore) -> None:
    Lease(store, duration_s=1000, renews_itself=False).acquire()
    assert is_dead_neighbour(_edited(store, pid=2**22 + 1))


def _can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not _can_unshare(), reason="needs root and unshare")
def test_a_living_holder_in_another_container_of_this_host_keeps_the_run(tmp_path: Path, store: RunStore) -> None:
    script = (
        "import sys\n"
        "from sam3lt_ray.config.schema import StorageSettings\n"
        "from sam3lt_ray.storage.lease import Lease\n"
        "from sam3lt_ray.storage.store import open_store\n"
        f"Lease(open_store({str(tmp_path)!r}, StorageSettings()), duration_s=0.4).acquire()\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RetryableRunError, match="is being worked on"):
            Lease(store, duration_s=60).acquire()


@pytest.mark.parametrize("sees_the_holder", [True, False], ids=["refused at once", "loses the race"])
def test_who_was_refused_gives_nothing_back(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, sees_the_holder: bool
) -> None:
    Lease(store, renews_itself=False).acquire()
    before = {item.path: store.read(item.path) for item in store.list("lease")}
    seen = [] if sees_the_holder else [None]  # it has looked before the holder came
    monkeypatch.setattr(lease_module, "latest_lease", lambda store: seen.pop() if seen else latest_lease(store))
    with pytest.raises(RetryableRunError, match="is being worked on"), Lease(store, renews_itself=False) as late:
        late.acquire()
    assert {item.path: store.read(item.path) for item in store.list("lease")} == before


def test_silent_holder_elsewhere_is_succeeded_after_a_lease_duration(store: RunStore) -> None:
    Lease(store, duration_s=1000).acquire()
    _as_other_machine(store)
    waited: list[str] = []
    with Lease(store, duration_s=0.4) as successor:
        successor.acquire(waited.append)
    assert "is held by" in waited[0]
    assert "was not given back by" in waited[1]
    assert "on elsewhere since" in waited[1]


def test_living_holder_elsewhere_keeps_the_run(store: RunStore) -> None:
    Lease(store, duration_s=1000).acquire()
    _as_other_machine(store)
    renewed_at = time.time()
    renewal = threading.Timer(0.3, lambda: _as_other_machine(store, renewed_at=renewed_at + 1))
    renewal.start()
    with pytest.raises(RetryableRunError, match="elsewhere"):
        Lease(store, duration_s=5).acquire()
    renewal.join()


def test_long_stale_holder_is_not_waited_for(store: RunStore) -> None:
    Lease(store, duration_s=1000).acquire()
    _as_other_machine(store, renewed_at=time.time() - 3600)
    waited: list[str] = []
    with Lease(store, duration_s=1000) as successor:
        successor.acquire(waited.append)
    assert [text for text in waited if "Waiting" in text] == []


def test_sleeper_notices_its_successor(store: RunStore) -> None:
    sleeper = Lease(store, duration_s=0.4)
    sleeper.acquire()
    record = dataclasses.asdict(own_record(time.time()))
    assert store.create("lease/00000002.json", json.dumps(record).encode())
    deadline = time.monotonic() + 20
    while not sleeper.lost and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sleeper.lost
    sleeper.release()
    assert json.loads(store.read("lease/00000002.json"))["released"] is False


def test_a_sleeper_asks_before_it_writes_anything(store: RunStore) -> None:
    clock = SteppedClock()
    sleeper = Lease(store, duration_s=60, clock=clock, renews_itself=False)
    sleeper.acquire()
    clock.sleep(59)
    sleeper.confirm()
    _as_other_machine(store)  # so that the successor has to wait for it
    successor = Lease(store, duration_s=60, clock=clock, renews_itself=False)
    successor.acquire()
    with pytest.raises(RunTakenOverError, match="took this run over"):
        sleeper.confirm()
    assert sleeper.lost
    successor.confirm()


def test_a_sleeper_whom_nobody_succeeded_goes_on(store: RunStore) -> None:
    clock = SteppedClock()
    sleeper = Lease(store, duration_s=60, clock=clock, renews_itself=False)
    sleeper.acquire()
    clock.sleep(3600)
    sleeper.confirm()
    with pytest.raises(RetryableRunError, match="is being worked on"):
        Lease(store, duration_s=60, clock=clock, renews_itself=False).acquire()


def test_a_holder_that_renews_in_time_asks_nobody(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SteppedClock()
    holder = Lease(store, duration_s=60, clock=clock, renews_itself=False)
    holder.acquire()
    for _ in range(5):
        clock.sleep(50)
        holder.renew()
    monkeypatch.setattr(type(store), "list", None)
    holder.confirm()


def test_one_of_many_starters_wins(store: RunStore) -> None:
    results: list[bool] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        lease = Lease(store, duration_s=1000)
        barrier.wait()
        try:
            lease.acquire()
        except RetryableRunError:
            results.append(False)
        else:
            results.append(True)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]


def test_a_lease_is_given_back_on_a_full_disk(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, data: bytes) -> None:
        raise StorageError("The disk is full.")

    first = Lease(store)
    first.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(store, "replace", full)
        first.release()
    with Lease(store) as second:
        second.acquire()


def test_giving_back_does_not_wait_for_a_renewal_that_hangs(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, released = threading.Event(), threading.Event()
    replace = store.replace

    def replace_or_hang(path: str, data: bytes) -> None:
        if threading.current_thread().name == "sam3lt-lease":
            hangs.set()
            assert released.wait(60)
        replace(path, data)

    monkeypatch.setattr(store, "replace", replace_or_hang)
    monkeypatch.setattr(lease_module, "_RENEWAL_ENDS_WITHIN_S", 0.01)
    lease = Lease(store, duration_s=0.04)
    lease.acquire()
    assert hangs.wait(60)
    lease._duration_s = 1000.0  # how long it was waited for
    lease.release()
    assert json.loads(store.read("lease/00000001.json"))["released"] is True
    released.set()
