"""How many images are done and ahead: from made-up listings, and as units are committed."""

from __future__ import annotations

import pytest

from sam3lt_ray.labels.images_ahead import ImageCount, ImagesAhead
from sam3lt_ray.records import LooseFile, Shard, UnitRange
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.layers import Layer
from sam3lt_ray.storage.ledger import unit_path
from sam3lt_ray.vocabulary.labels import Label

CAT, DOG = Label(1, "cat", ("cat",)), Label(2, "dog", ("dog",))
UNKNOWN = ImageCount(None, is_estimate=True)
LOOSE = Shard("g", "g", 700, members=tuple(LooseFile(str(i), str(i)) for i in range(7)))


def _file(shard: str, first: int, count: int, *, is_last: bool = False, layer: str = "000") -> str:
    return unit_path(layer, shard, UnitRange(first, count, is_last))


def _coverage(*paths: str) -> Coverage:
    return Coverage([Layer("000", (CAT,))], {1: ("cat",)}).add_paths(paths)


def test_left_is_guessed_from_bytes_where_the_number_of_images_is_not_known() -> None:
    done, begun, untouched = Shard("a", "a", 1_000), Shard("b", "b", 2_000), Shard("c", "c", 500)
    coverage = _coverage(_file("a", 0, 10, is_last=True), _file("b", 0, 5))
    ahead = ImagesAhead.look([done, begun, untouched], coverage)
    assert ahead.left() == ImageCount(15 + 5, is_estimate=True)  # 100 bytes per image
    assert (ahead.done, ahead.total().images) == (15, 35)
    # A shard that turned out to hold more than its bytes promised has nothing negative left.
    assert ImagesAhead.look([done, Shard("b", "b", 100)], coverage).left().images == 0
    assert ImagesAhead.look([done, Shard("b", "b")], coverage).left() == UNKNOWN  # it does not tell its size


def test_left_is_exact_where_everything_is_known_and_unknown_where_nothing_is() -> None:
    hole = _coverage(_file("a", 4, 6, is_last=True))
    assert ImagesAhead.look([Shard("a", "a", 1_000)], hole).left() == ImageCount(4, is_estimate=False)
    ahead = ImagesAhead.look([LOOSE], _coverage(_file("g", 0, 3)))
    assert (ahead.left().images, ahead.total()) == (4, ImageCount(7, is_estimate=False))
    assert ImagesAhead.look([Shard("a", "a", 1_000)], _coverage()).left() == UNKNOWN


def test_images_that_lack_a_label_are_ahead_once_and_those_of_vanished_shards_never() -> None:
    layers = [Layer("000", (CAT,)), Layer("001", (DOG,))]
    coverage = Coverage(layers, {1: ("cat",), 2: ("dog",)}).add_paths(
        [
            _file("a", 0, 4),
            _file("a", 4, 6, is_last=True),
            _file("a", 0, 4, layer="001"),
            _file("gone", 0, 5, is_last=True),
        ]
    )
    ahead = ImagesAhead.look([Shard("a", "a", 100), Shard("gone", "gone", 10), LOOSE], coverage, vanished={"gone"})
    assert (ahead.done, ahead.left()) == (4, ImageCount(6 + 7, is_estimate=False))


def test_units_that_were_read_tell_until_the_first_shard_has_ended() -> None:
    shards = [Shard("a", "a", 1_000), Shard("b", "b", 3_000)]
    ahead = ImagesAhead.look(shards, _coverage())
    assert ahead.total() == UNKNOWN
    ahead.read(4, bytes_per_image=200.0)
    ahead.ask_of_open(4)
    assert (ahead.done, ahead.total()) == (4, ImageCount(20, is_estimate=True))
    ahead.read(4, bytes_per_image=200.0)
    ahead.close(shards[0], passed=4, end=8)  # 125 bytes per image
    ahead.ask_counted(4)
    assert (ahead.done, ahead.total()) == (8, ImageCount(8 + 24, is_estimate=True))
    ahead.ask_of_open(20)
    ahead.close(shards[1], passed=20, end=21)
    assert ahead.total() == ImageCount(8 + 21, is_estimate=False)
    assert ahead.left().images == 1
    ahead.ask_counted(1)
    assert (ahead.done, ahead.left().images) == (29, 0)


@pytest.mark.parametrize("size_bytes", [None, 0])
def test_a_shard_of_unknown_size_hides_the_total_until_it_has_ended(size_bytes: int | None) -> None:
    shard = Shard("a", "a", size_bytes)
    ahead = ImagesAhead.look([shard], _coverage())
    ahead.read(4, bytes_per_image=200.0)
    assert ahead.total().images == (None if size_bytes is None else 0)
    ahead.close(shard, passed=0, end=4)
    assert ahead.total() == ImageCount(4, is_estimate=False)
