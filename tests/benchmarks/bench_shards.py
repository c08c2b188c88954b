"""What a start costs the driver with up to 1,000,000 shards: time, memory and requests, until work reaches the actors.

    python -m tests.benchmarks.bench_shards [--quick] [--json FILE]

Input and run directory are on a stand-in for S3 that makes up its listings, 1,000 keys a page, and answers through
HTTP as S3 does, each request after 100 ms. A tenth of the shards are finished, with four units each; in the end a run
of a billion images is continued in which all shards but 1,000 are. Every start is a process of its own: first one on a
new run, which writes the snapshot of the input, then one that continues it. Both really label, with a stand-in for the
model that takes no time, and stop after some units (``--limit``). Those of them that were committed while the start
ended are the unit files that are read; finished ones cannot be read here at all.

The driver's own time per unit is the CPU time of its process, all threads, between the first and the last unit.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3lt_ray.config.schema import Config
from tests.benchmarks.measuring import UnitClock, finish, in_fresh_process, load_now, print_table, read_options
from tests.servers.s3_server import credential_environment
from tests.servers.vast_s3 import INPUT, RUN, Content, VastS3, keep_totals, run_vast_s3
from tests.standin import load_standin, plain_image, write_tar

UNITS_PER_SHARD = 4
IMAGES_PER_SHARD = 8
UNITS_TO_LABEL = 200
KINDS = ("new", "continued")
LATENCY_S = 0.1  # of a request to a real store
ALMOST_DONE = (1_000_000, 999_000)  # shards of 1,000 images, and how many of them are finished


@dataclass(frozen=True)
class Start:
    """What one start took.

    Attributes:
        planned_s: Until everything that is missing is known.
        first_unit_s: Until the first unit is committed; Ray's start is in it.
        driver_mb: The most that the driver ever held.
        ms_per_unit: CPU time of the driver for each unit, while units flow.
        requests: By kind and part of the bucket.
    """

    planned_s: float
    first_unit_s: float
    driver_mb: float
    ms_per_unit: float
    requests: dict[str, int]


class DriverClock(UnitClock):
    """Also notes the CPU time of the driver's own process."""

    def __init__(self) -> None:
        super().__init__()
        self.driver_cpu_s: list[float] = []

    def unit_done(self, *, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        self.units.append((time.time(), images))
        self.driver_cpu_s.append(time.process_time())


def start_run(endpoint_url: str, units: int) -> tuple[float, float, float, float]:
    """Label until ``units`` are committed; runs in a process of its own."""
    from sam3lt_ray.pipeline.run import label_run

    server = VastS3(endpoint_url)
    config = Config.model_validate(
        {
            "run": {"output": server.uri(RUN)},
            "input": {"format": "webdataset", "uri": server.uri(INPUT)},
            "vocabulary": ["red circle", "star"],
            "storage": {"endpoint_url": endpoint_url},
            "compute": {"device": "cpu"},
        }
    )
    clock = DriverClock()
    summary = label_run(config, load_engine=load_standin, progress=clock, limit=units * IMAGES_PER_SHARD)
    assert summary.status == "limited", summary.message
    steady_s = clock.driver_cpu_s[-1] - clock.driver_cpu_s[0]
    return (
        clock.planned_at - clock.started_at,
        clock.units[0][0] - clock.started_at,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        1000 * steady_s / (len(clock.units) - 1),
    )


def measure(num_shards: int, finished: int) -> list[Start]:
    """A new run and its continuation."""
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "shard.tar"
        write_tar(tar, [(f"{n:04d}.png", plain_image((n, 90, 200))) for n in range(IMAGES_PER_SHARD)])
        content = Content(num_shards, finished, UNITS_PER_SHARD, shard_file=str(tar), latency_s=LATENCY_S)
        starts = []
        with run_vast_s3(Path(folder), content) as server:
            keep_totals(server)
            server.counts(forget=True)
            for _ in KINDS:
                figures = in_fresh_process(start_run, server.endpoint_url, UNITS_TO_LABEL)
                starts.append(Start(*figures, requests=dict(server.counts(forget=True))))
        return starts


def row(name: str, keys: int, start: Start) -> list[str]:
    return [
        name,
        f"{keys:,}",
        f"{start.planned_s:.1f}",
        f"{start.first_unit_s:.1f}",
        f"{start.driver_mb:,.0f}",
        f"{start.ms_per_unit:.1f}",
        str(sum(n for kind, n in start.requests.items() if kind.startswith("ListObjectsV2"))),
        str(start.requests.get("GetObject labels", 0) + start.requests.get("HeadObject labels", 0)),
    ]


def _measure_into(rows: list[list[str]], num_shards: int, finished: int, title: str) -> list[dict[str, Any]]:
    starts = measure(num_shards, finished)
    keys = num_shards + finished * UNITS_PER_SHARD
    rows += [row(f"{title}{num_shards:,} {kind}", keys, one) for kind, one in zip(KINDS, starts, strict=True)]
    print(f"{title}{num_shards:,} shards: done, load {load_now()}", flush=True)
    return [vars(one) for one in starts]


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    os.environ.update(credential_environment())
    sizes = (1_000, 10_000) if options.quick else (1_000, 10_000, 100_000, 1_000_000)
    rows: list[list[str]] = []
    figures = {size: _measure_into(rows, size, size // 10, "") for size in sizes}
    almost_done = [] if options.quick else _measure_into(rows, *ALMOST_DONE, "almost done: ")
    headers = ["shards", "keys", "s to plan", "s to first unit", "driver, MB", "driver ms/unit", "LISTs", "unit reads"]
    print_table(headers, rows)
    finish(options, {"starts": figures, "almost_done": almost_done}, load_before)


if __name__ == "__main__":
    main()
