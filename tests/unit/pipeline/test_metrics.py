"""What is counted while a run goes on; that Prometheus sees it is tested with a real run."""

from __future__ import annotations

import pytest

from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.pipeline.actors import UnitOutcome
from sam3lt_ray.pipeline.metrics import BusyShare, OpenShards
from sam3lt_ray.records import Shard, UnitRange
from sam3lt_ray.stages.label import LabelTimings
from sam3lt_ray.stages.read import ShardWork
from sam3lt_ray.storage.ledger import unit_path


def _outcome(shard: str, first: int, count: int, *, is_last: bool = False, layer: str = "000") -> UnitOutcome:
    path = unit_path(layer, shard, UnitRange(first, count, is_last))
    timings = LabelTimings({"prompts": 1.0}, 0.0, 2.0)
    return UnitOutcome(shard, path, True, None, False, UnitCounts(), 1, timings, 1, "actor", "10.0.0.1", "10.0.0.2")


def test_a_shard_is_final_when_its_last_gap_is_closed_in_whatever_order() -> None:
    work = [
        ShardWork(Shard("a.tar", "a.tar"), "000", gaps=((10, None),)),
        ShardWork(Shard("b.tar", "b.tar"), "000", gaps=((0, None),)),
    ]
    shards = OpenShards(work, num_shards=5)
    assert (shards.num_open, shards.num_final) == (2, 3)
    shards.add(_outcome("a.tar", 20, 5, is_last=True))
    assert shards.num_open == 2  # 10 to 19 are missing
    shards.add(_outcome("a.tar", 10, 10))
    assert (shards.num_open, shards.num_final) == (1, 4)
    shards.add(_outcome("a.tar", 10, 10))  # a second driver's
    shards.add(_outcome("b.tar", 0, 10))
    shards.add(_outcome("b.tar", 0, 10))
    assert shards.num_open == 1
    shards.add(_outcome("b.tar", 10, 0, is_last=True))
    assert (shards.num_open, shards.num_final) == (0, 5)


def test_a_shard_is_open_until_its_last_layer_is_done_and_gaps_may_have_an_end() -> None:
    shard = Shard("a.tar", "a.tar")
    work = [ShardWork(shard, "000", gaps=((10, 20), (30, 40))), ShardWork(shard, "001", gaps=((0, None),))]
    shards = OpenShards(work, num_shards=1)
    for first in (10, 30):
        assert shards.num_open == 1
        shards.add(_outcome("a.tar", first, 10))
    shards.add(_outcome("a.tar", 0, 40, is_last=True, layer="001"))
    assert (shards.num_open, shards.num_final) == (0, 1)


def test_the_share_is_of_the_last_minute_and_of_all_devices() -> None:
    now = [100.0]
    busy = BusyShare(2, lambda: now[0])
    now[0] = 110.0
    assert busy.add(20.0, "a") == pytest.approx(1.0)
    now[0] = 120.0
    assert busy.add(0.0, "b") == pytest.approx(0.5)
    for _ in range(12):
        now[0] += 10.0
        share = busy.add(5.0, "a")
    assert share == pytest.approx(0.25)


def test_devices_that_join_count_and_those_that_are_gone_do_not() -> None:
    now = [0.0]
    busy = BusyShare(1, lambda: now[0])
    for device in "abc":
        now[0] += 10.0
        share = busy.add(10.0, device)
    assert share == pytest.approx(1 / 3)
    for _ in range(80):
        now[0] += 10.0
        share = busy.add(10.0, "c")
    assert share == pytest.approx(1.0)
