"""A run directory on S3: one PUT with If-None-Match per file."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import StorageError
from sam3lt_ray.storage.failures import describe_storage_failure, s3_error_code, s3_status
from sam3lt_ray.storage.filesystem import open_filesystem, split_s3_uri
from sam3lt_ray.storage.s3_filesystem import PatientS3FileSystem
from sam3lt_ray.storage.store import StoredFile
from sam3lt_ray.storage.store_paths import checked_prefix, checked_segments

_MAX_KEY_BYTES: Final = 1024
_MAX_PUT_BYTES: Final = 5 * 2**30
_READ_AHEAD_BYTES: Final = 2**20
_EXISTS_ALREADY: Final = 412
_NO_SUCH_RANGE: Final = 416


class S3Store:
    """See :class:`sam3lt_ray.storage.store.RunStore`.

    Args:
        uri: s3://bucket/path.
        storage: How S3 is reached.
    """

    def __init__(self, uri: str, storage: StorageSettings) -> None:
        bucket, root = split_s3_uri(uri)
        self._bucket = bucket
        self._root = root.strip("/")
        self._storage = storage
        self._filesystem = cast(PatientS3FileSystem, open_filesystem(uri, storage)[0])

    def __reduce__(self) -> tuple[type[S3Store], tuple[str, StorageSettings]]:
        # Connections stay where they are; the process that unpickles finds its own credentials.
        return S3Store, (self.uri, self._storage)

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    @property
    def uri(self) -> str:
        """As given, without a slash at its end."""
        return f"s3://{self._bucket}/{self._root}".rstrip("/")

    def create(self, path: str, data: bytes) -> bool:
        """Store under a new name; False when it exists."""
        with self._explained(path):
            try:
                self._put(path, data, {"IfNoneMatch": "*"})
            except OSError as error:
                if s3_status(error) != _EXISTS_ALREADY:
                    raise
                return False
            return True

    def replace(self, path: str, data: bytes) -> None:
        """Store, whether or not the name exists."""
        with self._explained(path):
            self._put(path, data, {})

    def replace_from_file(self, path: str, local_file: Path) -> None:
        """Store a local file, whether or not the name exists; a large one in parts, which show only when complete."""
        with self._explained(path):
            self._filesystem.put_file(str(local_file), f"{self._bucket}/{self._key(path)}")

    def read(self, path: str) -> bytes:
        """The whole content, by one GET."""
        with self._explained(path, may_be_missing=True):
            address = f"{self._bucket}/{self._key(path)}"
            try:
                # A range, because only the answer to one says how large the whole is: half a file would not be noticed.
                return bytes(self._filesystem.cat_file(address, start=0))
            except OSError as error:
                if s3_status(error) == _NO_SUCH_RANGE:  # an empty object has none
                    return b""
                raise

    def open(self, path: str) -> BinaryIO:
        """A seekable reader: one HEAD, then one ranged GET for each stretch read, up to 1 MiB ahead."""
        with self._explained(path, may_be_missing=True):
            address = f"{self._bucket}/{self._key(path)}"
            return cast(BinaryIO, self._filesystem.open(address, "rb", block_size=_READ_AHEAD_BYTES))

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """All files below a directory, by one request for 1,000 of them (many: some more, at the same time)."""
        base = f"{self._root}/" if self._root else ""
        below = base + "".join(part + "/" for part in checked_prefix(prefix))

        def read(item: dict[str, Any]) -> str | None:
            # Some tools mark directories by empty objects.
            if item["Key"].endswith("/"):
                return None
            return _packed(item["Key"].removeprefix(base), int(item["Size"]), item["LastModified"].timestamp())

        try:
            found = self._filesystem.list_objects(self._bucket, below, read)
        except Exception as error:
            raise describe_storage_failure(error, f"s3://{self._bucket}/{below}", self._storage) from None
        # AWS sorts by bytes, servers that keep real directories sort directory by directory.
        found.sort(reverse=True)
        while found:  # each is let go when it was told
            yield _unpacked(found.pop())

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        with self._explained(path):
            try:
                self._filesystem.call_s3("head_object", Bucket=self._bucket, Key=self._key(path))
            except FileNotFoundError:
                return False
            return True

    def delete(self, path: str) -> None:
        """Remove a file if there is one."""
        with self._explained(path):
            self._filesystem.call_s3("delete_object", Bucket=self._bucket, Key=self._key(path))

    def remove_abandoned(self) -> None:
        """Nothing: what is not whole has no name here."""

    def location(self, path: str) -> str:
        """The s3:// uri."""
        return f"s3://{self._bucket}/{self._key(path)}"

    def _key(self, path: str) -> str:
        segments = checked_segments(path)
        key = "/".join([self._root, *segments] if self._root else segments)
        length = len(key.encode("utf-8"))
        if length > _MAX_KEY_BYTES:
            raise StorageError(
                f"The key {key!r} is {length} bytes long; S3 allows {_MAX_KEY_BYTES}. Use a shorter run directory, or "
                "shorter names of shards."
            )
        return key

    def _put(self, path: str, data: bytes, condition: dict[str, str]) -> None:
        # One PUT whatever the size: s3fs's own pipe_file cuts bodies from 100 MB into parts. The client adds a
        # checksum, so a body damaged on the way is refused by the server.
        if len(data) > _MAX_PUT_BYTES:
            raise StorageError(
                f"{self.location(path)} would be {len(data):,} bytes; one request can store {_MAX_PUT_BYTES:,}. "
                "Use smaller units (input.images_per_unit)."
            )
        self._filesystem.call_s3("put_object", Bucket=self._bucket, Key=self._key(path), Body=data, **condition)

    @contextmanager
    def _explained(self, path: str, *, may_be_missing: bool = False) -> Iterator[None]:
        location = self.location(path)
        try:
            yield
        except Exception as error:
            missing = isinstance(error, FileNotFoundError) and s3_error_code(error) != "NoSuchBucket"
            if may_be_missing and missing:
                raise FileNotFoundError(errno.ENOENT, "There is no such file", location) from None
            raise describe_storage_failure(error, location, self._storage) from None


def _packed(path: str, size_bytes: int, modified_s: float) -> str:
    """An entry of a listing as one string, half as large as a :class:`StoredFile`: there may be millions of them."""
    return f"{path}\0{size_bytes}\0{modified_s!r}"


def _unpacked(entry: str) -> StoredFile:
    path, size_bytes, modified_s = entry.rsplit("\0", 2)
    return StoredFile(path, int(size_bytes), float(modified_s))
