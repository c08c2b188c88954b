"""A run directory whose commits can be held, or their process killed, at an exact instant."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.storage import local_store
from sam3lt_ray.storage.local_store import LocalStore
from sam3lt_ray.storage.s3_store import S3Store

_LONGEST_S = 120.0


@dataclass(frozen=True)
class StopPoint:
    """Where one commit stops; the others go on.

    Attributes:
        moment: "before": nothing is written; "written": whole and durable under a temporary name; "named": it has its
            name, its directory is not synced and the temporary name still there; "after": all done, nobody told. On S3
            "written" means that the PUT is on its way, and there is no "named".
        folder: The file ``reached`` appears here when a commit has come there; ``go`` lets it go on.
        skip: Commits that pass first.
        die: The process kills itself there.
    """

    MOMENTS: ClassVar = ("before", "written", "named", "after")

    moment: str
    folder: str
    skip: int = 0
    die: bool = False

    def reach(self, moment: str) -> None:
        """Called by the store at each moment of a commit."""
        if moment != self.moment:
            return
        with (Path(self.folder) / "arrivals").open("ab", buffering=0) as arrivals:
            arrivals.write(b".")
            if arrivals.tell() <= self.skip:
                return
        try:
            (Path(self.folder) / "reached").open("x").close()
        except FileExistsError:
            return
        if self.die:
            os.kill(os.getpid(), signal.SIGKILL)
        deadline = time.monotonic() + _LONGEST_S
        while not (Path(self.folder) / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)


class StoppingStore(LocalStore):
    """See :class:`StopPoint`."""

    def __init__(self, uri: str, storage: StorageSettings, stop: StopPoint) -> None:
        super().__init__(uri, storage)
        self._stop = stop

    def create(self, path: str, data: bytes) -> bool:
        """Like LocalStore, with stops on the way."""
        if not path.startswith("labels/"):
            return super().create(path, data)
        self._stop.reach("before")
        give_name = local_store._give_name

        def with_stops(temporary: Path, target: Path) -> bool:
            self._stop.reach("written")
            created = give_name(temporary, target)
            self._stop.reach("named")
            return created

        local_store._give_name = with_stops
        try:
            created = super().create(path, data)
        finally:
            local_store._give_name = give_name
        self._stop.reach("after")
        return created


class StoppingS3Store(S3Store):
    """See :class:`StopPoint`."""

    def __init__(self, uri: str, storage: StorageSettings, stop: StopPoint) -> None:
        super().__init__(uri, storage)
        self._stop = stop

    def __reduce__(self) -> tuple[Any, ...]:
        return StoppingS3Store, (self.uri, self._storage, self._stop)

    def create(self, path: str, data: bytes) -> bool:
        """Like S3Store, with stops on the way."""
        if not path.startswith("labels/"):
            return super().create(path, data)
        self._stop.reach("before")
        with ThreadPoolExecutor(1) as sender:
            sent = sender.submit(super().create, path, data)
            self._stop.reach("written")
            created = sent.result()
        self._stop.reach("after")
        return created


def clear(folder: Path) -> None:
    """Ready for the next stop in the same folder."""
    for name in ("arrivals", "reached", "go"):
        with suppress(FileNotFoundError):
            (folder / name).unlink()
