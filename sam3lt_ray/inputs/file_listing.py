"""Files below an input location, local or on S3, with errors that a person can act on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import InputError, StorageError
from sam3lt_ray.inputs.ranged_file import file_version
from sam3lt_ray.storage.failures import s3_error_code, s3_status
from sam3lt_ray.storage.filesystem import describe_storage_failure, is_s3, local_path, open_filesystem

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from sam3lt_ray.storage.s3_filesystem import PatientS3FileSystem

COMPRESSED_TARS: Final = ("tar.gz", "tar.bz2", "tar.xz", "tar.zst", "tar.lz4", "tgz", "tbz2", "txz", "tzst")

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file.

    Attributes:
        name: Path relative to the location that was listed; the file's own name if that was the location.
        uri: Absolute path or s3:// uri.
        size_bytes: Size; None where the source does not tell.
        version: See :attr:`sam3lt_ray.records.Shard.version`.
    """

    name: str
    uri: str
    size_bytes: int | None
    version: str | None

    @property
    def extension(self) -> str:
        """Lower case, without the dot; compressed tars keep both parts ("tar.gz")."""
        return file_extension(self.name)


@dataclass(frozen=True, slots=True)
class FileListing:
    """What stands at a location.

    Attributes:
        uri: The location: absolute path or s3:// uri, without a slash at its end.
        is_file: The location is one file, the only one in ``files``.
        files: Sorted by name; hidden ones (a part of the name begins with a dot) left out.
    """

    uri: str
    is_file: bool
    files: tuple[ListedFile, ...]


def file_extension(name: str) -> str:
    """Lower-case extension of a path without its dot, "" without one; compressed tars keep both parts."""
    # As pathlib tells suffixes, which is too slow for a million names.
    base = name.rpartition("/")[2].lstrip(".").lower()
    suffixes = [] if base.endswith(".") else base.split(".")[1:]
    both = ".".join(suffixes[-2:])
    return both if both in COMPRESSED_TARS else both.rpartition(".")[2]


def list_files(uri: str, storage: StorageSettings) -> FileListing:
    """All files at a location: the file itself, or everything below a folder or prefix.

    Raises:
        InputError: Nothing is there, it is empty, the bucket is missing, access is denied, the scheme is not supported
            or the server does not answer.
        StorageError: The server answers with errors that may pass.
    """
    return _list_s3(uri, storage) if is_s3(uri) else _list_local(uri, storage)


def explain_failure(request: Callable[[], _Result], uri: str, storage: StorageSettings) -> _Result:
    """Result of a request made before the run begins, its errors turned into sentences.

    Raises:
        InputError: The request is wrong, or no server answers: before anything was read that means a wrong address.
        StorageError: The server answers with errors that may pass.
    """
    try:
        return request()
    except Exception as error:
        failure = describe_storage_failure(error, uri, storage)
        if isinstance(failure, StorageError) and s3_status(error) == 0:
            raise InputError(failure.message) from None
        raise failure from None


def check_bucket(uri: str, storage: StorageSettings) -> None:
    """Refuse an s3:// uri whose bucket does not exist; a bucket we may not ask about passes.

    Raises:
        InputError: The bucket does not exist, or no server answers.
    """
    filesystem, path = open_filesystem(uri, storage)
    bucket = path.partition("/")[0]

    def request() -> None:
        try:
            filesystem.info(bucket)
        except FileNotFoundError:
            at_server = f" at {storage.endpoint_url}" if storage.endpoint_url else ""
            raise InputError(
                f"The bucket {bucket} does not exist{at_server}. Check its name and storage.endpoint_url."
            ) from None
        except PermissionError:
            return

    explain_failure(request, uri, storage)


def _list_s3(uri: str, storage: StorageSettings) -> FileListing:
    opened, path = open_filesystem(uri, storage)
    filesystem = cast("PatientS3FileSystem", opened)
    place = f"s3://{path}"
    if "/" in path and not uri.endswith("/"):
        info = explain_failure(lambda: _info_if_file(filesystem, path), uri, storage)
        if info is not None:
            return FileListing(place, True, (_listed_s3(path.rpartition("/")[2], path, info),))
    files = explain_failure(lambda: _files_below(filesystem, path), uri, storage)
    if not files:
        check_bucket(uri, storage)
        raise InputError(
            f"There is nothing below {below_uri(place)}. Check the path (S3 tells upper from lower case), and that "
            "storage.endpoint_url is the right server."
        )
    return FileListing(place, False, tuple(files))


def _files_below(filesystem: PatientS3FileSystem, path: str) -> list[ListedFile]:
    """Visible files, sorted by name; nothing else is kept of a page, since there may be a thousand of them."""
    bucket, _, prefix = path.partition("/")
    below = f"{prefix}/" if prefix else ""

    def read(item: dict[str, Any]) -> ListedFile | None:
        name = item["Key"].removeprefix(below)
        if not name or name.endswith("/") or not _is_visible(name):
            return None
        return _listed_s3(name, f"{bucket}/{item['Key']}", item)

    files = filesystem.list_objects(bucket, below, read)
    files.sort(key=lambda file: file.name)
    return files


def below_uri(uri: str) -> str:
    """A location written as the folder or prefix it is."""
    return uri if uri.endswith("/") else f"{uri}/"


def _info_if_file(filesystem: AbstractFileSystem, path: str) -> dict[str, Any] | None:
    try:
        info: dict[str, Any] = filesystem.info(path)
    except FileNotFoundError as error:
        if s3_error_code(error) == "NoSuchBucket":
            raise
        return None
    return info if info["type"] == "file" else None


def _listed_s3(name: str, path: str, info: dict[str, Any]) -> ListedFile:
    size = info.get("size", info.get("Size"))
    return ListedFile(name, f"s3://{path}", None if size is None else int(size), file_version(info))


def _list_local(uri: str, storage: StorageSettings) -> FileListing:
    root = Path(local_path(uri))
    try:
        exists = root.exists()
    except OSError as error:  # a name that is too long, a folder that nobody may look into
        raise InputError(f"{root} cannot be read: {error.strerror or error}. Check input.uri.") from None
    if not exists:
        parent = next(parent for parent in root.parents if parent.is_dir())
        raise InputError(f"There is nothing at {root}; {parent} is there. Check input.uri.")

    def request() -> FileListing:
        if not root.is_dir():
            return FileListing(str(root), True, (_listed_local(root.name, root),))
        listed = (_listed_local(path.relative_to(root).as_posix(), path) for path in _walk(root, (root.resolve(),)))
        return FileListing(str(root), False, tuple(sorted(listed, key=lambda file: file.name)))

    listing = explain_failure(request, str(root), storage)
    if not listing.files:
        raise InputError(f"The folder {root} holds no files. Check input.uri.")
    return listing


def _walk(folder: Path, real_parents: tuple[Path, ...]) -> Iterator[Path]:
    """Visible files below a folder; links to folders are followed, except back into one we are inside of."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                yield path
                continue
            real_path = path.resolve() if entry.is_symlink() else path
            if real_path not in real_parents:
                yield from _walk(path, (*real_parents, real_path))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def _listed_local(name: str, path: Path) -> ListedFile:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"The file name {name!r} is not valid UTF-8, so no table can hold it. Rename it.") from None
    try:
        status = path.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        # A link to nothing, or to itself: told when it is read.
        return ListedFile(name, str(path), None, None)
    info: dict[str, object] = {"mtime": status.st_mtime, "size": status.st_size}
    return ListedFile(name, str(path), status.st_size, file_version(info))


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))
