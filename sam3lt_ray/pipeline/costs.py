"""What labeling some images costs: device time, money, bytes, requests. Arithmetic alone, on what others counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# Requests of one start whatever its size, listing aside: run.json, lease, snapshot, summary. Measured: BENCHMARKS.md.
START_REQUESTS: Final = 35
_KEYS_PER_LIST: Final = 1_000
_RUN_LISTINGS: Final = 2  # before and after


@dataclass(frozen=True, slots=True)
class Work:
    """Images that are asked the same labels.

    Attributes:
        labels: How many labels.
        shards: Shards that are read.
        images: Images in them that are asked.
        units: Units these are cut into, each of which becomes one file.
        input_gets: Requests that read them; 0 where the input is not on S3.
    """

    labels: int
    shards: int
    images: int
    units: int
    input_gets: int


@dataclass(frozen=True, slots=True)
class OutputSize:
    """Size of label files: so much for each file, and so much for each image in it."""

    bytes_per_image: float
    bytes_per_unit: float


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests to S3 by kind.

    Attributes:
        start: Those of one start, of all kinds, that do not grow with the input.
    """

    head: int = 0
    get: int = 0
    put: int = 0
    list: int = 0
    start: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What some work costs. None: nothing was said or measured that tells.

    Attributes:
        wall_s: Seconds from the first unit to the last. Start-up is not in it.
        device_hours: All devices together, from the first unit to the last: one that waits for the others is paid too.
        price: ``device_hours`` in the currency of the price per hour.
    """

    images: int
    units: int
    wall_s: float | None
    device_hours: float | None
    price: float | None
    output_bytes: int | None
    requests: Requests


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all work of a run.

    Attributes:
        devices: GPUs, or without GPUs actors.
        price_per_hour: Of one device.
        input_on_s3: The input's requests count.
        run_on_s3: The run directory's requests count.
        input_files: What listing the input lists.
    """

    devices: int
    price_per_hour: float | None
    input_on_s3: bool
    run_on_s3: bool
    input_files: int


def cost_of(work: Sequence[tuple[Work, float | None, OutputSize | None]], terms: Terms) -> Cost:
    """Cost of one start.

    Args:
        work: What is done, one after the other, each with images per second of one device and the size of its labels.
        terms: What holds for all of it.
    """
    walls = [_wall_s(one, rate, terms.devices) for one, rate, _ in work]
    sizes = [_output_bytes(one, output) for one, _, output in work]
    wall_s = None if None in walls else math.fsum(wall for wall in walls if wall is not None)
    hours = None if wall_s is None else wall_s * terms.devices / 3600
    return Cost(
        images=sum(one.images for one, _, _ in work),
        units=sum(one.units for one, _, _ in work),
        wall_s=wall_s,
        device_hours=hours,
        price=None if hours is None or terms.price_per_hour is None else hours * terms.price_per_hour,
        output_bytes=None if None in sizes else sum(size for size in sizes if size is not None),
        requests=_requests([one for one, _, _ in work], terms),
    )


def _wall_s(work: Work, rate: float | None, devices: int) -> float | None:
    """A unit is never shared: twelve units keep ten devices busy for as long as two units take."""
    if not work.images:
        return 0.0
    if rate is None:
        return None
    rounds = math.ceil(work.units / devices)
    return rounds * work.images / work.units / rate


def _output_bytes(work: Work, output: OutputSize | None) -> int | None:
    if not work.units:
        return 0
    return None if output is None else round(work.images * output.bytes_per_image + work.units * output.bytes_per_unit)


def _requests(work: Sequence[Work], terms: Terms) -> Requests:
    units = sum(one.units for one in work)
    listing = math.ceil(terms.input_files / _KEYS_PER_LIST) if terms.input_on_s3 else 0
    if terms.run_on_s3:
        listing += _RUN_LISTINGS * math.ceil(units / _KEYS_PER_LIST)
    return Requests(
        head=sum(one.shards for one in work) if terms.input_on_s3 else 0,
        get=sum(one.input_gets for one in work),
        put=units if terms.run_on_s3 else 0,
        list=listing,
        start=START_REQUESTS if terms.run_on_s3 else 0,
    )
