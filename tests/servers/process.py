"""Starting a server process for tests, so that it never outlives them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

# A killed pytest runs no fixture teardown: Linux then ends the child, because this flag survives the exec.
_DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "os.execvp(sys.argv[1], sys.argv[1:])\n"
)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listening in sockets:
            listening.bind(("127.0.0.1", 0))
        return [listening.getsockname()[1] for listening in sockets]


class ServerProcess:
    """A running server: own process group, output in a file, stopped with everything it started.

    Args:
        command: Program and arguments.
        log: File that takes stdout and stderr.
        cwd: Working directory.
        env: Whole environment; None: ours.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _DIE_WITH_PARENT, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=cwd,
                env=env,
            )

    def wait_until(self, ready: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait until ``ready()``; RuntimeError with the end of the log when it died or took too long."""
        deadline_s = time.monotonic() + timeout_s
        while not ready():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline_s:
                self.stop()
                what = f"ended with {code}" if code is not None else f"was not ready after {timeout_s:.0f} s"
                raise RuntimeError(f"the test server {what}:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill the process group; returns when it is gone. Test data needs no orderly end (10 s for SeaweedFS)."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
