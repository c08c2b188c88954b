"""Rates and slow shards, from made-up listings."""

from __future__ import annotations

import pytest

from sam3lt_ray.labels.pace import SlowShard, latest_commits, recent_rate, slowest_shards, usual_interval_s
from sam3lt_ray.records import UnitRange
from sam3lt_ray.storage.ledger import UnitFile, shard_directory, unit_path
from sam3lt_ray.storage.store import StoredFile


def _file(shard: str, first: int, count: int, at_s: float, *, is_last: bool = False) -> StoredFile:
    return StoredFile(unit_path("000", shard, UnitRange(first, count, is_last)), 1, at_s)


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
