"""Hosts of their own on one machine: network namespaces with addresses of their own, joined by a bridge.

Needs root and iproute2. A host can be cut off: its processes go on, but nobody hears of them any more, which is what a
broken switch, a frozen machine or a vanished virtual machine looks like to everybody else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.place import Place
from tests.ray_cluster import process_title


@dataclass(frozen=True)
class Host:
    """One of them.

    Attributes:
        namespace: Its network namespace.
        address: Its IPv4 address.
    """

    namespace: str
    address: str

    @property
    def place(self) -> Place:
        """Where a command runs that is to run on it."""
        return Place(self.address, ("ip", "netns", "exec", self.namespace))

    def pids(self, title: str) -> list[int]:
        """Its processes whose title contains something, such as the name of a task."""
        found = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True)
        return [pid for pid in map(int, found.stdout.split()) if title in process_title(pid)]

    def cut_off(self) -> None:
        """Take its link down; nobody gets an answer from it, nor a refusal."""
        _ip("link", "set", _outer_end(self), "down")


@contextmanager
def network_of_hosts(names: tuple[str, ...]) -> Iterator[list[Host]]:
    """Make hosts that reach each other and are reached from here; skips the test where that is not allowed.

    Args:
        names: One letter or two for each: names of interfaces are short.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("hosts of their own need root and iproute2")
    # Distinct from what another test session on this machine may have made.
    mark = os.getpid() % 65536
    network = f"10.{128 + mark // 256 % 64}.{mark % 256}"
    bridge = f"s3lt{mark:x}"
    hosts = [Host(f"{bridge}-{name}", f"{network}.{10 + number}") for number, name in enumerate(names)]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{network}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for host in hosts:
            _ip("netns", "add", host.namespace)
            _ip("link", "add", _outer_end(host), "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            _ip("link", "set", _outer_end(host), "master", bridge, "up")
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.namespace, "link", "set", "eth0", "up")
            _ip("-n", host.namespace, "link", "set", "lo", "up")
            _ip("-n", host.namespace, "route", "add", "default", "via", f"{network}.1")
        yield hosts
    finally:
        for host in hosts:
            # A namespace lives as long as a process in it, and so does its end of the cable: both ends go here.
            if Path("/sys/class/net", _outer_end(host)).exists():
                _ip("link", "delete", _outer_end(host))
            if Path("/run/netns", host.namespace).exists():
                _ip("netns", "delete", host.namespace)
        if Path("/sys/class/net", bridge).exists():
            _ip("link", "delete", bridge)


def _outer_end(host: Host) -> str:
    return host.namespace


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
