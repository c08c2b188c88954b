"""What a lease file says of its holder, and whether that process still lives, as far as this one can see it."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What a lease file says about its holder."""

    holder: str
    host: str
    boot_id: str
    pid: int
    process_start: str
    acquired_at: float
    renewed_at: float
    released: bool
    pid_namespace: str = ""  # where the holder could not tell, and in leases of 0.1.0

    def describe(self) -> str:
        """Who holds the run and since when, for a person."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.acquired_at))
        return f"process {self.pid} on {self.host} since {since}"


def own_record(now: float) -> LeaseRecord:
    """This process as a holder."""
    return LeaseRecord(
        holder=uuid.uuid4().hex,
        host=socket.gethostname(),
        boot_id=_boot_id(),
        pid=os.getpid(),
        process_start=_process_start(os.getpid()) or "",
        acquired_at=now,
        renewed_at=now,
        released=False,
        pid_namespace=_pid_namespace(),
    )


def is_dead_neighbour(record: LeaseRecord) -> bool:
    """The holder ran where this process would see it, and is gone, or its number belongs to another process."""
    return is_visible(record) and _process_start(record.pid) != record.process_start


def is_visible(record: LeaseRecord) -> bool:
    """Whether the holder's process, if it lives, is in the process table that this process sees."""
    here = socket.gethostname(), _boot_id(), _pid_namespace()
    return all(here) and (record.host, record.boot_id, record.pid_namespace) == here


def _boot_id() -> str:
    """Linux tells boots apart."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _pid_namespace() -> str:
    """Which process table this process sees; "" where the system does not tell."""
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _process_start(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return None  # a zombie holds nothing
    return fields[19]


def encode_record(record: LeaseRecord, *, renewed_at: float | None = None, released: bool = False) -> bytes:
    """A record as it is stored, renewed or given back."""
    now = {"released": released, "renewed_at": record.renewed_at if renewed_at is None else renewed_at}
    return json.dumps(asdict(record) | now, sort_keys=True).encode()


def decode_record(data: bytes) -> LeaseRecord:
    """A record as it was stored, also by a later version that says more."""
    known = {field.name for field in fields(LeaseRecord)}
    return LeaseRecord(**{name: value for name, value in json.loads(data).items() if name in known})
