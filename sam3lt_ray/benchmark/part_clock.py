"""Time by part: CUDA events around the parts on a GPU, the clock on a CPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

Part = Literal["vision", "encoder and decoder", "mask head", "run lengths"]
PARTS: tuple[Part, ...] = get_args(Part)


class PartClock:
    """Adds up what the parts take. A part inside a part counts for the outer one.

    Args:
        device: On CUDA the time between two events of the stream is taken, which includes waiting for the host.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._spans: list[tuple[Part, Any, Any]] = []
        self._inside = threading.local()
        self._started_s = time.perf_counter()

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """Times what happens while it holds."""
        if getattr(self._inside, "depth", 0):
            yield
            return
        self._inside.depth = 1
        begin = self._mark()
        try:
            yield
        finally:
            self._inside.depth = 0
            self._spans.append((part, begin, self._mark()))

    def start(self) -> None:
        """Forgets everything; the whole begins now."""
        self._synchronise()
        self._spans.clear()
        self._started_s = time.perf_counter()

    def milliseconds(self) -> dict[str, float]:
        """Of each part since :meth:`start`, of the rest ("host and waiting") and of the whole ("all")."""
        self._synchronise()
        whole = 1000 * (time.perf_counter() - self._started_s)
        sums: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        for part, begin, end in self._spans:
            sums[part] += begin.elapsed_time(end) if self._on_cuda else 1000 * (end - begin)
        return {**sums, **rest_of(sums, whole)}

    def _mark(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _synchronise(self) -> None:
        if self._on_cuda:
            torch.cuda.synchronize()


def rest_of(parts: Mapping[str, float], whole: float) -> dict[str, float]:
    """What is left of the whole beside the parts ("host and waiting"), and the whole ("all")."""
    return {"host and waiting": max(0.0, whole - sum(parts.values())), "all": whole}
