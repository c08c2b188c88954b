"""Which shards are open and how many images are ahead, from units as they come back."""

from __future__ import annotations

from dataclasses import replace

from sam3lt_ray.labels.images_ahead import ImageCount, ImagesAhead
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.pipeline.actors import UnitOutcome
from sam3lt_ray.pipeline.open_shards import OpenShards
from sam3lt_ray.records import Shard, UnitRange
from sam3lt_ray.stages.label import LabelTimings
from sam3lt_ray.stages.read import Retry, ShardWork
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.layers import Layer
from sam3lt_ray.storage.ledger import UnitFile, shard_directory, unit_path
from sam3lt_ray.vocabulary.labels import Label

CAT = Label(1, "cat", ("cat",))


def _outcome(shard: str, first: int, count: int, *, is_last: bool = False, layer: str = "000") -> UnitOutcome:
    path = unit_path(layer, shard, UnitRange(first, count, is_last))
    timings = LabelTimings({}, 0.0, 2.0)
    nodes = "10.0.0.1", "10.0.0.2"
    return UnitOutcome(shard, path, True, None, False, UnitCounts(images=count), 1, timings, 1, "actor", *nodes, 20.0)


def test_a_shard_is_final_when_its_last_gap_is_closed_in_whatever_order() -> None:
    work = [
        ShardWork(Shard("a.tar", "a.tar"), "000", gaps=((10, None),)),
        ShardWork(Shard("b.tar", "b.tar"), "000", gaps=((0, None),)),
    ]
    shards = OpenShards(work, 5, ImagesAhead())
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
    shards = OpenShards(work, 1, ImagesAhead())
    for first in (10, 30):
        assert shards.num_open == 1
        shards.add(_outcome("a.tar", first, 10))
    shards.add(_outcome("a.tar", 0, 40, is_last=True, layer="001"))
    assert (shards.num_open, shards.num_final) == (0, 1)


def test_images_are_counted_whatever_the_order_of_units() -> None:
    begun, whole = Shard("a.tar", "a.tar", 900), Shard("b.tar", "b.tar", 400)
    coverage = Coverage([Layer("000", (CAT,))], {1: ("cat",)}).add_paths(
        [unit_path("000", "a.tar", UnitRange(first, 10, is_last=False)) for first in (0, 20)]
    )
    ahead = ImagesAhead.look([begun, whole], coverage)
    work = [ShardWork(begun, "000", gaps=((10, 20), (30, None))), ShardWork(whole, "000", gaps=((0, None),))]
    shards = OpenShards(work, 2, ahead)
    assert (ahead.done, ahead.total()) == (20, ImageCount(None, is_estimate=True))
    told = []
    for outcome in (
        _outcome("b.tar", 0, 10),  # 20 bytes per image
        _outcome("b.tar", 0, 10),  # a second driver's
        _outcome("a.tar", 40, 5, is_last=True),  # it had 45: 20 bytes for each
        _outcome("a.tar", 10, 10),
        _outcome("a.tar", 30, 10),
        _outcome("b.tar", 20, 10, is_last=True),
        _outcome("b.tar", 10, 10),
    ):
        shards.add(outcome)
        total = ahead.total()
        told.append((ahead.done, total.images, total.is_estimate))
    assert told == [
        (30, 65, True),
        (30, 65, True),
        (35, 65, True),
        (45, 65, True),
        (55, 65, True),
        (65, 75, False),
        (75, 75, False),
    ]
    assert shards.num_open == 0


def test_rows_that_are_made_again_are_counted_as_rows() -> None:
    unit = UnitFile("000", shard_directory("a.tar"), UnitRange(0, 8, is_last=True))
    work = ShardWork(Shard("a.tar", "a.tar"), "000", retries=(Retry(unit, frozenset({1, 5})),))
    ahead = ImagesAhead(counted=2)
    shards = OpenShards([work], 1, ahead)
    again = replace(_outcome("a.tar", 0, 8), path=unit.retry_path(1), counts=UnitCounts(images=2))
    shards.add(again)
    assert (ahead.done, ahead.left(), shards.num_open) == (2, ImageCount(0, is_estimate=False), 0)
