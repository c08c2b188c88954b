"""The files of a run directory, with one promise on which everything rests: a name is created once, by one writer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.storage.filesystem import is_s3

PROBE_PATH: Final = "probe"  # one name for all: what a killed start has left goes with the next one's


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file as a listing shows it.

    Attributes:
        path: Relative to the run directory, with "/".
        size_bytes: Size in bytes.
        modified_s: Time of the last change, in seconds since 1970, by the store's clock.
    """

    path: str
    size_bytes: int
    modified_s: float


class RunStore(Protocol):
    """A directory, local or on S3. Pickles; may be used by several threads.

    Paths are relative with "/" ("labels/base/shard/unit.parquet"); impossible ones raise StorageError. Failures raise
    InputError (missing bucket, denied) or StorageError (after retries), with sentences for people.
    """

    @property
    def uri(self) -> str:
        """Absolute path, or "s3://bucket/path"; no slash at its end."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Store a file under a new name: whole and durable, or not at all. Exactly one of many writers is told True.

        Returns:
            False when the name exists already. Where the answer to our own request was lost on the way, the repeated
            request finds the name taken, and the answer is False although the file is ours: so False means "it is
            there", not "somebody else did it".
        """
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Store a file whether or not the name exists: a reader sees the old one or the new one, whole."""
        ...

    def replace_from_file(self, path: str, local_file: Path) -> None:
        """Like :meth:`replace`, from a local file of any size, which is never in memory as a whole."""
        ...

    def read(self, path: str) -> bytes:
        """The whole content.

        Raises:
            FileNotFoundError: There is no such file.
        """
        ...

    def open(self, path: str) -> BinaryIO:
        """A seekable binary reader that fetches what is read; close it.

        Raises:
            FileNotFoundError: There is no such file.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """All files below a directory, at any depth, sorted by path; none where it does not exist.

        Args:
            prefix: A directory: "a/1" shows "a/1/x" and neither "a/10/x" nor a file "a/1". "" is everything.
        """
        ...

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        ...

    def delete(self, path: str) -> None:
        """Remove a file; nothing happens where there is none."""
        ...

    def remove_abandoned(self) -> None:
        """Remove what writers that were killed more than an hour ago have left; below labels/ a listing does that."""
        ...

    def location(self, path: str) -> str:
        """Where a file is, for people and other programs: absolute path, or s3:// uri."""
        ...


def open_store(uri: str, storage: StorageSettings) -> RunStore:
    """The store of a run directory. Creates nothing and contacts nobody.

    Args:
        uri: Local path, file:// or s3://bucket/path.
        storage: How S3 is reached.

    Raises:
        InputError: Unknown scheme, or no bucket.
    """
    if is_s3(uri):
        from sam3lt_ray.storage.s3_store import S3Store

        return S3Store(uri, storage)
    from sam3lt_ray.storage.local_store import LocalStore

    return LocalStore(uri, storage)


def probe_conditional_put(store: RunStore) -> bool:
    """Whether the store keeps its promise: creates a small file twice and removes it.

    Returns:
        True when the second creation was refused; False for S3 servers that ignore If-None-Match.

    Raises:
        InputError: The directory cannot be written.
        StorageError: The server failed, or does not implement conditional requests at all.
    """
    path = PROBE_PATH
    try:
        store.create(path, b"first")
        return not store.create(path, b"second")
    finally:
        store.delete(path)
