"""Images of a group of loose files: read by a few threads, given in order."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.errors import ImageErrorKind, StorageError
from sam3lt_ray.images.signatures import why_not_decoded
from sam3lt_ray.inputs.file_listing import file_extension
from sam3lt_ray.inputs.image_stream import BYTES_PER_MB, EMPTY_MESSAGE, StreamedImage, too_large_message
from sam3lt_ray.inputs.ranged_file import is_impossible_name, with_retries
from sam3lt_ray.records import EncodedImage, LooseFile, ReadRange, Shard
from sam3lt_ray.storage.failures import s3_error_code
from sam3lt_ray.storage.filesystem import describe_storage_failure, open_filesystem

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

NUM_THREADS: Final = 8  # also the number of files held at most, beside those of the unit being built

# A group's member whose key stood before. Marked when groups are formed: a group alone cannot know the others' keys.
REPEATED_KEY_URI: Final = ""

_DENIED_CODES: Final = ("", "AccessDenied", "AllAccessDisabled", "Forbidden", "403", "InvalidObjectState")

_IMPOSSIBLE_KEY_CODES: Final = ("KeyTooLongError", "KeyTooLong", "InvalidURI", "XMinioInvalidObjectName")


def stream_loose_files(
    shard: Shard, read_range: ReadRange, settings: InputSettings, storage: StorageSettings
) -> Generator[StreamedImage, None, None]:
    """Images of a group from ``read_range.first`` to the group's end.

    A file that is missing or denied, or cannot exist under its name, becomes an image of kind ``unreadable``.

    Raises:
        StorageError: Storage keeps failing in a way that another try may not meet.
    """
    # Opened in this thread for all of them: each thread would get a filesystem, and connections, of its own.
    members = ((index, shard.members[index]) for index in range(read_range.first, len(shard.members)))
    tasks = (_Task(index, member, *_open(member, storage)) for index, member in members)
    for image in _in_order(lambda task: _read_file(task, settings.max_image_mb, storage), tasks):
        yield StreamedImage(image)


@dataclass(frozen=True, slots=True)
class _Task:
    index: int
    member: LooseFile
    filesystem: AbstractFileSystem | None
    path: str


def _open(member: LooseFile, storage: StorageSettings) -> tuple[AbstractFileSystem | None, str]:
    return (None, "") if member.uri == REPEATED_KEY_URI else open_filesystem(member.uri, storage)


def _in_order(read: Callable[[_Task], EncodedImage], tasks: Iterator[_Task]) -> Iterator[EncodedImage]:
    pending: deque[Future[EncodedImage]] = deque()
    executor = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="read-files")
    try:
        while True:
            while len(pending) < NUM_THREADS and (task := next(tasks, None)) is not None:
                pending.append(executor.submit(read, task))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _read_file(task: _Task, max_image_mb: int, storage: StorageSettings) -> EncodedImage:
    member = task.member
    if task.filesystem is None:
        return _unusable(task, "duplicate_key", f"The key {member.key!r} already stands earlier in the input.")
    filesystem, max_bytes = task.filesystem, max_image_mb * BYTES_PER_MB
    try:
        data = with_retries(lambda: _read_start(filesystem, task.path, max_bytes + 1))
        size_bytes = len(data) if len(data) <= max_bytes else with_retries(lambda: _size(filesystem, task.path))
    except Exception as error:
        message = describe_storage_failure(error, member.uri, storage).message
        if _is_about_this_file(error):
            return _unusable(task, "unreadable", message)
        failure = describe_storage_failure(error, member.uri, storage)
        raise (failure if isinstance(failure, StorageError) else StorageError(failure.message)) from None
    if size_bytes == 0:
        return _unusable(task, "empty", EMPTY_MESSAGE)
    if size_bytes > max_bytes:
        return _unusable(task, "too_large", too_large_message(size_bytes, max_image_mb))
    if (sentence := why_not_decoded(file_extension(member.uri), data)) is not None:
        return _unusable(task, "unsupported", sentence)
    return EncodedImage(task.index, member.key, data)


def _is_about_this_file(error: Exception) -> bool:
    """Missing, denied or no possible name, as true tomorrow as today; credentials that are none say nothing of it."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) or is_impossible_name(error):
        return True
    if s3_error_code(error) in _IMPOSSIBLE_KEY_CODES or type(error).__name__ == "ParamValidationError":
        return True
    return isinstance(error, PermissionError) and s3_error_code(error) in _DENIED_CODES


def _read_start(filesystem: AbstractFileSystem, path: str, num_bytes: int) -> bytes:
    try:
        data: bytes = filesystem.cat_file(path, start=0, end=num_bytes)
    except OSError as error:
        # S3 has no range in an empty object.
        is_wrong_range = error.errno == errno.EINVAL and s3_error_code(error) not in _IMPOSSIBLE_KEY_CODES
        if is_wrong_range and _size(filesystem, path) == 0:
            return b""
        raise
    return data


def _size(filesystem: AbstractFileSystem, path: str) -> int:
    return int(filesystem.info(path)["size"] or 0)


def _unusable(task: _Task, kind: ImageErrorKind, message: str) -> EncodedImage:
    return EncodedImage(task.index, task.member.key, error_kind=kind, error_message=message)
