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

    def without(self, *folders: Path) -> Place:
        """The same place with nothing in some folders: for whoever runs there, somebody else's disk.

        Args:
            folders: What is hidden. They are empty there, and what is written there is gone with the last process.
        """
        rights = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        hidden = tuple(
            part for folder in folders for part in ("sh", "-ec", 'mount -t tmpfs none "$0"; exec "$@"', str(folder))
        )
        return replace(self, launcher=(*self.launcher, "unshare", *rights, "--mount", *hidden))


HERE = Place("127.0.0.1")
