"""The lease: keeps a second driver from spending device time on a run that another one is working on.

It saves money, not correctness: two drivers on one run produce the same files under the same names and the store lets
one writer of a name win. So the lease may be simple. Each holder creates ``lease/<term>.json`` with a conditional put,
which has one winner per term, and renews it by overwriting its own file. Whoever finds a later term has lost.

A holder that died is recognised without comparing clocks: its file does not change while the newcomer watches it for
one lease duration. On the machine that the holder ran on, a missing process is proof at once.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sam3lt_ray.errors import RetryableRunError, Sam3ltError
from sam3lt_ray.storage.store import RunStore

LEASE_DURATION_S: Final = 60.0
_PREFIX: Final = "lease"
_STALE_S: Final = 900.0  # renewed longer ago than this by any clock of this century: no need to watch it
_KEPT_TERMS: Final = 2


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What a lease file says about its holder."""

    holder: str
    host: str
    boot_id: str
    pid: int
    process_start: str
    acquired_at: float
    renewed_at: float
    released: bool

    def describe(self) -> str:
        """Who holds the run and since when, for a person."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.acquired_at))
        return f"process {self.pid} on {self.host} since {since}"


class Lease:
    """Holds a run while in use; a context manager."""

    def __init__(self, store: RunStore, *, duration_s: float = LEASE_DURATION_S) -> None:
        self._store = store
        self._duration_s = duration_s
        self._term = 0
        self._record = _own_record()
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._renewer: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """Somebody else took the run over (this process slept longer than the lease lasts)."""
        return self._lost.is_set()

    def acquire(self, notify: Callable[[str], None] = lambda _: None) -> None:
        """Take the run, waiting at most one lease duration for a holder that may be dead.

        Args:
            notify: Receives one sentence when there is something to wait for.

        Raises:
            RetryableRunError: A living process holds the run.
        """
        current = self._latest()
        if current is not None and not self._may_take(*current, notify=notify):
            raise _held_by(current[1])
        self._term = (current[0] if current else 0) + 1
        if not self._store.create(_path(self._term), _encode(self._record)):
            winner = self._latest()  # perhaps ourselves: the answer to our own request may have been lost
            if winner is None or winner[1].holder != self._record.holder:
                raise _held_by(winner[1] if winner else self._record)
        self._remove_old_terms()
        self._renewer = threading.Thread(target=self._renew_forever, name="sam3lt-lease", daemon=True)
        self._renewer.start()

    def release(self) -> None:
        """Give the run back. Never raises: a lease that cannot be released expires."""
        self._stop.set()
        if self._renewer is not None:
            self._renewer.join(timeout=self._duration_s)
        if not self.lost:
            try:
                self._store.replace(_path(self._term), _encode(self._record, released=True))
            except (OSError, Sam3ltError):
                # On a full disk nothing can be written, but things can be removed.
                with suppress(OSError, Sam3ltError):
                    self._store.delete(_path(self._term))

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _may_take(self, term: int, record: LeaseRecord, *, notify: Callable[[str], None]) -> bool:
        if record.released or _is_dead_neighbour(record) or time.time() - record.renewed_at > _STALE_S:
            return True
        if record.host == self._record.host and record.boot_id == self._record.boot_id:
            return False  # a living process of this machine: watching it would not change that
        notify(f"The run is held by {record.describe()}. Waiting {self._duration_s:.0f} s to see whether it is alive.")
        deadline = time.monotonic() + self._duration_s
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._duration_s / 10))
            seen = self._latest()
            if seen is None or seen != (term, record):
                return seen is None or seen[1].released
        return True

    def _renew_forever(self) -> None:
        while not self._stop.wait(self._duration_s / 4):
            try:
                latest = self._latest()
                if latest is not None and latest[0] > self._term:
                    self._lost.set()
                    return
                self._store.replace(_path(self._term), _encode(self._record, renewed_at=time.time()))
            except (OSError, Sam3ltError):
                continue  # storage is away for a moment; the next round tries again

    def _latest(self) -> tuple[int, LeaseRecord] | None:
        for stored in reversed(list(self._store.list(_PREFIX))):
            term = _term_of(stored.path)
            if term is None:
                continue
            try:
                return term, _decode(self._store.read(stored.path))
            except FileNotFoundError:
                continue
        return None

    def _remove_old_terms(self) -> None:
        for stored in self._store.list(_PREFIX):
            term = _term_of(stored.path)
            if term is not None and term <= self._term - _KEPT_TERMS:
                self._store.delete(stored.path)


def _own_record() -> LeaseRecord:
    now = time.time()
    return LeaseRecord(
        holder=uuid.uuid4().hex,
        host=socket.gethostname(),
        boot_id=_boot_id(),
        pid=os.getpid(),
        process_start=_process_start(os.getpid()) or "",
        acquired_at=now,
        renewed_at=now,
        released=False,
    )


def _is_dead_neighbour(record: LeaseRecord) -> bool:
    """The holder ran on this very machine (same boot) and its process is gone, or its number belongs to another one."""
    if not record.boot_id or record.host != socket.gethostname() or record.boot_id != _boot_id():
        return False
    return _process_start(record.pid) != record.process_start


def _boot_id() -> str:
    """Linux tells boots apart; containers share their host's boot but not its process table, hence the host name."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _process_start(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return None  # a zombie holds nothing
    return fields[19]


def _held_by(record: LeaseRecord) -> RetryableRunError:
    return RetryableRunError(
        f"The run is being worked on by {record.describe()} and its lease is renewed. Two drivers on one run would "
        "label everything twice and keep one copy. Wait for it, or stop it; then start this command again."
    )


def _path(term: int) -> str:
    return f"{_PREFIX}/{term:08d}.json"


def _term_of(path: str) -> int | None:
    stem = Path(path).stem
    return int(stem) if stem.isdigit() else None


def _encode(record: LeaseRecord, *, renewed_at: float | None = None, released: bool = False) -> bytes:
    value: dict[str, Any] = {name: getattr(record, name) for name in LeaseRecord.__slots__}
    value["renewed_at"] = record.renewed_at if renewed_at is None else renewed_at
    value["released"] = released
    return json.dumps(value, sort_keys=True).encode()


def _decode(data: bytes) -> LeaseRecord:
    return LeaseRecord(**json.loads(data))
