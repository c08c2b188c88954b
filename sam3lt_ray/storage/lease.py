"""The lease: keeps a second driver from spending device time on a run that another one is working on.

It saves money, not correctness: two drivers on one run produce the same files under the same names and the store lets
one writer of a name win. So the lease may be simple. Each holder creates ``lease/<term>.json`` with a conditional put,
which has one winner per term, and renews it by overwriting its own file. Whoever finds a later term has lost.

A holder that died is recognised without comparing clocks: its file does not change while the newcomer watches it for
one lease duration. Where both see the same processes (machine, boot and pid namespace), a missing process is proof at
once. Containers may share their host's name and boot without seeing each other's processes.

A holder that only slept (a suspended machine, a stopped process) wakes up with its work half done. Label files it may
still put: the store lets nobody win twice. Before anything else that it writes it calls :meth:`Lease.confirm`, which
asks the store whenever the last renewal is so long ago that somebody else may have come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from sam3lt_ray.errors import RetryableRunError, RunTakenOverError, Sam3ltError
from sam3lt_ray.storage.lease_record import (
    LeaseRecord,
    decode_record,
    encode_record,
    is_dead_neighbour,
    is_visible,
    own_record,
)
from sam3lt_ray.storage.store import RunStore

LEASE_DURATION_S: Final = 60.0
_PREFIX: Final = "lease"
_STALE_S: Final = 900.0  # renewed longer ago than this by any clock of this century: no need to watch it
_KEPT_TERMS: Final = 2
_RENEWAL_ENDS_WITHIN_S: Final = 3.0


class Clock(Protocol):
    """Where a lease gets its time from; tests have one that stands still."""

    def time(self) -> float:
        """Seconds since 1970."""
        ...

    def elapsed(self) -> float:
        """Seconds since some moment; never goes back, and goes on while the process or the machine sleeps."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class _SystemClock:
    def time(self) -> float:
        return time.time()

    def elapsed(self) -> float:
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Lease:
    """Holds a run while in use; a context manager.

    Args:
        store: The run directory.
        duration_s: A holder that renews nothing for this long may be succeeded.
        clock: Where the time comes from.
        renews_itself: In a thread, four times in a duration; else whoever holds it calls :meth:`renew`.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        duration_s: float = LEASE_DURATION_S,
        clock: Clock | None = None,
        renews_itself: bool = True,
    ) -> None:
        self._store = store
        self._duration_s = duration_s
        self._clock = clock if clock is not None else _SystemClock()
        self._renews_itself = renews_itself
        self._term = 0
        self._record = own_record(self._clock.time())
        self._renewed_at = self._clock.elapsed()
        self._is_held = False
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._renewer: threading.Thread | None = None

    @property
    def holder(self) -> str:
        """Tells this holder from all others that ever were."""
        return self._record.holder

    @property
    def is_first(self) -> bool:
        """Nobody else, as far as the run directory remembers, has worked in it before."""
        return self._term == 1

    @property
    def lost(self) -> bool:
        """Somebody else was seen to have taken the run over."""
        return self._lost.is_set()

    def acquire(self, notify: Callable[[str], None] = lambda _: None) -> None:
        """Take the run, waiting at most one lease duration for a holder that may be dead.

        Args:
            notify: Receives a sentence when there is something to wait for, and when a holder never gave the run back.

        Raises:
            RetryableRunError: A living process holds the run.
        """
        current = self._latest()
        if current is not None and not self._may_take(*current, notify=notify):
            raise _held_by(current[1])
        self._term = (current[0] if current else 0) + 1
        self._renewed_at = self._clock.elapsed()
        if not self._store.create(_path(self._term), encode_record(self._record, renewed_at=self._clock.time())):
            winner = self._latest()  # perhaps ourselves: the answer to our own request may have been lost
            if winner is None or winner[1].holder != self._record.holder:
                raise _held_by(winner[1] if winner else self._record)
        if current is not None and not current[1].released:
            why = "it was killed, ran out of memory, or its machine is lost or silent. What it committed is kept"
            notify(f"The run was not given back by {current[1].describe()}: {why}.")
        self._is_held = True
        self._remove_old_terms()
        if self._renews_itself:
            self._renewer = threading.Thread(target=self._renew_forever, name="sam3lt-lease", daemon=True)
            self._renewer.start()

    def renew(self) -> None:
        """Say that the holder lives, and look whether it still is the holder.

        Raises:
            InputError: The run directory may no longer be written.
            StorageError: Storage does not answer.
        """
        started_at = self._clock.elapsed()
        self._store.replace(_path(self._term), encode_record(self._record, renewed_at=self._clock.time()))
        latest = self._latest()
        if latest is not None and latest[0] > self._term:
            self._lost.set()
        else:
            self._renewed_at = started_at

    def confirm(self) -> None:
        """Return if this process still holds the run; asks the store only when the last renewal is too long ago.

        Raises:
            RunTakenOverError: Somebody else has it.
            InputError: The store had to be asked, and may no longer be written.
            StorageError: The store had to be asked and does not answer.
        """
        if not self.lost and self._clock.elapsed() - self._renewed_at >= self._duration_s:
            self.renew()
        if self.lost:
            raise RunTakenOverError(
                "Another process took this run over while this one was not responding. Its work goes on; this one "
                "stops. What both have committed is the same."
            )

    def release(self) -> None:
        """Give the run back, if it is held. Never raises: a lease that cannot be released expires."""
        self._stop.set()
        if self._renewer is not None:
            # Storage may keep it waiting for minutes, and who releases may have seconds.
            self._renewer.join(timeout=_RENEWAL_ENDS_WITHIN_S)
        if self._is_held and not self.lost:
            try:
                self._store.replace(_path(self._term), encode_record(self._record, released=True))
            except (OSError, Sam3ltError):
                # On a full disk nothing can be written, but things can be removed.
                with suppress(OSError, Sam3ltError):
                    self._store.delete(_path(self._term))

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _may_take(self, term: int, record: LeaseRecord, *, notify: Callable[[str], None]) -> bool:
        if record.released or is_dead_neighbour(record) or self._clock.time() - record.renewed_at > _STALE_S:
            return True
        if is_visible(record):
            return False  # a living process: watching it would not change that
        notify(f"The run is held by {record.describe()}. Waiting {self._duration_s:.0f} s to see whether it is alive.")
        deadline = self._clock.elapsed() + self._duration_s
        while self._clock.elapsed() < deadline:
            self._clock.sleep(min(1.0, self._duration_s / 10))
            seen = self._latest()
            if seen is None or seen != (term, record):
                return seen is None or seen[1].released
        return True

    def _renew_forever(self) -> None:
        while not self.lost and not self._stop.wait(self._duration_s / 4):
            try:
                self.renew()
            except (OSError, Sam3ltError):
                continue  # storage is away for a moment; the next round tries again

    def _latest(self) -> tuple[int, LeaseRecord] | None:
        found = latest_lease(self._store)
        return None if found is None else found[:2]

    def _remove_old_terms(self) -> None:
        for stored in self._store.list(_PREFIX):
            term = _term_of(stored.path)
            if term is not None and term <= self._term - _KEPT_TERMS:
                self._store.delete(stored.path)


def latest_lease(store: RunStore) -> tuple[int, LeaseRecord, float] | None:
    """The newest term, its record, and when that was written by the store's clock."""
    for stored in reversed(list(store.list(_PREFIX))):
        term = _term_of(stored.path)
        if term is None:
            continue
        try:
            return term, decode_record(store.read(stored.path)), stored.modified_s
        except FileNotFoundError:
            continue
    return None


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
