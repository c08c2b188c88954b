"""Connections to hosts that Ray has given up, on several addresses of this machine."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.pipeline import lost_hosts
from sam3lt_ray.pipeline.lost_hosts import hang_up_on, hanging_up_on_lost_hosts, silent_addresses

LOST, OTHER = "127.0.0.77", "127.0.0.78"


@pytest.fixture
def connections() -> Iterator[dict[str, socket.socket]]:
    """One to each address, from this process."""
    with ExitStack() as stack:
        found = {}
        for address in (LOST, OTHER):
            listening = stack.enter_context(socket.create_server((address, 0)))
            found[address] = stack.enter_context(socket.create_connection(listening.getsockname(), timeout=10))
            stack.enter_context(listening.accept()[0])
        yield found


def test_whoever_waits_for_a_lost_host_sees_the_connection_end(connections: dict[str, socket.socket]) -> None:
    assert hang_up_on(LOST) == 1
    assert connections[LOST].recv(1) == b""
    connections[OTHER].settimeout(0.05)
    with pytest.raises(TimeoutError):
        connections[OTHER].recv(1)
    assert hang_up_on(LOST) == 0  # nothing is left that could be closed
    assert hang_up_on("127.0.0.79") == 0


def test_an_ipv6_socket_to_an_ipv4_host_is_known_by_its_ipv4_address() -> None:
    with (
        socket.create_server((LOST, 0)) as listening,
        socket.socket(socket.AF_INET6) as connection,
    ):
        connection.connect((f"::ffff:{LOST}", listening.getsockname()[1]))
        assert hang_up_on(LOST) == 1


def test_no_file_is_left_open(tmp_path: Path, connections: dict[str, socket.socket]) -> None:
    with (tmp_path / "file").open("w"), socket.socket(socket.AF_UNIX), socket.socket():
        before = _open_files()
        hang_up_on(LOST)
        assert _open_files() == before


def _open_files() -> list[tuple[str, int]]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append((entry.name, stat.S_IFMT(os.fstat(int(entry.name)).st_mode)))
        except OSError:
            continue  # the listing's own
    return sorted(found)


@pytest.mark.parametrize(
    ("nodes", "silent"),
    [
        ([], set()),
        ([("10.0.0.1", True), ("10.0.0.2", True)], set()),
        ([("10.0.0.1", True), ("10.0.0.2", False)], {"10.0.0.2"}),
        ([("10.0.0.1", False), ("10.0.0.1", True)], set()),  # another node has joined from there
        ([("10.0.0.1", False), ("10.0.0.2", False), ("10.0.0.3", True)], {"10.0.0.1", "10.0.0.2"}),
    ],
)
def test_silent_is_an_address_without_a_living_node(nodes: list[tuple[str, bool]], silent: set[str]) -> None:
    listed: list[dict[str, Any]] = [{"NodeManagerAddress": address, "Alive": alive} for address, alive in nodes]
    assert silent_addresses(listed) == silent


class Cluster:
    """Nodes as Ray tells them; counts how often it is asked."""

    def __init__(self, **alive: bool) -> None:
        self.alive = alive
        self.asked = threading.Semaphore(0)

    def nodes(self) -> list[dict[str, Any]]:
        self.asked.release()
        return [{"NodeManagerAddress": address, "Alive": alive} for address, alive in self.alive.items()]

    def await_looks(self, number: int) -> None:
        for _ in range(number):
            assert self.asked.acquire(timeout=10)


def test_a_loss_is_told_once_whether_or_not_there_was_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(before=False, stays=True, lost=True)
    with hanging_up_on_lost_hosts(cluster.nodes, look_every_s=0.001):
        cluster.alive["lost"] = False
        cluster.await_looks(5)
    assert [record.getMessage().split(";")[0] for record in caplog.records] == ["Ray has lost the node at lost"]


def test_a_loss_just_before_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(lost=True)
    with hanging_up_on_lost_hosts(cluster.nodes, look_every_s=3600):
        cluster.alive["lost"] = False
    assert "Ray has lost the node at lost" in caplog.text


def test_who_comes_back_may_be_lost_again(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(node=True)
    with hanging_up_on_lost_hosts(cluster.nodes, look_every_s=0.001):
        for alive in (False, True, False):
            cluster.alive["node"] = alive
            while cluster.asked.acquire(blocking=False):  # looks at what was before
                pass
            cluster.await_looks(3)
    assert len(caplog.records) == 2


def test_a_connection_made_after_the_loss_is_closed_too() -> None:
    cluster = Cluster(**{LOST: True})
    watch = lost_hosts._Watch(cluster.nodes)
    cluster.alive[LOST] = False
    watch.look()
    with socket.create_server((LOST, 0)) as listening, _connected(listening) as connection:
        watch.look()
        assert connection.recv(1) == b""


@pytest.mark.parametrize("alive_before", [True, False], ids=["lost a while ago", "lost before we came"])
def test_what_else_lives_at_a_lost_address_is_left_alone(alive_before: bool) -> None:
    cluster = Cluster(**{LOST: alive_before})
    watch = lost_hosts._Watch(cluster.nodes)
    cluster.alive[LOST] = False
    for _ in range(lost_hosts._LOOKS_AT_A_LOSS if alive_before else 1):
        watch.look()
    with socket.create_server((LOST, 0)) as listening, _connected(listening) as connection:
        for _ in range(3):
            watch.look()
        assert hang_up_on(LOST) == 1, "it was closed"
        assert connection.recv(1) == b""


@contextmanager
def _connected(listening: socket.socket) -> Iterator[socket.socket]:
    with socket.create_connection(listening.getsockname(), timeout=10) as connection, listening.accept()[0]:
        yield connection
