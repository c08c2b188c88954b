"""Ctrl-C and SIGTERM: both ask a run to stop in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody asked the run to stop.

    The signal also raises KeyboardInterrupt, to end a wait at once. But an exception that arrives while foreign code
    runs in a callback may be swallowed there, so a loop that can go on for long asks :meth:`check` in every turn.
    """

    def __init__(self) -> None:
        self._requested = False

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
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._requested = True
        raise KeyboardInterrupt
