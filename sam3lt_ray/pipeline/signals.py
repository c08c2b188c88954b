"""Ctrl-C and SIGTERM: both ask a run to stop in good order, and see that it stops."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from sam3lt_ray.errors import EXIT_RETRY

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody asked the run to stop.

    The signal also raises KeyboardInterrupt, to end a wait at once. But an exception that arrives while foreign code
    runs in a callback may be swallowed there, so a loop that can go on for long asks :meth:`check` in every turn.

    Args:
        ends_process_after_s: A good order may need storage or Ray, and wait for them for minutes. After so many seconds
            the process is ended instead; None: never.
        end_process: Ends it.
    """

    def __init__(
        self, ends_process_after_s: float | None = None, end_process: Callable[[int], object] = os._exit
    ) -> None:
        self._requested = False
        self._ends_process_after_s = ends_process_after_s
        self._end_process = end_process
        self._timer: threading.Timer | None = None
        self._depth = 0

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived."""
        if self._requested:
            raise KeyboardInterrupt

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive signals meanwhile; may be nested, where other code has put handlers of its own in between."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        previous = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        self._depth += 1
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._depth -= 1
            if self._timer is not None and self._depth == 0:
                self._timer.cancel()

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._requested and self._ends_process_after_s is not None:
            self._timer = threading.Timer(self._ends_process_after_s, self._end)
            self._timer.daemon = True
            self._timer.start()
        self._requested = True
        raise KeyboardInterrupt

    def _end(self) -> None:
        sys.stderr.write(
            f"\nStopped by a signal, but not in good order within {self._ends_process_after_s:g} s: storage or Ray "
            "does not answer. What was committed is kept; the same command goes on from there, perhaps after a minute "
            "in which it waits for the lease of this process.\n"
        )
        sys.stderr.flush()
        self._end_process(EXIT_RETRY)
