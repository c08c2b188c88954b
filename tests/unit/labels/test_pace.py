"""Rates, slow shards and what is left, from made-up listings."""

from __future__ import annotations

import pytest

from sam3lt_ray.labels.pace import SlowShard, images_left, latest_commits, recent_rate, slowest_shards, usual_interval_s
from sam3lt_ray.records import LooseFile, Shard, UnitRange
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.layers import Layer
from sam3lt_ray.storage.ledger import UnitFile, shard_directory, unit_path
from sam3lt_ray.storage.store import StoredFile
from sam3lt_ray.vocabulary.labels import Label

CAT = Label(1, "cat", ("cat",))


def _file(shard: str, first: int, count: int, at_s: float, *, is_last: bool = False) -> StoredFile:
    return StoredFile(unit_path("000", shard, UnitRange(first, count, is_last)), 1, at_s)


def _coverage(*files: StoredFile) -> Coverage:
    coverage = Coverage([Layer("000", (CAT,))], {1: ("cat",)})
    return coverage.add_paths([file.path for file in files])


def test_rate_is_that_of_the_last_ten_minutes_and_begins_behind_the_oldest_commit() -> None:
    files = [_file("a", 0, 1000, 0), _file("a", 1000, 7, 1_000), _file("b", 0, 40, 1_100), _file("b", 40, 60, 1_200)]
    assert recent_rate(latest_commits(files)) == pytest.approx(100 / 200)
    assert usual_interval_s(latest_commits(files)) == 100
    assert recent_rate(latest_commits(files[:1])) is None
    assert recent_rate([]) is None


def test_slow_shards_are_named_with_the_median() -> None:
    files = [
        *(_file("fast", i * 10, 10, 10.0 * i) for i in range(4)),
        *(_file("usual", i * 10, 10, 20.0 * i) for i in range(4)),
        *(_file("slow", i * 10, 10, 200.0 * i) for i in range(4)),
        _file("single", 0, 10, 5.0),
    ]
    names = {shard_directory(name): name for name in ("fast", "usual", "slow", "single")}
    assert slowest_shards(latest_commits(files), names) == ([SlowShard("slow", 0.05)], 0.5)


def test_a_night_between_two_commits_makes_no_shard_slow() -> None:
    day_s = 86_400.0
    files = [_file("a", 0, 10, 0), _file("a", 10, 10, day_s), _file("a", 20, 10, day_s + 5)]
    assert slowest_shards(latest_commits(files), {shard_directory("a"): "a"}) == ([], 2.0)


def test_retries_do_not_count_for_a_shards_pace() -> None:
    again = StoredFile(UnitFile("000", shard_directory("a"), UnitRange(0, 10, False)).retry_path(1), 1, 500.0)
    files = [_file("a", 0, 10, 0), _file("a", 10, 10, 5), again]
    assert slowest_shards(latest_commits(files), {shard_directory("a"): "a"})[1] == 2.0


def test_left_is_guessed_from_bytes_where_the_number_of_images_is_not_known() -> None:
    done, begun, untouched = Shard("a", "a", 1_000), Shard("b", "b", 2_000), Shard("c", "c", 500)
    coverage = _coverage(_file("a", 0, 10, 0, is_last=True), _file("b", 0, 5, 0))
    left = images_left([done, begun, untouched], coverage)
    assert (left.images, left.is_estimate) == (15 + 5, True)  # 100 bytes per image
    # A shard that turned out to hold more than its bytes promised has nothing negative left.
    assert images_left([done, Shard("b", "b", 100)], coverage).images == 0


def test_left_is_exact_where_everything_is_known_and_unknown_where_nothing_is() -> None:
    hole = _coverage(_file("a", 4, 6, 0, is_last=True))
    assert images_left([Shard("a", "a", 1_000)], hole).images == 4
    assert not images_left([Shard("a", "a", 1_000)], hole).is_estimate
    loose = Shard("g", "g", members=tuple(LooseFile(str(i), str(i)) for i in range(7)))
    assert images_left([loose], _coverage(_file("g", 0, 3, 0))).images == 4
    assert images_left([Shard("a", "a", 1_000)], _coverage()).images is None
