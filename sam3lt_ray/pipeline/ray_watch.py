"""A driver that has lost its Ray says so and ends, before Ray ends it without a word.

Ray's core ends a process that has lost its gcs for a minute, or the raylet of its node, by leaving it with exit code 1:
no exception reaches Python, nothing is written, and a scheduler takes the run for one that failed for good. So the
driver looks itself, and is quicker. It cannot go on to an orderly end either: whatever asks Ray for something waits for
the very minute after which Ray ends the process.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import ray

_RAY_WAITS_NAME: Final = "RAY_gcs_rpc_server_reconnect_timeout_s"
_RAY_WAITS_S: Final = 60.0  # where that is not set
_SHARE_OF_RAY_S_PATIENCE: Final = 2 / 3
_RAYLET_PATIENCE_S: Final = 4.0  # Ray has ended drivers 15 s after their raylet
_ASK_EVERY_S: Final = 2.0
_ANSWER_WITHIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A part of Ray that listens somewhere.

    Attributes:
        name: What a person calls it.
        host: Where.
        port: Where there.
        patience_s: Silence for this long means that it is gone.
    """

    name: str
    host: str
    port: int
    patience_s: float


def takes_connections(endpoint: Endpoint) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((endpoint.host, endpoint.port), timeout=_ANSWER_WITHIN_S).close()
    except OSError:
        return False
    return True


@contextmanager
def watching_ray(give_up: Callable[[str], int]) -> Iterator[None]:
    """Watch the Ray that this process has joined.

    Args:
        give_up: Called in a thread of its own with what was lost; says and writes down what is to be said, and returns
            the exit code. Then the process ends at once.
    """
    with watching(_endpoints(), give_up):
        yield


@contextmanager
def watching(
    endpoints: Sequence[Endpoint],
    give_up: Callable[[str], int],
    end_process: Callable[[int], object] = os._exit,
    answers: Callable[[Endpoint], bool] = takes_connections,
    ask_every_s: float = _ASK_EVERY_S,
) -> Iterator[None]:
    """The same with given endpoints; what does not answer at the beginning is not watched."""
    over, ending = threading.Event(), threading.Lock()
    reachable = [endpoint for endpoint in endpoints if answers(endpoint)]

    def watch() -> None:
        silent_since_s: dict[Endpoint, float] = {}
        while not over.wait(ask_every_s):
            for endpoint in reachable:
                if answers(endpoint):
                    silent_since_s.pop(endpoint, None)
                    continue
                # Counted from the first question without an answer: a driver that slept has asked none meanwhile.
                since_s = silent_since_s.setdefault(endpoint, time.monotonic())
                if time.monotonic() - since_s < endpoint.patience_s:
                    continue
                with ending:
                    if not over.is_set():
                        _end(give_up(f"{endpoint.name} at {endpoint.host}:{endpoint.port} is gone"), end_process)
                return

    thread = threading.Thread(target=watch, name="sam3lt-ray-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        with ending:
            over.set()


def _end(exit_code: int, end_process: Callable[[int], object]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    end_process(exit_code)


def _endpoints() -> list[Endpoint]:
    """The gcs, and the raylet that this process belongs to."""
    context = ray.get_runtime_context()
    host, _, port = str(context.gcs_address).rpartition(":")
    patience_s = _SHARE_OF_RAY_S_PATIENCE * float(os.environ.get(_RAY_WAITS_NAME, _RAY_WAITS_S))
    gcs = Endpoint("the gcs", host.strip("[]"), int(port), patience_s)
    own = [node for node in ray.nodes() if node["NodeID"] == context.get_node_id()]
    name = "the raylet of this node"
    return [
        gcs,
        *(Endpoint(name, node["NodeManagerAddress"], node["NodeManagerPort"], _RAYLET_PATIENCE_S) for node in own),
    ]
