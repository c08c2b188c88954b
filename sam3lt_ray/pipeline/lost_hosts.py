"""Hangs up on hosts that Ray has given up, so that nobody waits for their answers.

A host that falls silent (a broken switch, a frozen machine) refuses nothing: whoever waits for its answer waits on. Ray
marks its node dead after about a minute and restarts its actors, but what the driver has asked of ordinary tasks there
stays open for as long as gRPC keeps the connection, which is minutes. Until then a pass stands still: its places for
reading and committing are taken.

So for a minute after a loss the driver closes its own connections to an address at which no living node is left. Ray
then sees what it sees when a node is killed, which it answers at once. After that the address is left alone: something
else may live there, such as the object store.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import ray

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 5.0
_LOOKS_AT_A_LOSS: Final = 12
_LOST: Final = "Ray has lost the node at %s; what it held is done by others (connections to it that were closed: %d)"
_ESTABLISHED: Final = 1  # TCP_ESTABLISHED of Linux's netinet/tcp.h
_OPEN_FILES: Final = Path("/proc/self/fd")


@contextmanager
def hanging_up_on_lost_hosts(
    nodes: Callable[[], Sequence[Mapping[str, Any]]] = ray.nodes, look_every_s: float = _LOOK_EVERY_S
) -> Iterator[None]:
    """For as long as this lasts, a thread looks for nodes that Ray calls dead, and says which it has lost meanwhile.

    Args:
        nodes: Tells all that ever were in the cluster, as ``ray.nodes()`` does. Ray must be there.
        look_every_s: Seconds between two looks. There is one more at an orderly end, so that the last loss is told too.
    """
    stop, watch = threading.Event(), _Watch(nodes)
    thread = threading.Thread(target=watch.look_until, args=(stop, look_every_s), name="sam3lt-lost-hosts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    watch.look()


class _Watch:
    def __init__(self, nodes: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        self._nodes = nodes
        # Address -> for how many looks more connections to it are closed; none to those lost before we came.
        self._lost = dict.fromkeys(silent_addresses(nodes()), 0)

    def look_until(self, stop: threading.Event, every_s: float) -> None:
        while not stop.wait(every_s):
            self.look()

    def look(self) -> None:
        # Whatever is wrong with Ray, the pass itself will say it.
        with suppress(Exception):
            lost = {address: self._lost.get(address, _LOOKS_AT_A_LOSS) for address in silent_addresses(self._nodes())}
            for address in sorted(address for address, looks in lost.items() if looks):
                closed = hang_up_on(address)
                lost[address] -= 1
                if address not in self._lost:
                    logger.warning(_LOST, address, closed)
            self._lost = lost


def silent_addresses(nodes: Sequence[Mapping[str, Any]]) -> set[str]:
    """Addresses of dead nodes at which no living one is.

    Args:
        nodes: As ``ray.nodes()`` tells them.
    """
    living = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    return {node["NodeManagerAddress"] for node in nodes if not node["Alive"]} - living


def hang_up_on(address: str) -> int:
    """Close this process's TCP connections to an address, whoever in it holds them.

    The holders keep their file descriptors: they see a connection that has ended.

    Args:
        address: An IP address.

    Returns:
        How many there were.
    """
    closed = 0
    for entry in _OPEN_FILES.iterdir():
        # Others open and close files meanwhile; one that is gone needs nothing.
        with suppress(OSError):
            closed += _hang_up(int(entry.name), address)
    return closed


def _hang_up(file_descriptor: int, address: str) -> bool:
    if not stat.S_ISSOCK(os.fstat(file_descriptor).st_mode):
        return False
    with socket.socket(fileno=os.dup(file_descriptor)) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return False
        is_open = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED
        if not is_open or _peer(connection) != address:
            return False
        connection.shutdown(socket.SHUT_RDWR)
        return True


def _peer(connection: socket.socket) -> str:
    return str(connection.getpeername()[0]).removeprefix("::ffff:")  # IPv4 behind a socket for both
