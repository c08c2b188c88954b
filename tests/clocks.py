"""A clock that stands still until it is told: for leases in tests."""

from __future__ import annotations

from collections.abc import Callable


class SteppedClock:
    """See :class:`sam3lt_ray.storage.lease.Clock`; waiting moves it on at once."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0
        self.on_sleep: Callable[[], None] = lambda: None  # what others do meanwhile

    def time(self) -> float:
        return self.now_s

    def elapsed(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.on_sleep()
