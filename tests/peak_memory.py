"""By how much this process grows at most, from some moment on; Linux only."""

from __future__ import annotations

from pathlib import Path


class PeakMemory:
    """Begins when it is made: what was freed before, by whomever, does not count."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before_mb = _status_mb("VmRSS")

    def grown_mb(self) -> float:
        """Resident memory at most, beyond what there was at the beginning; 2**20 bytes each."""
        return round(_status_mb("VmHWM") - self._before_mb, 1)


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
