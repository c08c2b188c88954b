"""What storage errors mean to the person who started the job.

The sentences are built from error codes only. What a server says in its own words is left out: it may repeat what it
was sent. Classes of botocore are told by their names, so that no S3 client has to be imported for a local run.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from sam3lt_ray.errors import InputError, StorageError, StorageUnavailableError
from sam3lt_ray.redaction import without_credentials

if TYPE_CHECKING:
    from sam3lt_ray.config.schema import StorageSettings

_DENIED: Final = {"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "Forbidden", "InvalidPayer", "403"}
_REJECTED_CREDENTIALS: Final = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidSecurity",
    "NotSignedUp",
    "Unauthorized",
    "401",
}
_EXPIRED_CREDENTIALS: Final = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_WRONG_REGION: Final = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
    "307",
}
_NO_CREDENTIALS: Final = {"NoCredentialsError", "PartialCredentialsError"}
_UNUSABLE_PROFILE: Final = {
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "SSOError",
    "InvalidConfigError",
    "ConfigParseError",
}
_UNREACHABLE: Final = {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError"}
# Of botocore, aiohttp, our own and the system: no answer, half of one, or one that arrived damaged.
_BROKEN: Final = {
    "HTTPClientError",
    "ClientConnectionError",
    "ClientPayloadError",
    "IncompleteRead",
    "IncompleteAnswerError",
    "ResponseParserError",
    "FlexibleChecksumError",
    "FSTimeoutError",
    "TimeoutError",
    "ConnectionResetError",
    "ConnectionAbortedError",
    "BrokenPipeError",
    "RepeatedlyFailedError",
}
_CREDENTIAL_PLACES: Final = (
    "Credentials are taken from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), from ~/.aws or from the "
    "machine's role"
)
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class RepeatedlyFailedError(OSError):
    """The last of several attempts got no whole answer either; its cause says how."""


def describe_storage_failure(error: BaseException, uri: str, storage: StorageSettings) -> InputError | StorageError:
    """The error to show instead of one of botocore, s3fs or the operating system.

    Raise it ``from None``: the texts of the original chain are not known to be free of credentials.

    Args:
        error: As caught.
        uri: What was being read or written.
        storage: How it was reached.

    Returns:
        InputError where the request is wrong (missing, denied, no credentials, bad name); StorageError where storage
        failed and a later try may succeed. An error that is already one of these is returned as it is.
    """
    if isinstance(error, InputError | StorageError):
        return error
    place = without_credentials(uri)
    described = (
        _describe_answer(error, place, storage)
        or _describe_client(error, place, storage)
        or _describe_system(error, place)
    )
    kind, sentence = described
    return kind(without_credentials(sentence))


_Described = tuple[type[InputError] | type[StorageError], str]


def s3_error_code(error: BaseException) -> str:
    """S3's code ("NoSuchKey"; after HEAD only "404"), also where s3fs has wrapped the answer; "" without an answer."""
    for response in _responses(error):
        return str(response.get("Error", {}).get("Code", ""))
    return ""


def s3_status(error: BaseException) -> int:
    """HTTP status of the answer behind an error, also where s3fs has wrapped it; 0 without an answer."""
    for response in _responses(error):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return 0


def is_unreachable(error: BaseException) -> bool:
    """Whether no connection to the server came about (refused, unknown host, no route)."""
    return bool(_class_names(error) & _UNREACHABLE)


def is_broken_connection(error: BaseException) -> bool:
    """Whether there was a server, but no whole answer from it (reset, silent, cut short, damaged on the way)."""
    return not s3_status(error) and not is_unreachable(error) and bool(_class_names(error) & _BROKEN)


def _responses(error: BaseException) -> Iterator[dict[str, Any]]:
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            yield response


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _class_names(error: BaseException) -> set[str]:
    return {base.__name__ for link in _chain(error) for base in type(link).__mro__}


def _at_endpoint(storage: StorageSettings) -> str:
    endpoint = storage.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return f" at {without_credentials(endpoint)}" if endpoint else ""


def _describe_answer(error: BaseException, place: str, storage: StorageSettings) -> _Described | None:
    """An answer of the server."""
    code, status = s3_error_code(error), s3_status(error)
    if not code and not status:
        return None
    server = _at_endpoint(storage)
    if code == "NoSuchBucket":
        return InputError, (
            f"The bucket of {place} does not exist{server}. Check its name and storage.endpoint_url, or create it."
        )
    if code in _EXPIRED_CREDENTIALS:
        return StorageUnavailableError, f"The credentials used for {place} have expired. Renew them and start again."
    if code in _REJECTED_CREDENTIALS or status == 401:
        return InputError, (
            f"The server{server} does not accept the credentials used for {place} ({code or status}). "
            f"{_CREDENTIAL_PLACES}: correct them there, or choose others with storage.profile."
        )
    if code == "RequestTimeTooSkewed":
        return StorageError, f"The server refuses {place} because this machine's clock is wrong. Set the clock."
    if code in _WRONG_REGION or status in (301, 307):
        return InputError, f"The bucket of {place} is in another region. Set storage.region to the bucket's region."
    if code in _DENIED or status == 403:
        return InputError, _denied(place, code, storage)
    if code == "InvalidBucketName":
        return InputError, f"{place} does not name a valid bucket. Expected s3://bucket/path."
    if code in ("KeyTooLongError", "KeyTooLong"):
        return InputError, f"{place} has a key that is too long for S3, which takes 1,024 bytes. Use a shorter one."
    if code in ("NoSuchKey", "404") or status == 404:
        return InputError, _nothing_there(place)
    if status == 501 or code == "NotImplemented":
        return StorageError, (
            f"The server{server} does not implement a request needed for {place} (PUT with If-None-Match, or listing "
            "version 2). Use a store that does."
        )
    detail = " ".join(part for part in (f"HTTP {status}" if status else "", code) if part)
    if status >= 500 or status in (409, 429) or code in ("SlowDown", "RequestTimeout"):
        return StorageUnavailableError, (
            f"The server{server} kept failing for {place} ({detail}), in spite of repeated tries. Start again later."
        )
    return StorageError, f"The server{server} refused the request for {place} ({detail})."


def _denied(place: str, code: str, storage: StorageSettings) -> str:
    if storage.anonymous:
        advice = "It is not public: set storage.anonymous to false and use credentials."
    else:
        advice = (
            f"{_CREDENTIAL_PLACES}: allow them to list, read and (for outputs) write there, choose others with "
            "storage.profile, or set storage.anonymous for a public bucket."
        )
        if not storage.requester_pays:
            advice += " If the bucket's readers pay for requests, set storage.requester_pays."
    return f"Access to {place} is denied ({code or 403}). {advice}"


def _nothing_there(place: str) -> str:
    return f"There is nothing at {place}. Check the path, including upper and lower case."


def _describe_client(error: BaseException, place: str, storage: StorageSettings) -> _Described | None:
    """A failure on our side of the connection: no answer was received."""
    names = _class_names(error)
    server = _at_endpoint(storage)
    if names & _NO_CREDENTIALS:
        return InputError, (
            f"There are no credentials for {place}. {_CREDENTIAL_PLACES}; storage.profile chooses a profile, and "
            "storage.anonymous reads a public bucket without any."
        )
    if "ProfileNotFound" in names:
        return InputError, (
            f"The profile {storage.profile!r}, needed for {place}, is not in ~/.aws/config or ~/.aws/credentials. "
            "Correct storage.profile (or AWS_PROFILE), or add the profile."
        )
    if names & _UNUSABLE_PROFILE:
        return InputError, (
            f"The credentials for {place} could not be obtained ({type(error).__name__}). Check the profile in ~/.aws "
            "(and log in again where it uses single sign-on)."
        )
    if "ParamValidationError" in names:
        return InputError, f"{place} does not name a valid bucket and path. Expected s3://bucket/path."
    if "SSLError" in names:
        return StorageError, (
            f"The server{server} has no certificate that this machine trusts, so {place} was not reached. Check "
            "storage.endpoint_url (http or https?), or name the certificate's issuer with AWS_CA_BUNDLE."
        )
    if is_unreachable(error):
        return StorageUnavailableError, (
            f"The server{server} cannot be reached, so neither can {place}. Check storage.endpoint_url (or "
            "AWS_ENDPOINT_URL), storage.region and the network."
        )
    if is_broken_connection(error):
        cause = next((link for link in _chain(error) if not isinstance(link, RepeatedlyFailedError)), error)
        return StorageUnavailableError, (
            f"The connection to the server{server} broke again and again while using {place} "
            f"({type(cause).__name__}). Start again later."
        )
    return None


def _describe_system(error: BaseException, place: str) -> _Described:
    """An error of the operating system, or one that nobody has met yet."""
    if isinstance(error, FileNotFoundError):
        return InputError, _nothing_there(place)
    if isinstance(error, PermissionError):
        return InputError, f"This user may not access {place}. Change its permissions, or use another place."
    if isinstance(error, IsADirectoryError):
        return InputError, f"{place} is a directory, expected a file."
    if isinstance(error, NotADirectoryError | FileExistsError):
        return InputError, f"{place} cannot be a place for files: a part of this path is a file. Use another path."
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in _FULL:
            return StorageError, f"The disk is full, or its quota used up, at {place}. Make room and start again."
        if error.errno == errno.EROFS:
            return InputError, f"{place} is on a file system that is mounted read-only. Use another place."
        if error.errno == errno.ENAMETOOLONG:
            return InputError, f"{place} has a name that is too long for its file system. Use a shorter path."
        if error.errno == errno.ELOOP:
            return InputError, f"{place} is a link that leads back to itself. Correct the link."
        name = errno.errorcode.get(error.errno, str(error.errno))
        return StorageError, f"Using {place} failed: {os.strerror(error.errno)} ({name})."
    return StorageError, f"Using {place} failed ({type(error).__name__})."
