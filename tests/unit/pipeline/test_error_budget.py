"""When a run is stopped for its error rows, and when it is not."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.pipeline.error_budget import ErrorBudget

Share = tuple[int, int]  # errors of images


def _stops_after(budget: float | None, shards: Iterable[list[Share]]) -> int | None:
    """Images seen when the run was stopped; None when it never was."""
    judge, images = ErrorBudget(budget), 0
    for number, units in enumerate(shards):
        for errors, count in units:
            images += count
            judge.add(f"{number}.tar", UnitCounts(count, {"corrupt": errors} if errors else {}))
            if judge.verdict() is not None:
                return images
    return None


@pytest.mark.parametrize("budget", [0.0, 0.01, 0.2, 0.5, 0.9])
def test_a_bucket_of_other_files_is_stopped_within_two_hundred_images(budget: float) -> None:
    assert _stops_after(budget, [[(50, 50)] * 20] * 40) == 100


def test_without_a_budget_nothing_is_stopped() -> None:
    assert _stops_after(None, [[(50, 50)] * 20] * 40) is None
    assert _stops_after(1.0, [[(50, 50)] * 20] * 40) is None


def test_a_few_images_are_no_evidence() -> None:
    assert _stops_after(0.01, [[(9, 9)] * 11]) is None


def test_a_first_shard_with_some_bad_images_is_no_reason_to_stop() -> None:
    healthy = [[(0, 50)] * 20] * 200
    assert _stops_after(0.01, [[(20, 50)] * 20, *healthy]) is None  # 40 % of the first shard, 0.2 % of the run
    assert _stops_after(0.01, [[(50, 50)], *healthy]) is None


def test_a_few_bad_shards_among_good_ones_are_no_reason_to_stop() -> None:
    shards = [[(45, 50)] if number % 3 == 1 else [(0, 50)] for number in range(60)]
    assert _stops_after(0.01, shards) is None


def test_a_moderate_excess_all_over_is_stopped_after_ten_shards() -> None:
    assert _stops_after(0.01, [[(10, 100)]] * 1000) == 1000


def test_an_excess_within_chance_is_left_to_the_end() -> None:
    shards = [[(number % 3, 100)] for number in range(300)]  # 1 % on average, 0 to 2 % by shard
    assert _stops_after(0.01, shards) is None


def test_a_shard_that_gets_better_is_judged_anew() -> None:
    judge = ErrorBudget(0.1)
    for number in range(10):
        judge.add(f"{number}.tar", UnitCounts(50, {"corrupt": 20}))
        judge.add(f"{number}.tar", UnitCounts(200, {}))
    assert judge.verdict() is None
    judge.add("10.tar", UnitCounts(50, {}))
    assert judge.verdict() is None
