"""A driver in a process of its own, looked at while it works, and killed with all that it started."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.processes import sample_memory, worker_memory
from tests.ray_cluster import kill_node

ROOT = Path(__file__).resolve().parents[2]
MOST_MB = 8_000
_LONGEST_S = 400.0
_LOOK_EVERY_S = 0.2
_ACTOR = "MapWorker"  # what Ray Data calls them


@dataclass
class Seen:
    """What was seen of a driver.

    Attributes:
        exit_code: None: it was killed.
        first_s: From its start to its first new label; None: there was none.
        wall_s: From its start to its end.
        driver_mb: The most that its process held.
        actors_mb: The most that all actors together held that work on data.
        workers_mb: The most that the largest Ray worker of each title held.
        total_mb: The most that all processes and the object store held.
        note: Why it was ended early; "" when it was not.
    """

    exit_code: int | None = None
    first_s: float | None = None
    wall_s: float = 0.0
    driver_mb: float = 0.0
    actors_mb: float = 0.0
    total_mb: float = 0.0
    workers_mb: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def task_mb(self) -> float:
        """The largest other worker."""
        return max((size for title, size in self.workers_mb.items() if _ACTOR not in title), default=0.0)


def watch_driver(
    command: list[str],
    log: Path,
    committed: Callable[[], int],
    *,
    kill_when: Callable[[int], bool] = lambda _: False,
) -> Seen:
    """Run a driver to its end, or until it is to be killed, as a machine that loses its power.

    Args:
        command: Starts it.
        log: What it says is added here.
        committed: Images that are committed now.
        kill_when: Asked with that number a few times a second.
    """
    before, seen, start = committed(), Seen(), time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=dict(os.environ))
    try:
        while process.poll() is None:
            now = committed()
            if seen.first_s is None and now > before:
                seen.first_s = time.monotonic() - start
            if kill_when(now):
                break
            _note_memory(seen, process.pid)
            seen.note = _why_enough(seen, time.monotonic() - start)
            if seen.note:
                break
            time.sleep(_LOOK_EVERY_S)
        seen.exit_code = process.poll()
    finally:
        kill_node([process.pid])
        process.wait()
    if seen.first_s is None and committed() > before:
        seen.first_s = time.monotonic() - start
    seen.wall_s = time.monotonic() - start
    return seen


def _note_memory(seen: Seen, pid: int) -> None:
    sample = sample_memory(pid, 0.0)
    seen.driver_mb = max(seen.driver_mb, sample.driver_mb)
    seen.total_mb = max(seen.total_mb, sample.total_mb)
    workers = worker_memory(pid)
    seen.actors_mb = max(seen.actors_mb, sum(size_mb for title, size_mb in workers if _ACTOR in title))
    for title, size_mb in workers:
        seen.workers_mb[title] = max(size_mb, seen.workers_mb.get(title, 0.0))


def _why_enough(seen: Seen, elapsed_s: float) -> str:
    if seen.total_mb > MOST_MB:
        return f"ended at {MOST_MB:,} MB"
    return f"ended after {_LONGEST_S:.0f} s" if elapsed_s > _LONGEST_S else ""
