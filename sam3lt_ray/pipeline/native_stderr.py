"""Keeping what native libraries write to file descriptor 2 out of a person's terminal."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def _is_the_process_s_own(stream: TextIO) -> bool:
    return stream is sys.__stderr__ and stream.fileno() == 2


@contextmanager
def quiet_native_stderr() -> Iterator[None]:
    """Send file descriptor 2 to a file, and let ``sys.stderr`` go on to where it went.

    Ray's core writes its own log lines there, past Python's logging, among them one at every start that says that
    actors with large arguments may not restart. Python's own output, progress and tracebacks keep their place. Where
    ``sys.stderr`` is not the process's own (under a test runner, in a notebook), nothing is done.
    """
    original = sys.stderr
    if not _is_the_process_s_own(original):
        yield
        return
    original.flush()
    terminal = os.dup(2)
    with os.fdopen(terminal, "w", buffering=1, closefd=False) as replacement:
        with tempfile.TemporaryFile() as log:  # without a name: nothing is left of it, however this process ends
            os.dup2(log.fileno(), 2)
        sys.stderr = replacement
        try:
            yield
        finally:
            sys.stderr = original
            os.dup2(terminal, 2)
    os.close(terminal)
