"""How long the device has worked, part by part, measured on the device's own clock where it has one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import get_args

import torch

from sam3lt_ray.records import EnginePart


class BusyTime:
    """Adds up the time that sections of work take the device.

    On CUDA work is asked for long before it is done, so a section's begin and end are marks in the device's own queue;
    the time between two sections is when the device had nothing to do.

    Args:
        device: Which device.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._open: deque[tuple[EnginePart, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._seconds: dict[EnginePart, float] = dict.fromkeys(get_args(EnginePart), 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def section(self, part: EnginePart) -> Iterator[None]:
        """Work that is asked for inside counts for a part; sections do not lie in one another."""
        if not self._on_cuda:
            begin_s = time.perf_counter()
            yield
            self._seconds[part] += time.perf_counter() - begin_s
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        yield
        end.record()
        with self._lock:
            self._open.append((part, begin, end))
            self._add_up()  # or marks would pile up where nobody asks for seconds

    @property
    def seconds(self) -> Mapping[EnginePart, float]:
        """Seconds of all sections that have ended so far, by part."""
        with self._lock:
            self._add_up()
            return dict(self._seconds)

    def _add_up(self) -> None:
        """Counts what has ended; waits for nothing."""
        while self._open and self._open[0][2].query():
            part, begin, end = self._open.popleft()
            self._seconds[part] += begin.elapsed_time(end) / 1000
