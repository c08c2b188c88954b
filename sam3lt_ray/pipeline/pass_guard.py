"""Ends worker processes that read and commit when nobody wants their work any more.

A task whose driver does not answer keeps its CPUs for as long as that driver's process exists, and so do the workers
that Ray has leased to it. A driver that sleeps (SIGSTOP, a suspended machine) could thus keep its successor on the same
cluster from ever starting a reader. The segment actors have a watchdog of their own; these workers go from task to
task, so each process has one thread that looks after the pass it last worked for.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Final

from sam3lt_ray.pipeline.pass_marker import is_current
from sam3lt_ray.storage.store import RunStore

_EXIT_SOFTWARE: Final = 70  # EX_SOFTWARE of sysexits.h; Ray starts another process where one is needed


@dataclass(frozen=True, slots=True)
class PassGuard:
    """Goes with each task of a pass.

    Attributes:
        store: The run directory.
        pass_id: The pass.
        ask_every_s: A process that shows no sign of life for this long asks whether the pass is still on.
    """

    store: RunStore
    pass_id: str
    ask_every_s: float = 10.0

    def touch(self) -> None:
        """A sign of life: something was begun, read or committed."""
        _PROCESS.touch(self)


class _ProcessWatch:
    def __init__(self) -> None:
        self._guard: PassGuard | None = None
        self._touched = threading.Event()
        self._thread: threading.Thread | None = None

    def touch(self, guard: PassGuard) -> None:
        self._guard = guard
        self._touched.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="sam3lt-pass-guard", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while (guard := self._guard) is not None:
            self._touched.clear()
            time.sleep(guard.ask_every_s)
            is_silent = guard is self._guard and not self._touched.is_set()
            if is_silent and not is_current(guard.store, guard.pass_id):
                end_process("the pass is over")


_PROCESS: Final = _ProcessWatch()


def end_process(reason: str) -> None:
    """End this worker process at once; what it holds is free then."""
    sys.stderr.write(f"{reason}; ending the process\n")
    sys.stderr.flush()
    os._exit(_EXIT_SOFTWARE)
