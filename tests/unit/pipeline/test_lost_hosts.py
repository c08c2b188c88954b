"""Connections to hosts that Ray has given up, on several addresses of this machine."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.pipeline.lost_hosts import hang_up_on, silent_addresses

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
