"""A run directory on a file system: temporary name, fsync, link without replacing, fsync of the directory."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import InputError
from sam3lt_ray.storage.failures import describe_storage_failure
from sam3lt_ray.storage.filesystem import local_path
from sam3lt_ray.storage.ledger import LABELS_PREFIX
from sam3lt_ray.storage.store import StoredFile
from sam3lt_ray.storage.store_paths import TEMPORARY_PREFIX, checked_prefix, checked_segments

_ABANDONED_AFTER_S: Final = 3600.0
_COPY_BYTES: Final = 2**20
_NO_HARD_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_RESCUED: Final = "lost+found"  # at the root of a volume; only root may look into it
_NOT_WRITABLE: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_PATH: Final = {errno.ENOENT, errno.ENOTDIR, errno.EEXIST}
_NO_FOLDER_SYNC: Final = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}


class LocalStore:
    """See :class:`sam3lt_ray.storage.store.RunStore`.

    Args:
        uri: Path or file:// uri; made absolute.
        storage: Only kept for error messages, so that both stores are made alike.
    """

    def __init__(self, uri: str, storage: StorageSettings) -> None:
        self._root = Path(local_path(uri))
        self._storage = storage

    def __repr__(self) -> str:
        return f"LocalStore({self.uri!r})"

    @property
    def uri(self) -> str:
        """Absolute path."""
        return str(self._root)

    def create(self, path: str, data: bytes) -> bool:
        """Store under a new name; False when it exists."""
        target = self._file(path)
        with self._explained(target):
            if _is_taken(target):
                return False
            temporary = self._write_beside(target, io.BytesIO(data))
            try:
                created = _give_name(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)
            return created

    def replace(self, path: str, data: bytes) -> None:
        """Store, whether or not the name exists."""
        self._replace_from(path, io.BytesIO(data))

    def replace_from_file(self, path: str, local_file: Path) -> None:
        """Store a local file, whether or not the name exists."""
        with local_file.open("rb") as source:
            self._replace_from(path, source)

    def _replace_from(self, path: str, source: BinaryIO) -> None:
        target = self._file(path)
        with self._explained(target):
            temporary = self._write_beside(target, source)
            try:
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)

    def read(self, path: str) -> bytes:
        """The whole content."""
        file = self._file(path)
        with self._explained(file, may_be_missing=True):
            return file.read_bytes()

    def open(self, path: str) -> BinaryIO:
        """A seekable reader."""
        file = self._file(path)
        with self._explained(file, may_be_missing=True):
            return file.open("rb")

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """All files below a directory; removes what killed writers left there more than an hour ago."""
        segments = checked_prefix(prefix)
        folder = self._root.joinpath(*segments)
        found: list[StoredFile] = []
        with self._explained(folder):
            _collect(folder, "".join(segment + "/" for segment in segments), found)
        yield from sorted(found, key=lambda file: file.path)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        file = self._file(path)
        with self._explained(file):
            return file.is_file()

    def delete(self, path: str) -> None:
        """Remove a file if there is one."""
        file = self._file(path)
        with self._explained(file), suppress(FileNotFoundError, NotADirectoryError):
            file.unlink()

    def remove_abandoned(self) -> None:
        """Remove what killed writers left more than an hour ago, anywhere but below labels/, which may be large."""
        with self._explained(self._root), suppress(FileNotFoundError), os.scandir(self._root) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != LABELS_PREFIX:
                        _collect(Path(entry.path), "", [])
                elif entry.name.startswith(TEMPORARY_PREFIX):
                    _remove_abandoned(entry)

    def location(self, path: str) -> str:
        """Absolute path."""
        return str(self._file(path))

    def _file(self, path: str) -> Path:
        return self._root.joinpath(*checked_segments(path))

    def _write_beside(self, target: Path, source: BinaryIO) -> Path:
        """The temporary file. Where nothing can be stored at all, a person is told of the place that they named."""
        try:
            _make_folder(target.parent)
            return _write_temporary(target.parent, source)
        except OSError as error:
            if error.errno in _NOT_WRITABLE:
                raise describe_storage_failure(error, str(self._root), self._storage) from None
            if error.errno in _NO_PATH and not self._root.is_dir():
                raise InputError(
                    f"No folder can be made at {self._root} ({os.strerror(error.errno)}). Check the path, or choose "
                    "another place (run.output, or --output where a command has it)."
                ) from None
            raise

    @contextmanager
    def _explained(self, place: Path, *, may_be_missing: bool = False) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if may_be_missing and isinstance(error, FileNotFoundError | NotADirectoryError):
                raise FileNotFoundError(errno.ENOENT, "There is no such file", str(place)) from None
            raise describe_storage_failure(error, str(place), self._storage) from None


def _is_taken(target: Path) -> bool:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    return target.exists() or target.is_symlink()


def _make_folder(folder: Path) -> None:
    """Create a directory so that its name survives a power failure like the files in it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        # Another writer was faster; or a file has this name, and then nothing can be stored below it.
        if not folder.is_dir():
            raise
    _sync_folder(folder.parent)


def _write_temporary(folder: Path, source: BinaryIO) -> Path:
    # The name does not contain the final one: that may already be as long as names can be.
    temporary = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            shutil.copyfileobj(source, file, _COPY_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def _give_name(temporary: Path, target: Path) -> bool:
    """Name a finished file; False when the name is taken. There is no moment at which the name shows part of it."""
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _give_name_under_lock(temporary, target)
    return True


def _give_name_under_lock(temporary: Path, target: Path) -> bool:
    """For file systems without hard links (exFAT, some FUSE and SMB mounts): look and rename under the folder's lock.

    The kernel drops the lock when its holder dies, so nothing can be left locked. It holds between the processes of
    one machine, and between machines only where the file system shares its locks.
    """
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if _is_taken(target):
            return False
        temporary.rename(target)
        return True
    finally:
        os.close(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a directory; there the name is as durable as they make it.
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _collect(folder: Path, prefix: str, found: list[StoredFile]) -> None:
    # A directory or file may vanish while we look: other processes work here.
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != _RESCUED:
                        _collect(Path(entry.path), f"{prefix}{entry.name}/", found)
                elif entry.name.startswith(TEMPORARY_PREFIX):
                    _remove_abandoned(entry)
                elif entry.is_file():
                    status = entry.stat()
                    found.append(StoredFile(prefix + entry.name, status.st_size, status.st_mtime))


def _remove_abandoned(entry: os.DirEntry[str]) -> None:
    if time.time() - entry.stat().st_mtime > _ABANDONED_AFTER_S:
        # Somebody who may only read the run can still list it.
        with suppress(OSError):
            Path(entry.path).unlink()
