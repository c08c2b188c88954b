"""What the benchmarks share: options, the machine they ran on, medians with spread, tables, and a clock on a run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from sam3lt_ray.pipeline.summary import package_versions
from sam3lt_ray.progress import SilentProgress
from tests.benchmarks.processes import CpuMeter

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What every benchmark is asked for.

    Attributes:
        quick: A minute at most: to see that it works, not for figures.
        json_path: Where the figures go besides the table.
    """

    quick: bool
    json_path: Path | None


def read_options(description: str | None) -> Options:
    """Options from the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="a small version, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    arguments = parser.parse_args()
    # Each benchmark has a Ray of its own: it must not join one that happens to run on this machine.
    os.environ["RAY_ADDRESS"] = "local"
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    return Options(arguments.quick, arguments.json)


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def text(self, digits: int = 1) -> str:
        """Median, and least and most in brackets."""
        low, high = min(self.values), max(self.values)
        spread = f" [{low:.{digits}f}, {high:.{digits}f}]" if len(self.values) > 1 else ""
        return f"{self.median:.{digits}f}{spread}"

    def to_json(self) -> dict[str, Any]:
        return {"median": self.median, "values": list(self.values)}


def spread(values: Sequence[float]) -> Spread:
    return Spread(tuple(values))


def in_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    """Call a function in a new interpreter: no warm caches, no threads left from the measurement before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@dataclass
class UnitClock(SilentProgress):
    """When which units of a run were committed; seconds since 1970, as they are compared between processes.

    Attributes:
        units: Time and number of images of each.
        cpu_s: CPU time at each of these moments, of this process and all that it started, Ray among them.
    """

    started_at: float = field(default_factory=time.time)
    planned_at: float = 0.0
    units: list[tuple[float, int]] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    cpu_meter: CpuMeter = field(default_factory=lambda: CpuMeter(os.getpid()))

    def plan_known(
        self, *, total_images: int | None, is_estimate: bool = False, done_images: int = 0, done_units: int = 0
    ) -> None:
        self.planned_at = self.planned_at or time.time()  # it is said again when more is known

    def unit_done(self, *, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        self.units.append((time.time(), images))
        self.cpu_s.append(self.cpu_meter.seconds())


@dataclass(frozen=True)
class Steady:
    """Seconds per image, by the clock and of all CPUs together, without start-up and cold first units."""

    wall_s: float
    cpu_s: float


def steady_per_image(clock: UnitClock, at_once: int = 1) -> Steady:
    """From the end of the first units to the end of the last.

    Args:
        clock: What it has seen.
        at_once: Units in work at a time; that many ends are the beginning.
    """
    images = sum(images for _, images in clock.units[at_once:])
    wall_s = clock.units[-1][0] - clock.units[at_once - 1][0]
    return Steady(wall_s / images, (clock.cpu_s[-1] - clock.cpu_s[at_once - 1]) / images)


def machine() -> dict[str, Any]:
    """Where figures were taken; without it they say little."""
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu.split(":")[1].strip(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "versions": package_versions(),
    }


def load_now() -> float:
    """Processes that want a core, averaged over a minute; ours are in it."""
    return round(os.getloadavg()[0], 2)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table with aligned columns; the first is text, the others are figures."""
    widths = [max(len(row[column]) for row in [headers, *rows]) for column in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        aligned = [cells[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join(aligned) + " |"

    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    print("\n".join([line(headers), line(rule), *(line(row) for row in rows)]), flush=True)


def finish(options: Options, figures: dict[str, Any], load_before: float) -> None:
    """Say where the figures were taken, and write them down if asked to."""
    where = machine()
    versions = where["versions"]
    print(
        f"\n{where['date']}, {where['cores']} x {where['cpu']}, {where['memory_gb']} GB, Python {versions['python']}, "
        f"torch {versions['torch']}, ray {versions['ray']}; load {load_before} before, {load_now()} after\n"
    )
    if options.json_path is not None:
        content = {"quick": options.quick, "machine": where, "load_before": load_before, "figures": figures}
        options.json_path.write_text(json.dumps(content, indent=1) + "\n")
