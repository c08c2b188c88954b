"""Where a process runs: its address, and what its command begins with to come there."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where processes run.

    Attributes:
        address: The IPv4 address they listen on.
        launcher: What their commands begin with, such as a way into a network namespace.
    """

    address: str
    launcher: tuple[str, ...] = ()

    def without(self, folder: Path) -> Place:
        """The same place with nothing in a folder: for whoever runs there, somebody else's disk.

        Args:
            folder: What is hidden. It is empty there, and what is written there is gone with the last process.
        """
        rights = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        hide = ("sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder))
        return replace(self, launcher=(*self.launcher, "unshare", *rights, "--mount", *hide))


HERE = Place("127.0.0.1")
