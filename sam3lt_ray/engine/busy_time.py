"""How long the device has worked, measured on the device's own clock where it has one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class BusyTime:
    """Adds up the time that sections of work take the device.

    On CUDA work is asked for long before it is done, so a section's begin and end are marks in the device's own queue;
    the time between two sections is when the device had nothing to do.

    Args:
        device: Which device.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._open: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._total_s = 0.0

    @contextmanager
    def section(self) -> Iterator[None]:
        """Work that is asked for inside counts."""
        if not self._on_cuda:
            begin_s = time.perf_counter()
            yield
            self._total_s += time.perf_counter() - begin_s
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        yield
        end.record()
        self._open.append((begin, end))

    @property
    def total_s(self) -> float:
        """Seconds of all sections that have ended so far."""
        while self._open and self._open[0][1].query():
            begin, end = self._open.popleft()
            self._total_s += begin.elapsed_time(end) / 1000
        return self._total_s
