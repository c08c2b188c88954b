"""The commit protocol under every order of events: drivers that plan, read, commit, sleep, die and come back.

No Ray and no model here, but the product's own preparation, coverage, worklist, reader, committer, lease and store.
What workers still have in their hands may be committed at any later time, also after their driver has died, was
succeeded, or its run was discarded.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sam3lt_ray.config.schema import Config, StorageSettings
from sam3lt_ray.errors import ImageError, RetryableRunError, RunTakenOverError, StorageError
from sam3lt_ray.inputs.listing import list_shards
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.labels.rows import build_rows, encode_unit_file
from sam3lt_ray.pipeline import prepare
from sam3lt_ray.pipeline.prepare import PreparedRun, prepare_run
from sam3lt_ray.pipeline.run_files import apply_policy, present_coverage, write_run_files
from sam3lt_ray.pipeline.worklist import LayerWork, find_missing, plan_gaps
from sam3lt_ray.progress import SilentProgress
from sam3lt_ray.records import EncodedImage, ImageLabels, ReadRange, Unit
from sam3lt_ray.stages.commit import UnitCommitter
from sam3lt_ray.storage import local_store
from sam3lt_ray.storage.layers import Layer, generation_of
from sam3lt_ray.storage.lease import Lease
from sam3lt_ray.storage.ledger import first_edition, parse_unit_path
from sam3lt_ray.storage.local_store import LocalStore
from sam3lt_ray.storage.run_directory import find_run
from sam3lt_ray.storage.snapshot import read_editions
from sam3lt_ray.storage.store_paths import TEMPORARY_PREFIX
from sam3lt_ray.vocabulary.labels import Label
from tests.clocks import SteppedClock
from tests.standin import write_tar

LEASE_S = 60.0
STORAGE = StorageSettings()
Members = Sequence[tuple[str, bytes]]
SHARDS: dict[str, Members] = {
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
LATER: dict[str, Members] = {"later.tar": [("0.png", b"zero"), ("1.png", b"one"), ("2.png", b"two")]}
# What b.tar may become; cut into units otherwise.
CHANGED: tuple[Members, ...] = (
    [(f"{number}.png", b"new %d" % number) for number in range(5)],
    [("1.png", b"x" * 2000), ("2.png", b"")],
)
LABELS = ("cat", "dog", "bird")


@cache
def _tars() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sam3lt-protocol-"))
    for name, members in {**SHARDS, **LATER}.items():
        write_tar(folder / name, members)
    for number, members in enumerate(CHANGED):
        write_tar(folder / "changed" / f"{number}" / "b.tar", members)
    return folder


@cache
def _images(name: str, version: str) -> tuple[EncodedImage, ...]:
    """What a shard of this name and version holds, read as a whole."""
    for path in _tars().rglob(name):
        source = _config(path.parent, path.parent, LABELS).input
        (shard,) = (shard for shard in list_shards(source, STORAGE) if shard.name == name)
        if shard.version == version:
            return tuple(image for unit in read_units(shard, [ReadRange()], source, STORAGE) for image in unit.images)
    raise AssertionError(f"no {name} was ever {version}")


@pytest.fixture(scope="module", autouse=True)
def _files() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # No power fails here, and on a busy disk it would take minutes.
        patch.setattr(local_store.os, "fsync", lambda _: None)
        checkpoint = SimpleNamespace(name="m", revision=None, model_type="m", files={"m": "ab"}, max_tokens=32)
        patch.setattr(prepare, "resolve_checkpoint", lambda *_: checkpoint)
        patch.setattr(prepare, "token_counter", lambda _: nullcontext(lambda _: 1))
        patch.setattr(prepare, "open_store", lambda uri, _: _MortalStore(uri, STORAGE))
        yield
    shutil.rmtree(_tars())
    _tars.cache_clear()
    _images.cache_clear()


def _config(run: Path, shards: Path, vocabulary: Sequence[str]) -> Config:
    return Config.model_validate(
        {
            "run": {"output": str(run), "changed": "relabel"},
            "input": {"format": "webdataset", "uri": str(shards), "images_per_unit": 2},
            "vocabulary": list(vocabulary),
        }
    )


def _presence(image: EncodedImage, label: Label) -> float:
    """What the model says; depends on image and prompts alone."""
    return sum(image.data + "".join(label.prompts).encode()) % 97 / 97


def _unit_file(unit: Unit, layer: Layer, prepared: PreparedRun) -> tuple[str, bytes]:
    def label(image: EncodedImage) -> ImageLabels | ImageError:
        if image.error_kind is not None:
            return ImageError(image.error_kind, image.error_message or "")
        presence = [_presence(image, one) for one in layer.labels]
        return ImageLabels(len(image.data), 7, np.array(presence, np.float32))

    rows = build_rows(unit, [label(image) for image in unit.images], loose_files=False)
    return unit.path, encode_unit_file(unit, rows, prepared.provenance(layer))


class _Death(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


class _MortalStore(LocalStore):
    """Its driver dies before a number of writes has been done."""

    writes_left: int | None = None

    def create(self, path: str, data: bytes) -> bool:
        self._count()
        return super().create(path, data)

    def replace(self, path: str, data: bytes) -> None:
        self._count()
        super().replace(path, data)

    def delete(self, path: str) -> None:
        self._count()
        super().delete(path)

    def _count(self) -> None:
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left < 0:
                raise _Death


class _Driver:
    """What one start of a run does, step by step. Its workers' hands outlive it."""

    def __init__(self, number: int, config: Config, clock: SteppedClock, *, overwrite: bool) -> None:
        self.number = number
        self.awake = True
        self.hands: list[tuple[str, bytes]] = []
        self.overwrite = overwrite
        self.prepared = prepare_run(config, discard_existing=overwrite)
        apply_policy(self.prepared, "overwrite" if overwrite else "resume")
        self.lease = Lease(LocalStore(config.run.output, STORAGE), duration_s=LEASE_S, clock=clock, renews_itself=False)
        # Machines of their own: a neighbour's death would be seen in the process table.
        self.lease._record = dataclasses.replace(self.lease._record, host=f"host-{number}", boot_id=f"{number}")
        self.work: list[LayerWork] = []
        self._reading: list[tuple[Layer, Iterator[Unit]]] = []

    def begin(self, dies_after_writes: int | None) -> None:
        """Take the lease, write the run's files, plan."""
        self.lease.acquire()
        store: Any = self.prepared.store
        store.writes_left = dies_after_writes
        write_run_files(self.prepared, self.lease, SilentProgress(), overwrite=self.overwrite)
        coverage = present_coverage(self.prepared, self.lease)
        self.work = plan_gaps(self.prepared, coverage, find_missing(self.prepared, coverage))
        store.writes_left = None
        self._read_anew()

    def next_pass(self) -> None:
        coverage = self.prepared.coverage()
        self.work = [work for one in self.work if (work := one.remaining(coverage)).shards]
        self._read_anew()

    def _read_anew(self) -> None:
        reader = self.prepared.reader()
        self._reading = [(work.layer, iter(reader(item))) for work in self.work for item in work.shards]

    @property
    def reads(self) -> bool:
        return bool(self._reading)

    def read(self, choice: int) -> tuple[str, bytes] | None:
        if not self._reading:
            return None
        position = choice % len(self._reading)
        layer, units = self._reading[position]
        unit = None
        # The shard has changed since it was listed, or what was committed is discarded.
        with suppress(StorageError, FileNotFoundError):
            unit = next(units, None)
        if unit is None:
            del self._reading[position]
            return None
        self.hands.append(_unit_file(unit, layer, self.prepared))
        return self.hands[-1]


CHOICE = st.integers(0, 5)
# As often as they stand here.
ACTIONS = (
    *("start", "next pass") * 2,
    *("read",) * 5,
    *("commit",) * 5,
    *("die in commit", "kill", "commit late", "sleep or wake", "oversleep", "time passes", "input grows"),
    *("prepare", "die in start", "relabel", "add label", "overwrite"),
)


class CommitProtocol(RuleBasedStateMachine):
    """Three machines at most work on one run directory, each as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="sam3lt-protocol-"))
        (self.folder / "shards").mkdir()
        for name in SHARDS:
            shutil.copy2(_tars() / name, self.folder / "shards" / name)
        self.store = LocalStore(str(self.folder / "run"), STORAGE)
        self.commit = UnitCommitter(self.store)
        self.clock = SteppedClock()
        self.clock.on_sleep = self._renew_all
        self.num_labels = 1
        self.drivers: list[_Driver] = []
        self.prepared: list[_Driver] = []
        self.ghosts: list[tuple[str, bytes]] = []
        self.labeled: dict[str, bytes] = {}
        self.committed: dict[str, bytes] = {}
        self.holder: _Driver | None = None
        self.started = 0

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
        may_start = len(self.drivers) < 3
        if action == "start" and may_start:
            self.start(self.prepared.pop(0) if self.prepared and flag else self.prepare())
        elif action == "prepare" and len(self.prepared) < 2:
            self.prepared.append(self.prepare(overwrite=flag and what == 0))  # it will look no more before it starts
        elif action == "die in start" and may_start:
            self.start(self.prepare(overwrite=flag), dies_after_writes=2 * who + what)
        elif action == "overwrite" and may_start and flag:
            self.start(self.prepare(overwrite=True))
        elif action == "read" and self.drivers:
            self.read(self._driver(who), what)
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
        elif action == "oversleep" and self.holder in awake and may_start:
            self.oversleep(wakes=flag)
        elif action == "time passes":
            self.time_passes((1.0, 14.0, 61.0, 2000.0)[what % 4])
        elif action == "next pass" and awake:
            self.next_pass(awake[who % len(awake)])
        elif action == "input grows" and flag:
            self._copy(_tars() / "later.tar")
        elif action == "relabel":
            self._copy(_tars() / "changed" / f"{what % len(CHANGED)}" / "b.tar")
        elif action == "add label" and flag:
            self.num_labels = min(self.num_labels + 1, len(LABELS))

    def prepare(self, *, overwrite: bool = False) -> _Driver:
        self.started += 1
        config = _config(self.folder / "run", self.folder / "shards", LABELS[: self.num_labels])
        return _Driver(self.started, config, self.clock, overwrite=overwrite)

    def start(self, driver: _Driver, dies_after_writes: int | None = None) -> None:
        holder_works = self.holder in self.drivers and self.holder is not None and self.holder.awake
        if holder_works:
            with pytest.raises(RetryableRunError, match=rf"on host-{self.holder.number} since"):  # type: ignore[union-attr]
                driver.begin(None)
            return
        self.holder = driver
        try:
            driver.begin(dies_after_writes)
        except _Death:
            return
        except RetryableRunError as error:
            if "Another start has just changed" not in error.message:
                raise
            driver.lease.release()  # it was prepared before
            return
        self.drivers.append(driver)

    def read(self, driver: _Driver, choice: int) -> None:
        unit = driver.read(choice)
        if unit is not None:
            path, data = unit
            assert self.labeled.setdefault(path, data) == data, "one name means two contents"

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
        self.start(self.prepare())
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
        driver.next_pass()
        if not driver.work:
            self._check_complete(driver)
            driver.lease.release()
            self._bury(driver)

    def _copy(self, tar: Path) -> None:
        """The input gets a shard, or other content under an old name."""
        temporary = self.folder / "shard"
        shutil.copy2(tar, temporary)
        os.replace(temporary, self.folder / "shards" / tar.name)  # noqa: PTH105

    @invariant()
    def committed_units_are_what_was_labeled_for_as_long_as_they_count(self) -> None:
        now = {item.path: self.store.read(item.path) for item in self.store.list("labels")}
        assert now.items() <= self.labeled.items(), "something was committed that nobody has labeled so"
        gone = self.committed.keys() - now.keys()
        if gone:
            run, editions = find_run(self.store), read_editions(self.store)
            generation = None if run is None else run.get("generation", "")
            for path in gone:
                unit = parse_unit_path(path)
                assert unit is not None
                first = first_edition(unit.shard_dir)
                is_present = editions.get(first, first) == unit.shard_dir
                assert not (is_present and generation_of(unit.layer) == generation), "something committed was lost"
        self.committed = now

    def _check_complete(self, driver: _Driver) -> None:
        """What a reader sees are the answers to all that was asked, from the content that the shards had."""
        prepared = driver.prepared
        expected = {
            (shard.name, image.index): image
            for shard in prepared.shards
            for image in _images(shard.name, shard.version or "")
        }
        found = {(image.shard, image.index): image for image in RunReader(self.store).iter_images()}
        assert found.keys() == expected.keys()
        for place, image in expected.items():
            seen = found[place]
            assert (seen.key, seen.error_kind) == (image.key, image.error_kind)
            if image.error_kind is None:
                answers = {one.id: float(np.float16(_presence(image, one))) for one in prepared.vocabulary.labels}
                assert seen.presence == answers

    def teardown(self) -> None:
        """However it went: one more start makes everything exactly once, and nobody can change it afterwards."""
        for driver in list(self.drivers):
            self._bury(driver)
        self.start(self.prepare())
        driver = self.drivers[-1]
        for _ in range(2):  # the second time nothing is left
            while driver.reads:
                self.read(driver, 0)
            for path, data in driver.hands:
                self.commit(path, data)
            self.ghosts += driver.hands
            driver.hands = []
            driver.next_pass()
        assert driver.work == []
        self._check_complete(driver)
        self.committed_units_are_what_was_labeled_for_as_long_as_they_count()
        for path, data in self.ghosts:
            self.commit(path, data)
        self.committed_units_are_what_was_labeled_for_as_long_as_they_count()
        self._check_complete(driver)
        shutil.rmtree(self.folder)


TestCommitProtocol = CommitProtocol.TestCase
_EXAMPLES = 500 if settings.get_current_profile_name() == "explore" else 25
TestCommitProtocol.settings = settings(max_examples=_EXAMPLES, stateful_step_count=40, deadline=None)
