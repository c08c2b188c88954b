"""The commit protocol under every order of events: drivers that plan, read, commit, sleep, die and come back.

No Ray and no model here, but the product's own snapshot, ledger, reader, committer, lease and store. What workers still
have in their hands may be committed at any later time, also after their driver has died or was succeeded.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.errors import ImageError, RetryableRunError, RunTakenOverError
from sam3lt_ray.inputs.listing import list_shards
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.labels.rows import Provenance, build_rows, encode_unit_file
from sam3lt_ray.records import EncodedImage, ImageLabels, ReadRange, Shard, Unit
from sam3lt_ray.stages.commit import UnitCommitter
from sam3lt_ray.stages.read import MissingUnitReader, ShardWork
from sam3lt_ray.storage import local_store
from sam3lt_ray.storage.lease import Lease
from sam3lt_ray.storage.ledger import Ledger, shard_directory, unit_path
from sam3lt_ray.storage.local_store import LocalStore
from sam3lt_ray.storage.snapshot import merge_snapshot, read_snapshot, write_snapshot
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.storage.store_paths import TEMPORARY_PREFIX
from tests.clocks import SteppedClock
from tests.standin import write_tar

LAYER = "000"
LEASE_S = 60.0
STORAGE = StorageSettings()
PROVENANCE = Provenance("f" * 64, {}, ((1, "cat"),))
SHARDS = {
    "a.tar": [
        ("0.png", b"zero"),
        ("1.png", b"one"),
        ("2.png", b""),
        ("3.png", b"3"),
        ("1.png", b"again"),
        ("5.png", b"5"),
        ("6.png", b"6"),
        ("7.png", b"seven"),
    ],
    "b.tar": [("0.png", b"zero"), ("0.json", b"{}"), ("1.png", b"one"), ("2.png", b"two")],
    "none.tar": [("readme.txt", b"no images")],
}
LATER = {"later.tar": [("0.png", b"zero"), ("1.png", b"one"), ("2.png", b"two")]}


@cache
def _tars() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sam3lt-protocol-"))
    for name, members in {**SHARDS, **LATER}.items():
        write_tar(folder / name, members)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _files() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # No power fails here, and on a busy disk it would take minutes.
        patch.setattr(local_store.os, "fsync", lambda _: None)
        yield
    shutil.rmtree(_tars())
    _tars.cache_clear()


def _label(image: EncodedImage) -> ImageLabels | ImageError:
    if image.error_kind is not None:
        return ImageError(image.error_kind, image.error_message or "")
    return ImageLabels(len(image.data), 7, np.array([sum(image.data) % 97 / 97], np.float32))


def _unit_file(unit: Unit) -> tuple[str, bytes]:
    rows = build_rows(unit, [_label(image) for image in unit.images], loose_files=False)
    return unit_path(LAYER, unit.shard, unit.range), encode_unit_file(unit, rows, PROVENANCE)


class _Death(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


class _Driver:
    """What one start of a run does, step by step. Its workers' hands outlive it."""

    def __init__(self, number: int, store: RunStore, source: InputSettings, clock: SteppedClock) -> None:
        self.number = number
        self.awake = True
        self.hands: list[tuple[str, bytes]] = []
        self.lease = Lease(store, duration_s=LEASE_S, clock=clock, renews_itself=False)
        # Machines of their own: a neighbour's death would be seen in the process table.
        self.lease._record = dataclasses.replace(self.lease._record, host=f"host-{number}", boot_id=f"{number}")
        self._store = store
        self._source = source
        self._reading: list[Iterator[Unit]] = []
        self.shards: list[Shard] = []

    def begin(self) -> None:
        """Prepare, take the lease, write the snapshot, plan."""
        listed = list_shards(self._source, STORAGE)
        self.lease.acquire()
        merged = merge_snapshot(read_snapshot(self._store), listed)
        self.shards = merged.shards
        if merged.new:
            self.lease.confirm()
            write_snapshot(self._store, self.shards)
        self.plan()

    def plan(self) -> None:
        reader = MissingUnitReader(self._store, self._source, STORAGE)
        self._reading = [reader(work) for work in self.missing()]

    def missing(self) -> list[ShardWork]:
        ledger = Ledger.from_paths(LAYER, (item.path for item in self._store.list("labels")))
        work = []
        for shard in self.shards:
            shard_dir = shard_directory(shard.name)
            gaps, committed = tuple(ledger.gaps(shard_dir)), tuple(ledger.unit_files(shard_dir))
            if gaps:
                before = tuple(file for file in committed if file.range.end <= gaps[-1][0])
                work.append(ShardWork(shard, LAYER, gaps, before))
        return work

    def read(self, choice: int) -> None:
        if not self._reading:
            return
        position = choice % len(self._reading)
        unit = next(self._reading[position], None)
        if unit is None:
            del self._reading[position]
        else:
            self.hands.append(_unit_file(unit))


CHOICE = st.integers(0, 5)
# As often as they stand here.
ACTIONS = (
    *("start", "next pass") * 2,
    *("read",) * 5,
    *("commit",) * 5,
    *("die in commit", "kill", "commit late", "sleep or wake", "oversleep", "time passes", "input grows"),
)


class CommitProtocol(RuleBasedStateMachine):
    """Three machines at most work on one run directory, each as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="sam3lt-protocol-"))
        (self.folder / "shards").mkdir()
        for name in SHARDS:
            shutil.copy2(_tars() / name, self.folder / "shards" / name)
        self.source = InputSettings(format="webdataset", uri=str(self.folder / "shards"), images_per_unit=2)
        self.store = LocalStore(str(self.folder / "run"), STORAGE)
        self.commit = UnitCommitter(self.store)
        self.clock = SteppedClock()
        self.clock.on_sleep = self._renew_all
        self.drivers: list[_Driver] = []
        self.ghosts: list[tuple[str, bytes]] = []
        self.committed: dict[str, bytes] = {}
        self.holder: _Driver | None = None
        self.started = 0
        self.reference = self._reference()

    def _reference(self) -> dict[str, bytes]:
        whole = [ReadRange()]
        shards = list_shards(self.source, STORAGE)
        return dict(_unit_file(unit) for shard in shards for unit in read_units(shard, whole, self.source, STORAGE))

    def _renew_all(self) -> None:
        for driver in self.drivers:
            if driver.awake and not driver.lease.lost:
                driver.lease.renew()

    def _driver(self, choice: int) -> _Driver:
        return self.drivers[choice % len(self.drivers)]

    @rule(action=st.sampled_from(ACTIONS), who=CHOICE, what=CHOICE, flag=st.booleans())
    def step(self, action: str, who: int, what: int, flag: bool) -> None:
        """One event. A single rule, because Hypothesis leaves some of several rules out, and then little happens."""
        busy = [driver for driver in self.drivers if driver.hands]
        awake = [driver for driver in self.drivers if driver.awake]
        if action == "start" and len(self.drivers) < 3:
            self.start()
        elif action == "read" and self.drivers:
            self._driver(who).read(what)
        elif action == "commit" and busy:
            self.commit_unit(busy[who % len(busy)], what, again=flag)
        elif action == "die in commit" and busy:
            self.die_in_commit(busy[who % len(busy)], named=flag)
        elif action == "kill" and self.drivers:
            self._bury(self._driver(who))
        elif action == "commit late" and self.ghosts:
            self.commit(*self.ghosts[what % len(self.ghosts)])  # a worker whose driver is gone
        elif action == "sleep or wake" and self.drivers:
            self._driver(who).awake ^= True
        elif action == "oversleep" and self.holder in awake and len(self.drivers) < 3:
            self.oversleep(wakes=flag)
        elif action == "time passes":
            self.time_passes((1.0, 14.0, 61.0, 2000.0)[what % 4])
        elif action == "next pass" and awake:
            self.next_pass(awake[who % len(awake)])
        elif action == "input grows" and flag:
            self.input_grows()

    def start(self) -> None:
        self.started += 1
        driver = _Driver(self.started, self.store, self.source, self.clock)
        holder_works = self.holder in self.drivers and self.holder is not None and self.holder.awake
        if holder_works:
            with pytest.raises(RetryableRunError, match=rf"on host-{self.holder.number} since"):  # type: ignore[union-attr]
                driver.begin()
            return
        driver.begin()
        self.drivers.append(driver)
        self.holder = driver

    def commit_unit(self, driver: _Driver, what: int, again: bool) -> None:
        """A worker commits; ``again``: and later once more, as a task that Ray repeats would."""
        hands = driver.hands
        path, data = hands[what % len(hands)] if again else hands.pop(what % len(hands))
        existed = self.store.exists(path)
        assert self.commit(path, data) is not existed

    def die_in_commit(self, driver: _Driver, named: bool) -> None:
        """The driver and the worker that commits are killed before or after the file has its name."""
        give_name = local_store._give_name

        def die(temporary: Path, target: Path) -> bool:
            shutil.copy2(temporary, temporary.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"))  # it stays behind
            if named:
                give_name(temporary, target)
            raise _Death

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local_store, "_give_name", die)
            path, data = driver.hands.pop()
            with suppress(_Death):
                self.commit(path, data)
        self._bury(driver)

    def _bury(self, driver: _Driver) -> None:
        self.drivers.remove(driver)
        self.ghosts += driver.hands

    def oversleep(self, wakes: bool) -> None:
        """The driver at work sleeps until another one has taken the run over; it may wake then, and want to write."""
        sleeper = self.holder
        assert sleeper is not None
        sleeper.awake = False
        self.start()
        if wakes:
            sleeper.awake = True
            self.next_pass(sleeper)

    def time_passes(self, seconds: float) -> None:
        while seconds > 0:
            self.clock.sleep(min(seconds, LEASE_S / 4))
            seconds -= LEASE_S / 4

    def next_pass(self, driver: _Driver) -> None:
        """Confirm the lease, look what is missing, and end when nothing is."""
        try:
            driver.lease.confirm()
        except RunTakenOverError:
            assert driver is not self.holder
            self._bury(driver)
            return
        assert driver is self.holder, "a driver that was succeeded goes on writing"
        driver.plan()
        if not driver.missing():
            self._check_complete(driver)
            driver.lease.release()
            self._bury(driver)

    def input_grows(self) -> None:
        for name in LATER:
            if not (self.folder / "shards" / name).exists():
                shutil.copy2(_tars() / name, self.folder / "shards" / name)
        self.reference = self._reference()

    @invariant()
    def committed_units_are_those_of_the_reference_for_ever(self) -> None:
        now = {item.path: self.store.read(item.path) for item in self.store.list("labels")}
        assert self.committed.items() <= now.items(), "something committed was lost or altered"
        assert now.items() <= self.reference.items(), "something was committed that is not the reference's"
        Ledger.from_paths(LAYER, now)  # refuses overlaps
        self.committed = now

    def _check_complete(self, driver: _Driver) -> None:
        known = {shard.name for shard in driver.shards}
        expected = {
            path for path in self.reference if any(path.startswith(f"labels/{LAYER}/{name}-") for name in known)
        }
        assert self.committed.keys() == expected

    def teardown(self) -> None:
        """However it went: one more start makes everything exactly once, and nobody can change it afterwards."""
        for driver in list(self.drivers):
            self._bury(driver)
        self.start()
        driver = self.drivers[-1]
        for _ in range(2):  # the second time nothing is left
            driver.plan()
            while driver._reading:
                driver.read(0)
            for path, data in driver.hands:
                self.commit(path, data)
        self.ghosts += driver.hands
        self.committed_units_are_those_of_the_reference_for_ever()
        assert self.committed == self.reference
        for path, data in self.ghosts:
            assert self.commit(path, data) is False
        self.committed_units_are_those_of_the_reference_for_ever()
        shutil.rmtree(self.folder)


TestCommitProtocol = CommitProtocol.TestCase
_EXAMPLES = 500 if settings.get_current_profile_name() == "explore" else 25
TestCommitProtocol.settings = settings(max_examples=_EXAMPLES, stateful_step_count=40, deadline=None)
