"""Disks for faults: small ones that fill up and ones that cannot be written, also not by root. They need mounts."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

DISK_BYTES = 1_000_000


class Disk:
    """A file system of its own in memory.

    Args:
        folder: Where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def free_bytes(self) -> int:
        """What fits on it now."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def leave_free(self, num_bytes: int) -> None:
        """Fill it up to a rest."""
        self._ballast.write_bytes(bytes(self.free_bytes - num_bytes))

    def make_room(self) -> None:
        """Remove what filled it."""
        self._ballast.unlink()

    def make_read_only(self) -> None:
        """What Linux does with a disk that fails; refused while a file is being written, so it is asked again."""
        deadline = time.monotonic() + 30
        while _mount("-o", "remount,ro", str(self.folder)) != 0:
            assert time.monotonic() < deadline, "it is always being written"

    def make_writable(self) -> None:
        """Undo it."""
        assert _mount("-o", "remount,rw", str(self.folder)) == 0


def _mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 1 MB; skipped where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if _mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)) != 0:
        pytest.skip("needs the right to mount file systems (root)")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
