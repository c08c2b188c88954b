"""Reading byte ranges of one file, local or on S3, with a bounded number of new attempts."""

from __future__ import annotations

import errno
import io
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import pyarrow as pa

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import StorageError
from sam3lt_ray.records import Shard
from sam3lt_ray.storage.failures import RepeatedlyFailedError, is_unreachable, s3_status
from sam3lt_ray.storage.filesystem import describe_storage_failure, open_filesystem

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# The S3 filesystem has its own patience, which is not multiplied here. This layer is for what passes it by, and for
# network mounts that stumble.
RETRY_DELAYS_S: Final = (0.2, 1.0, 4.0)
_FINAL_ERRORS: Final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_IMPOSSIBLE_NAME: Final = {errno.ENAMETOOLONG, errno.ELOOP}

_Result = TypeVar("_Result")


def with_retries(request: Callable[[], _Result], delays_s: tuple[float, ...] | None = None) -> _Result:
    """Answer of ``request``, repeated after errors that may pass; the last error is raised as it came.

    Args:
        request: Must be safe to repeat.
        delays_s: Pauses between attempts; None: the module's ``RETRY_DELAYS_S``.
    """
    for delay_s in RETRY_DELAYS_S if delays_s is None else delays_s:
        try:
            return request()
        except _FINAL_ERRORS:
            raise
        except Exception as error:  # botocore, aiohttp and the system each have their own families of passing errors
            if s3_status(error) != 0 or is_unreachable(error) or isinstance(error, RepeatedlyFailedError):
                raise
            if is_impossible_name(error):
                raise
            time.sleep(delay_s * random.uniform(0.5, 1.0))
    return request()


def is_impossible_name(error: Exception) -> bool:
    """Whether the system says that nothing can be under such a name: too long, or links in a circle."""
    return isinstance(error, OSError) and s3_status(error) == 0 and error.errno in _IMPOSSIBLE_NAME


class RangedFile:
    """A file of known size, read by byte ranges; stateless between reads, so several threads may share it.

    Args:
        uri: Where it is.
        storage: How S3 is reached.
        expected: The shard as listed: a file that has another size or version now is refused.

    Attributes:
        uri: Where it is.
        size_bytes: Its size.

    Raises:
        StorageError: It is missing, denied, changed since it was listed, or storage keeps failing.
    """

    def __init__(self, uri: str, storage: StorageSettings, expected: Shard | None = None) -> None:
        self.uri = uri
        self._storage = storage
        self._filesystem: AbstractFileSystem
        self._filesystem, self._path = open_filesystem(uri, storage)
        info = self._attempt(lambda: self._filesystem.info(self._path))
        self.size_bytes = int(info["size"] or 0)
        if expected is not None:
            self._refuse_change(expected, file_version(info))

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """Bytes from ``offset`` on: exactly ``num_bytes``, fewer only at the end of the file.

        Raises:
            StorageError: Storage keeps failing or keeps returning too little.
        """
        end = min(offset + num_bytes, self.size_bytes)
        if end <= offset:
            return b""

        def request() -> bytes:
            data: bytes = self._filesystem.cat_file(self._path, start=offset, end=end)
            if len(data) != end - offset:
                raise OSError(f"bytes {offset} to {end} were asked for, but {len(data)} came")
            return data

        return self._attempt(request)

    def _attempt(self, request: Callable[[], _Result]) -> _Result:
        try:
            return with_retries(request)
        except Exception as error:
            # A shard that could be listed is no wrong request any more, whatever keeps it from being read now.
            failure = describe_storage_failure(error, self.uri, self._storage)
            raise (failure if isinstance(failure, StorageError) else StorageError(failure.message)) from None

    def _refuse_change(self, expected: Shard, version: str | None) -> None:
        size_changed = expected.size_bytes is not None and expected.size_bytes != self.size_bytes
        version_changed = None not in (expected.version, version) and expected.version != version
        if size_changed or version_changed:
            raise StorageError(
                f"The shard {expected.name} changed while the run was under way: it was {expected.size_bytes} bytes "
                f"(version {expected.version}) when it was listed and is {self.size_bytes} bytes (version {version}) "
                "now. Put the old file back, or label into a new run directory."
            )


def file_version(info: dict[str, object]) -> str | None:
    """What tells one content of a file from another: the ETag on S3, "mtime_ns-size" locally."""
    etag = info.get("ETag")
    if isinstance(etag, str) and etag:
        return etag.strip('"')
    mtime_s = info.get("mtime")
    if not isinstance(mtime_s, int | float):
        return None
    return f"{round(mtime_s * 1e9)}-{info['size']}"


class SeekableRanges(io.RawIOBase):
    """A :class:`RangedFile` as the file object that Arrow wants; every read is one ranged request.

    Attributes:
        failure: The storage error a read ended with. Readers in other languages may wrap or swallow what is raised.
        inspect: Sees every stretch (offset and bytes) before the reader does; what it raises, the reader meets.
    """

    def __init__(self, file: RangedFile) -> None:
        super().__init__()
        self.failure: StorageError | None = None
        self.inspect: Callable[[int, bytes], None] | None = None
        self._file = file
        self._position = 0

    def as_arrow_file(self) -> pa.NativeFile:
        """The same file in Arrow's own type; the failure is still kept here."""
        return pa.PythonFile(self, mode="r")

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Position of the next read in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; see :meth:`io.IOBase.seek`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size_bytes}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Up to ``size`` bytes; all that is left for None or -1."""
        left = max(self._file.size_bytes - self._position, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        try:
            data = self._file.read_at(self._position, wanted)
        except StorageError as error:
            self.failure = error
            raise
        if self.inspect is not None:
            self.inspect(self._position, data)
        self._position += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer``; the number of bytes written."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
