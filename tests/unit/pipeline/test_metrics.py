"""What is counted while a run goes on; that Prometheus sees it is tested with a real run."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from sam3lt_ray.labels.images_ahead import ImagesAhead
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.pipeline import metrics
from sam3lt_ray.pipeline.actor_plan import ActorResources
from sam3lt_ray.pipeline.actors import UnitOutcome
from sam3lt_ray.pipeline.metrics import BusyShare, RunMetrics
from sam3lt_ray.pipeline.open_shards import OpenShards
from sam3lt_ray.records import Shard, UnitRange
from sam3lt_ray.stages.label import LabelTimings
from sam3lt_ray.stages.read import ShardWork
from sam3lt_ray.storage.ledger import unit_path


def _outcome(shard: str, first: int, count: int, *, is_last: bool = False, layer: str = "000") -> UnitOutcome:
    path = unit_path(layer, shard, UnitRange(first, count, is_last))
    timings = LabelTimings({"prompts": 1.0}, 0.0, 2.0)
    return UnitOutcome(shard, path, True, None, False, UnitCounts(), 1, timings, 1, "actor", "10.0.0.1", "10.0.0.2")


class _Told:
    """A gauge or counter of Ray's that keeps what it is told."""

    values: ClassVar[dict[tuple[str, str], float]] = {}
    times: ClassVar[Counter[tuple[str, str]]] = Counter()
    is_set = threading.Condition()

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name = name

    def set_default_tags(self, tags: dict[str, str]) -> None:
        pass

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        with self.is_set:
            key = self.name, "".join((tags or {}).values())
            self.values[key] = value
            self.times[key] += 1
            self.is_set.notify_all()

    inc = set


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> type[_Told]:
    monkeypatch.setattr(metrics, "prometheus", SimpleNamespace(Gauge=_Told, Counter=_Told))
    _Told.values.clear()
    _Told.times.clear()
    return _Told


def _run_metrics(**options: Any) -> RunMetrics:
    work = [ShardWork(Shard("a.tar", "a.tar"), "000", gaps=((0, None),))]
    return RunMetrics("run", {}, OpenShards(work, 3, ImagesAhead()), **options)


def test_gauges_are_set_again_and_again_while_no_unit_comes(told: type[_Told]) -> None:
    run = _run_metrics(gauge_interval_s=0.001)
    open_shards, final_shards, busy = (
        ("sam3lt_shards", "open"),
        ("sam3lt_shards", "final"),
        ("sam3lt_gpu_busy_fraction", ""),
    )
    try:
        with told.is_set:
            assert told.is_set.wait_for(lambda: told.times[open_shards] > 3, timeout=60)
            assert busy not in told.times  # nothing is known of the devices yet
        share = run.add(_outcome("a.tar", 0, 5, is_last=True))
        assert share is not None
        with told.is_set:
            seen = told.times.copy()
            assert told.is_set.wait_for(
                lambda: all(told.times[gauge] > seen[gauge] + 3 for gauge in (open_shards, final_shards, busy)),
                timeout=60,
            )
            assert (told.values[open_shards], told.values[final_shards]) == (0, 3)
    finally:
        run.close()
    assert "sam3lt-gauges" not in {thread.name for thread in threading.enumerate()}


def test_what_happens_is_shown_at_once_and_counted_once(told: type[_Told]) -> None:
    run = _run_metrics(gauge_interval_s=3600.0)
    run.add(_outcome("a.tar", 0, 5, is_last=True))
    run.close()
    assert told.values["sam3lt_shards", "final"] == 3
    assert (told.values["sam3lt_part_seconds", "prompts"], told.times["sam3lt_part_seconds", "prompts"]) == (1.0, 1)


def test_the_share_is_of_the_last_minute_and_of_all_devices() -> None:
    now = [100.0]
    busy = BusyShare(lambda: now[0])
    busy.expect(2)
    assert busy.share() is None
    now[0] = 110.0
    busy.add(20.0, "a")
    assert busy.share() == pytest.approx(1.0)
    now[0] = 120.0
    busy.add(0.0, "b")
    assert busy.share() == pytest.approx(0.5)
    for _ in range(12):
        now[0] += 10.0
        busy.add(5.0, "a")
    assert busy.share() == pytest.approx(0.25)


def test_devices_that_report_seldom_are_not_idle_between_reports() -> None:
    now = [0.0]
    busy = BusyShare(lambda: now[0])
    for _ in range(2):
        now[0] += 300.0
        busy.add(240.0, "a")
        assert busy.share() == pytest.approx(0.8)
    now[0] += 300.0
    assert busy.share() == pytest.approx(0.8)
    now[0] += 30.0  # half a minute more than a unit took so far
    assert busy.share() == pytest.approx(0.4)
    now[0] += 30.0
    assert busy.share() == 0.0


def test_devices_that_join_count_and_those_that_are_gone_do_not() -> None:
    now = [0.0]
    busy = BusyShare(lambda: now[0])
    for device in "abc":
        now[0] += 10.0
        busy.add(10.0, device)
    assert busy.share() == pytest.approx(1 / 3)
    for _ in range(80):
        now[0] += 10.0
        busy.add(10.0, "c")
    assert busy.share() == pytest.approx(1.0)


def test_devices_that_were_planned_and_did_not_come_are_not_idle() -> None:
    now = [0.0]
    busy = BusyShare(lambda: now[0])
    busy.expect(4)
    busy.note_room(0)  # the first one is still to come
    assert busy.share() is None
    for room, share in ((1, 1.0), (2, 0.5), (1, 1.0), (9, 0.25)):
        busy.note_room(room)
        for _ in range(7):
            now[0] += 10.0
            busy.add(10.0, "a")
        assert busy.share() == pytest.approx(share)


def test_a_device_whose_node_is_gone_does_not_count_although_it_has_reported() -> None:
    now = [0.0]
    busy = BusyShare(lambda: now[0])
    busy.expect(2)
    for _ in range(6):
        now[0] += 10.0
        busy.add(10.0, "a")
        busy.add(10.0, "b")
    busy.note_room(1)
    for _ in range(7):
        now[0] += 10.0
        busy.add(5.0, "a")
    assert busy.share() == pytest.approx(0.5)


def test_the_cluster_is_looked_at_while_no_unit_comes(told: type[_Told], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_LOOK_EVERY_S", 0.0)
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}]
    run = _run_metrics(nodes=lambda: nodes, gauge_interval_s=0.001)
    busy = "sam3lt_gpu_busy_fraction", ""
    try:
        run.begin_pass(ActorResources(4, 1.0, 1.0, "cuda", 1, 1), num_there=4)
        share = run.add(replace(_outcome("a.tar", 0, 5), timings=LabelTimings({"prompts": 1e-9}, 0.0, 1e-9)))
        assert share
        with told.is_set:
            assert told.is_set.wait_for(lambda: told.values[busy] > 3 * share, timeout=60)
    finally:
        run.close()
