"""A limit on what processes may take together, as a container has one: the kernel kills where it is passed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.ray_cluster import kill

_CONTROLLER = Path("/sys/fs/cgroup/memory")


def why_not() -> str | None:
    """What is missing here; None: limits can be set."""
    if os.geteuid() != 0:
        return "needs root, to make a cgroup"
    if not os.access(_CONTROLLER / "cgroup.procs", os.W_OK):
        return "needs the memory controller of cgroups, version 1"
    return None


class MemoryLimit:
    """A cgroup. Who is in it starts processes in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self, pids: Iterable[int]) -> None:
        """Put processes in. What they have taken before does not count."""
        for pid in pids:
            with suppress(ProcessLookupError):  # it has ended
                (self._folder / "cgroup.procs").write_text(f"{pid}")

    @property
    def num_killed(self) -> int:
        """How many processes the kernel has killed in it."""
        lines = (self._folder / "memory.oom_control").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    @property
    def pids(self) -> list[int]:
        """Who is in it."""
        return [int(line) for line in (self._folder / "cgroup.procs").read_text().split()]


@contextmanager
def memory_limit(num_bytes: int) -> Iterator[MemoryLimit]:
    """Make a limit; in the end everything under it is killed."""
    folder = _CONTROLLER / f"sam3lt-test-{os.getpid()}"
    folder.mkdir()
    limit = MemoryLimit(folder)
    try:
        (folder / "memory.limit_in_bytes").write_text(f"{num_bytes}")
        yield limit
    finally:
        end_s = time.monotonic() + 30
        while limit.pids and time.monotonic() < end_s:
            kill(*limit.pids)
            time.sleep(0.1)
        folder.rmdir()
