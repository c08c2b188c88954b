"""Memory and CPU time of a driver and its Ray processes, read from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Part = Literal["driver", "actor", "tasks", "ray", "object_store"]


@dataclass(frozen=True)
class MemorySample:
    """MB at one moment. The object store is mapped by all processes; it is counted once, for itself.

    Attributes:
        driver_mb: The process that called ``label_run``.
        actor_mb: The segment actor.
        tasks_mb: All other Ray workers: they read and commit, or wait for work.
        ray_mb: Ray's own processes.
        object_store_mb: Pages of the object store that were ever touched and not given back.
    """

    at: float
    driver_mb: float
    actor_mb: float
    tasks_mb: float
    ray_mb: float
    object_store_mb: float

    @property
    def total_mb(self) -> float:
        return self.driver_mb + self.actor_mb + self.tasks_mb + self.ray_mb + self.object_store_mb


def sample_memory(driver_pid: int, at: float) -> MemorySample:
    """The driver and all its descendants now."""
    sizes: dict[Part, float] = dict.fromkeys(get_args(Part), 0.0)
    for pid in _with_descendants(driver_pid):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            sizes["driver" if pid == driver_pid else _part(command)] += _resident_mb(pid)
            if command.endswith("/raylet"):
                sizes["object_store"] += _object_store_mb(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
    return MemorySample(at, *(sizes[part] for part in get_args(Part)))


def worker_memory(driver_pid: int) -> list[tuple[str, float]]:
    """Title, such as the name of its task or actor, and MB of each Ray worker."""
    sizes: list[tuple[str, float]] = []
    for pid in _with_descendants(driver_pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            if title.startswith("ray::"):
                sizes.append((title, _resident_mb(pid)))
    return sizes


def _part(command: str) -> Part:
    if not command.startswith("ray::"):
        return "ray"
    return "actor" if "SegmentActor" in command else "tasks"


class CpuMeter:
    """CPU time of a process and all its descendants, ended ones too: what they had when they were last looked at."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ticks: dict[int, int] = {}

    def seconds(self) -> float:
        """So far. Nobody waits for Ray's workers but the raylet, which keeps no account of them: ask now and then."""
        for pid in _with_descendants(self._pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                self._ticks[pid] = sum(int(field) for field in _stat_fields(Path(f"/proc/{pid}"))[11:13])
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")


def _stat_fields(process: Path) -> list[str]:
    """From the third field on: the second, the name in brackets, may hold anything."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def _with_descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat_fields(entry)[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, ()))
    return found


def _resident_mb(pid: int) -> float:
    """Anonymous memory and mapped files (libraries count in each process); without shared memory."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssFile") if name in fields) / 1024


def _object_store_mb(raylet_pid: int) -> float:
    """The store is an unlinked file in shared memory that the raylet holds open; its blocks are the pages in use."""
    files = {}
    for link in Path(f"/proc/{raylet_pid}/fd").iterdir():
        if "plasma" in str(link.readlink()):
            status = link.stat()
            files[status.st_ino] = status.st_blocks * 512
    return sum(files.values()) / 2**20
