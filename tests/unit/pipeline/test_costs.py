"""What work costs: by hand on paper."""

from __future__ import annotations

import pytest

from sam3lt_ray.pipeline.costs import START_REQUESTS, OutputSize, Requests, Terms, Work, cost_of

BILLION = Work(labels=80, shards=1_000_000, images=1_000_000_000, units=4_000_000, input_gets=36_000_000)
ON_S3 = Terms(devices=8, price_per_hour=2.5, input_on_s3=True, run_on_s3=True, input_files=1_000_000)


def test_a_billion_images() -> None:
    cost = cost_of([(BILLION, 10.0, OutputSize(2_000, 5_000))], ON_S3)
    assert cost.wall_s == pytest.approx(1e9 / 10 / 8)
    assert cost.device_hours == pytest.approx(1e8 / 3600)
    assert cost.price == pytest.approx(2.5 * 1e8 / 3600)
    assert cost.output_bytes == 10**9 * 2_000 + 4_000_000 * 5_000
    assert cost.requests == Requests(
        head=1_000_000, get=36_000_000, put=4_000_000, list=1_000 + 2 * 4_000, start=START_REQUESTS
    )


def test_devices_that_wait_for_the_last_unit_are_paid_too() -> None:
    work = Work(labels=1, shards=1, images=120, units=12, input_gets=0)
    cost = cost_of([(work, 1.0, None)], Terms(10, 36.0, False, False, 1))
    assert cost.wall_s == pytest.approx(20)  # two units of ten images, one after the other
    assert cost.price == pytest.approx(20 * 10 / 3600 * 36)
    assert cost.output_bytes is None


def test_layers_come_one_after_the_other() -> None:
    slow, fast = Work(20, 1, 10, 1, 0), Work(1, 1, 30, 3, 0)
    cost = cost_of([(slow, 1.0, OutputSize(10, 1)), (fast, 2.0, OutputSize(1, 1))], Terms(1, None, False, False, 1))
    assert cost.wall_s == pytest.approx(10 + 15)
    assert (cost.images, cost.units, cost.output_bytes, cost.price) == (40, 4, 101 + 33, None)
    assert cost.requests == Requests()


def test_what_nobody_knows_is_not_zero_and_nothing_to_do_is() -> None:
    terms = Terms(1, 1.0, False, False, 1)
    unknown = cost_of([(BILLION, None, None)], terms)
    assert (unknown.wall_s, unknown.device_hours, unknown.price, unknown.output_bytes) == (None, None, None, None)
    nothing = cost_of([], terms)
    assert (nothing.wall_s, nothing.price, nothing.output_bytes) == (0.0, 0.0, 0)
