"""From a uri to a filesystem: local paths, file:// and s3://."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import InputError
from sam3lt_ray.redaction import carries_credentials
from sam3lt_ray.storage.failures import describe_storage_failure

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["describe_storage_failure", "is_s3", "local_path", "open_filesystem", "split_s3_uri"]

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
# Looser than S3's own rules, which differ between servers: this only tells names from mistakes and from credentials.
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{1,254}")
_SUPPORTED: Final = "Supported are local paths, file:///absolute/path and s3://bucket/path."


def open_filesystem(uri: str, storage: StorageSettings) -> tuple[AbstractFileSystem, str]:
    """The filesystem of a uri, and the path within it. Contacts nobody.

    Filesystems pickle, without credentials: each process finds its own in the standard places (environment, ~/.aws,
    instance role). Listings are not cached. Requests that fail for a moment are repeated.

    Args:
        uri: A local path, file:// or s3://bucket/path.
        storage: How S3 is reached; without ``endpoint_url`` the variable AWS_ENDPOINT_URL counts, then AWS.

    Returns:
        An fsspec filesystem, and an absolute local path or "bucket/path" without a slash at its end.

    Raises:
        InputError: Unknown scheme, or no bucket.
    """
    if not is_s3(uri):
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem(), local_path(uri)

    bucket, key = split_s3_uri(uri)
    from sam3lt_ray.storage.s3_filesystem import make_s3_filesystem

    filesystem = make_s3_filesystem(
        endpoint_url=storage.endpoint_url,
        region=storage.region,
        profile=storage.profile,
        anonymous=storage.anonymous,
        requester_pays=storage.requester_pays,
        timeout_s=storage.timeout_s,
    )
    return filesystem, f"{bucket}/{key}".rstrip("/")


def is_s3(uri: str) -> bool:
    """Whether a uri is on S3 (True) or local (False).

    Raises:
        InputError: It is empty or has another scheme.
    """
    if not uri.strip():
        raise InputError(f"The location is empty. {_SUPPORTED}")
    match = _SCHEME.match(uri)
    if match is None:
        return False
    scheme = match[1].lower()
    if scheme not in ("s3", "file"):
        hint = " Write s3:// instead." if scheme in ("s3a", "s3n") else ""
        raise InputError(f"The scheme {scheme}:// is not supported.{hint} {_SUPPORTED}")
    return scheme == "s3"


def local_path(uri: str) -> str:
    """Absolute path of a local path or file:// uri; "~" is the home directory.

    Raises:
        InputError: file:// with a host, or a NUL character.
    """
    path = uri
    match = _SCHEME.match(uri)
    if match is not None:
        path = uri[match.end() :].removeprefix("localhost")
        if not path.startswith("/"):
            raise InputError(f"{uri} names a host or a relative path. Write file:///absolute/path.")
    if "\0" in path:
        raise InputError("The location contains a NUL character, which no path can have.")
    # Not Path.resolve(), which follows links: people would be shown a path that they did not write.
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111


def split_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and key (or key prefix) of an s3:// uri.

    Raises:
        InputError: The bucket's name is missing or impossible, or the uri carries credentials.
    """
    if carries_credentials(uri):
        raise InputError(
            "A location on S3 must not carry credentials (user:password@, or the signature of a presigned url). They "
            "come from the environment, ~/.aws or the machine's role."
        )
    bucket, _, key = uri.split("://", 1)[1].partition("/")
    if len(bucket) == 1:
        raise InputError(f"The bucket's name in s3://{bucket}/ is too short: it has at least 3 characters.")
    if _BUCKET.fullmatch(bucket) is None:
        # Not repeated in the message: what stands there may be somebody's key.
        raise InputError(
            "The location begins with s3:// but a bucket's name does not follow. Expected s3://bucket/path; "
            "credentials have no place in it, they come from the environment, ~/.aws or the machine's role."
        )
    return bucket, key
