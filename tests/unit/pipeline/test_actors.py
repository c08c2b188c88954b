"""A segment actor that labels two units side by side, as it does on a GPU; and the dog that watches them."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import StorageError, StorageUnavailableError
from sam3lt_ray.labels.rows import Provenance
from sam3lt_ray.pipeline import actors
from sam3lt_ray.pipeline.actors import CommitTask, LabelJob, SegmentActor, Watchdog, outcomes
from sam3lt_ray.pipeline.pass_guard import PassGuard
from sam3lt_ray.pipeline.pass_marker import marked_pass
from sam3lt_ray.records import EncodedImage, Unit, UnitRange
from sam3lt_ray.stages.careful import MAX_DEATHS
from sam3lt_ray.stages.label import Engine
from sam3lt_ray.stages.unit_table import unit_to_table
from sam3lt_ray.storage.local_store import LocalStore
from sam3lt_ray.vocabulary.labels import Label, Vocabulary
from tests.standin import BREAKER_RED, PoisonedEngine, StandInEngine, plain_image

VOCABULARY = Vocabulary((Label(1, "cat", ("cat",)), Label(2, "dog", ("dog",))), "test")


MakeActor = Callable[..., SegmentActor]


@pytest.fixture
def make_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeActor]:
    monkeypatch.setattr(actors, "_ASK_EVERY_S", 1e9)  # its dog lives on: it would end this process after the pass
    store = LocalStore(str(tmp_path / "run"), StorageSettings())
    with marked_pass(store) as pass_id:

        def make(
            load_engine: Callable[[], Engine] = lambda: StandInEngine(2, seconds_per_image=0.002), careful: bool = False
        ) -> SegmentActor:
            return SegmentActor(
                LabelJob(
                    load_engine=load_engine,
                    vocabulary=VOCABULARY,
                    provenance=Provenance("f" * 64, {}, ((1, "cat"), (2, "dog"))),
                    store=store,
                    merge_iou=0.7,
                    max_pixels=10_000,
                    decode_threads=2,
                    loose_files=False,
                    careful=careful,
                    image_timeout_s=60.0,
                    pass_id=pass_id,
                    driver_id="a driver",
                )
            )

        yield make


@pytest.fixture
def actor(make_actor: MakeActor) -> SegmentActor:
    return make_actor()


def unit_table(shard: str, first: int, count: int) -> pa.Table:
    images = [EncodedImage(i, f"{i}.png", plain_image((i, 9, first % 250))) for i in range(first, first + count)]
    return unit_to_table(Unit(shard, UnitRange(first, count, is_last=False), tuple(images), path=f"{shard}/{first}"))


def test_units_labeled_side_by_side_are_those_labeled_alone(actor: SegmentActor) -> None:
    tables = [unit_table("s.tar", 11 * number, 11) for number in range(6)]
    alone = [actor(table).to_pylist()[0] for table in tables]
    with ThreadPoolExecutor(2) as pool:
        together = [table.to_pylist()[0] for table in pool.map(actor, tables)]
    assert [row["path"] for row in together] == [row["path"] for row in alone]
    assert [row["file"] for row in together] == [row["file"] for row in alone]
    assert len({row["file"] for row in alone}) == len(tables)


@pytest.mark.parametrize(
    ("error", "passes"), [(StorageError("The disk is full."), False), (StorageUnavailableError("It is away."), True)]
)
def test_labels_that_cannot_be_stored_are_told_to_the_driver(
    actor: SegmentActor, tmp_path: Path, error: StorageError, passes: bool
) -> None:
    def refuse(path: str, data: bytes) -> bool:
        if path.endswith("/11"):
            raise error
        return True

    labeled = [actor(unit_table("s.tar", first, 11)) for first in (0, 11, 22)]
    guard = PassGuard(LocalStore(str(tmp_path), StorageSettings()), "a pass", ask_every_s=3600.0)
    task = CommitTask(refuse, guard)  # type: ignore[arg-type]
    found = [outcome for table in labeled for outcome in outcomes(task(table))]
    assert [outcome.created for outcome in found] == [True, False, True]
    assert [outcome.failure for outcome in found] == [None, error.message, None]
    assert [outcome.failure_passes for outcome in found] == [False, passes, False]


@pytest.fixture
def endings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Reasons for which the process would have been ended; the dog goes to sleep after one."""
    reasons: list[str] = []

    def end(reason: str) -> None:
        reasons.append(reason)
        threading.Event().wait()

    monkeypatch.setattr(actors, "end_process", end)
    return reasons


def wait_for(condition: list[str], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition and time.monotonic() < until:
        time.sleep(0.01)


class _Ended(BaseException):
    """Stands for the end of the process: nothing after it runs."""


def test_a_broken_device_ends_the_process_and_only_its_image_is_lost(
    make_actor: MakeActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []

    def end(reason: str) -> None:
        reasons.append(reason)
        raise _Ended

    monkeypatch.setattr(actors, "end_process", end)
    images = [EncodedImage(i, f"{i}.png", plain_image((BREAKER_RED if i == 6 else i, 9, 9))) for i in range(11)]
    table = unit_to_table(Unit("s.tar", UnitRange(0, 11, is_last=False), tuple(images), path="labels/000/s/0.parquet"))
    with pytest.raises(_Ended):
        make_actor(lambda: PoisonedEngine(2))(table)
    for _ in range(MAX_DEATHS):  # each in a process of its own, with the image before them
        with pytest.raises(_Ended):
            make_actor(lambda: PoisonedEngine(2), careful=True)(table)
    (row,) = make_actor(lambda: PoisonedEngine(2), careful=True)(table).to_pylist()
    kinds = pq.read_table(io.BytesIO(row["file"]))["error_kind"].to_pylist()
    assert kinds == ["worker_died" if i == 6 else None for i in range(11)]
    assert len(reasons) == 1 + MAX_DEATHS
    assert all("illegal memory access" in reason for reason in reasons)


def test_a_unit_that_hangs_is_seen_although_its_neighbour_goes_on(endings: list[str]) -> None:
    dog = Watchdog(0.2, lambda: True)
    with dog.watching(), dog.watching() as feed_other:
        until = time.monotonic() + 10
        while not endings and time.monotonic() < until:
            feed_other()
            time.sleep(0.01)
    assert endings == ["no image was finished for 0.2 s"]


def test_units_that_are_fed_or_over_are_left_alone(endings: list[str]) -> None:
    dog = Watchdog(0.4, lambda: True)
    with dog.watching() as feed:
        for _ in range(12):
            with dog.watching():
                pass
            feed()
            time.sleep(0.05)
    time.sleep(0.5)
    assert endings == []


def test_an_actor_nobody_wants_ends_itself_between_units(endings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "_ASK_EVERY_S", 0.05)
    dog = Watchdog(0.2, lambda: False)
    with dog.watching() as feed:
        for _ in range(10):
            feed()
            time.sleep(0.02)
        assert endings == []
    wait_for(endings)
    assert endings == ["the pass is over"]
