"""What the driver costs at a high rate: as many units of 256 images in a second as two cores can commit.

    python -m tests.benchmarks.bench_rate [--quick] [--json FILE]

Shards of 1,024 tiny images on the local disk (all of them one file with many names), a stand-in for the model that
takes no time and finds nothing, so that whatever the cores do is what the pipeline costs: reading, decoding 8 x 6
pixels, building rows, committing Parquet, and Ray. From the end of the first units to the end of the last. CPU time is
that of the driver's process, all its threads, and that of all processes of the run.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from sam3lt_ray.config.schema import Config
from tests.benchmarks.blind_engine import load_blind
from tests.benchmarks.measuring import UnitClock, finish, in_fresh_process, load_now, print_table, read_options
from tests.standin import plain_image, write_tar

IMAGES_PER_UNIT, UNITS_PER_SHARD = 256, 4
WANTED_IMAGES_PER_S = 5000
FIRST_UNITS = 8  # not counted: actors and readers are still starting
SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Rate:
    """What was reached.

    Attributes:
        units: Units between the first and the last.
        images_per_s: By the clock.
        driver_ms: CPU time of the driver for each unit.
        all_ms: CPU time of all processes for each unit, the driver's in it.
    """

    units: int
    images_per_s: float
    driver_ms: float
    all_ms: float


class RateClock(UnitClock):
    """Also notes the driver's CPU time, without that of looking through /proc, which is done twice a second."""

    def __init__(self) -> None:
        super().__init__()
        self.driver_cpu_s: list[float] = []
        self._looked_at_s = 0.0
        self._looking_cpu_s = 0.0

    def unit_done(self, *, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        self.units.append((time.time(), images))
        if time.monotonic() > self._looked_at_s + SECONDS_BETWEEN_LOOKS:
            before_s = time.thread_time()
            self.cpu_s.append(self.cpu_meter.seconds())
            self._looking_cpu_s += time.thread_time() - before_s
            self._looked_at_s = time.monotonic()
        else:
            self.cpu_s.append(self.cpu_s[-1])
        self.driver_cpu_s.append(time.process_time() - self._looking_cpu_s)


def label(folder: str, num_shards: int) -> Rate:
    """A whole run; in a process of its own."""
    from sam3lt_ray.pipeline.run import label_run

    config = Config.model_validate(
        {
            "run": {"output": f"{folder}/run"},
            "input": {"format": "webdataset", "uri": f"{folder}/shards", "images_per_unit": IMAGES_PER_UNIT},
            "vocabulary": ["red circle", "star"],
            "compute": {"device": "cpu"},
        }
    )
    clock = RateClock()
    summary = label_run(config, load_engine=load_blind, progress=clock)
    assert summary.status == "done", summary.message
    units = len(clock.units) - FIRST_UNITS
    wall_s = clock.units[-1][0] - clock.units[FIRST_UNITS - 1][0]
    return Rate(
        units,
        units * IMAGES_PER_UNIT / wall_s,
        1000 * (clock.driver_cpu_s[-1] - clock.driver_cpu_s[FIRST_UNITS - 1]) / units,
        1000 * (clock.cpu_s[-1] - clock.cpu_s[FIRST_UNITS - 1]) / units,
    )


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    num_shards = 25 if options.quick else 150
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "shard.tar"
        count = IMAGES_PER_UNIT * UNITS_PER_SHARD
        write_tar(tar, [(f"{n:05d}.png", plain_image((n % 200, 90, 200), (8, 6))) for n in range(count)])
        shards = Path(folder) / "shards"
        shards.mkdir()
        for number in range(num_shards):
            (shards / f"{number:05d}.tar").hardlink_to(tar)
        rate = in_fresh_process(label, folder, num_shards)
    share = rate.driver_ms / 1000 * WANTED_IMAGES_PER_S / IMAGES_PER_UNIT
    rows = [
        ["units of 256 images", f"{rate.units:,}"],
        ["images/s", f"{rate.images_per_s:,.0f}"],
        ["units/s", f"{rate.images_per_s / IMAGES_PER_UNIT:.1f}"],
        ["driver, CPU ms per unit", f"{rate.driver_ms:.1f}"],
        ["all processes, CPU ms per unit", f"{rate.all_ms:.1f}"],
        ["driver at 5,000 images/s, share of a core", f"{share:.0%}"],
    ]
    print_table(["", ""], rows)
    finish(options, {"rate": vars(rate)}, load_before)


if __name__ == "__main__":
    main()
