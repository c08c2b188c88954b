"""s3fs with the patience that a long job needs. The only module that imports s3fs: import it only when s3:// is used.

Several layers of the client could repeat a request, and their numbers would multiply: a server that has gone silent
would be waited for 36 times. So ``_call_s3`` below is the only one that repeats; botocore and s3fs try once. It counts
an object as fetched only when its body is here, whole, so a connection that breaks in the middle of a body, falls
silent, or delivers less than was asked for is one more failed attempt.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Final, TypeVar

from aiobotocore.session import AioSession
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from sam3lt_ray.storage.failures import (
    RepeatedlyFailedError,
    is_broken_connection,
    is_unreachable,
    s3_error_code,
    s3_status,
)
from sam3lt_ray.storage.lean_models import LeanFileLoader
from sam3lt_ray.storage.listing_parser import ListingParserFactory
from sam3lt_ray.storage.split_listing import Part, PartsDoNotJoinError, SplitListing

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 10.0
MAX_ATTEMPTS: Final = 10  # about 20 s of pauses
MAX_ATTEMPTS_BROKEN: Final = 6
# About 5 s: long enough for a server that restarts, short enough for somebody who mistyped its name.
MAX_ATTEMPTS_UNREACHABLE: Final = 6
LONGEST_WAIT_S: Final = 5.0
PAGE_KEYS: Final = 1000  # S3 gives no more
# A server that trickles, or takes an upload without reading it, never trips the timeout between two bytes.
TIMEOUTS_PER_ATTEMPT: Final = 5
SLOWEST_BYTES_PER_S: Final = 50_000
# 409: another request for this name is under way; only after it can the server tell who was first.
_BUSY_STATUS: Final = {409, 429, 500, 502, 503, 504}
_BUSY_CODES: Final = {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"}
_ASKED_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")
_ANSWERED_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def pause_before_retry_s(attempt: int) -> float:
    """Seconds to wait after failed attempt 0, 1, 2, ...: doubling from 0.2 to 5, shortened at random by up to half."""
    return min(0.2 * 2.0**attempt, LONGEST_WAIT_S) * random.uniform(0.5, 1.0)


class IncompleteAnswerError(OSError):
    """An answer that is whole in itself but holds less than was asked for, or something else."""


def _allowed_attempts(error: Exception) -> int:
    if s3_status(error) in _BUSY_STATUS or s3_error_code(error) in _BUSY_CODES:
        return MAX_ATTEMPTS
    if is_unreachable(error):
        return MAX_ATTEMPTS_UNREACHABLE
    return MAX_ATTEMPTS_BROKEN if is_broken_connection(error) else 1


class _FetchedBody:
    """An object's body that is here already, in the form in which s3fs reads one that is on its way."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self) -> bytes:
        """All of it."""
        return self._data

    def close(self) -> None:
        """Nothing is open."""


class PatientS3FileSystem(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs that goes on after bursts of 500, 503, 429 and 409, broken and silent connections, and cut answers.

    Made by :func:`sam3lt_ray.storage.filesystem.open_filesystem`. Holds no credentials: they are looked up by the
    process that uses it, so a pickled one carries none.
    """

    retries = 1  # of s3fs's own
    session: AioSession | None

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        for attempt in range(MAX_ATTEMPTS):
            try:
                return await self._call_once(method, *akwarglist, **kwargs)
            except Exception as error:
                if attempt + 1 >= _allowed_attempts(error):
                    if is_broken_connection(error):
                        # Told apart from a first failure, so that nobody above repeats it all over again.
                        raise RepeatedlyFailedError(str(error)) from error
                    raise
            await asyncio.sleep(pause_before_retry_s(attempt))
        raise AssertionError("the last attempt returns or raises")

    call_s3 = sync_wrapper(_call_s3)

    async def _call_once(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        body = kwargs.get("Body")
        async with asyncio.timeout(self._longest_s(len(body) if isinstance(body, bytes) else 0)):
            response = await super()._call_s3(method, *akwarglist, **kwargs)
        if method != "get_object":
            return response
        stream = response["Body"]
        try:
            async with asyncio.timeout(self._longest_s(int(response["ContentLength"]))):
                data = await stream.read()
        finally:
            stream.close()
        _refuse_incomplete(kwargs.get("Range"), response.get("ContentRange"), len(data))
        return {**response, "Body": _FetchedBody(data)}

    def _longest_s(self, num_bytes: int) -> float:
        return TIMEOUTS_PER_ATTEMPT * float(self.config_kwargs["read_timeout"]) + num_bytes / SLOWEST_BYTES_PER_S

    async def set_session(self, refresh: bool = False, kwargs: dict[str, Any] = {}) -> Any:  # noqa: B006  (as in s3fs)
        """As s3fs does it, with a session of ours that reads listings quickly."""
        if self.session is None or refresh:
            self.session = AioSession(**self.kwargs)
            self.session.register_component("response_parser_factory", ListingParserFactory())
            self.session.get_component("data_loader").file_loader = LeanFileLoader()
        return await super().set_session(refresh=refresh, kwargs=kwargs)

    def list_objects(self, bucket: str, prefix: str, read: Callable[[dict[str, Any]], T | None]) -> list[T]:
        """All objects whose keys begin with a prefix, in the server's order; many by several requests at a time.

        Page by page, because s3fs's own ``find`` keeps over 1 kB for each object until the last one is known.

        Args:
            bucket: Where.
            prefix: "": everything.
            read: Makes of an entry of ListObjectsV2 what is to be kept of it; None: nothing.
        """
        try:
            return self._list(SplitListing(prefix), bucket, prefix, read)
        except PartsDoNotJoinError:
            return self._list(SplitListing(prefix, at_once=1), bucket, prefix, read)

    def _list(
        self, listing: SplitListing[T], bucket: str, prefix: str, read: Callable[[dict[str, Any]], T | None]
    ) -> list[T]:
        coming: dict[Future[Mapping[str, Any]], Part[T]] = {}

        def ask() -> None:
            for part in listing.next_parts():
                request = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE_KEYS, **self.req_kw, **part.parameters()}
                call = self._call_s3("list_objects_v2", **request)
                coming[asyncio.run_coroutine_threadsafe(call, self.loop)] = part

        try:
            ask()
            while coming:
                for future in wait(coming, return_when=FIRST_COMPLETED).done:
                    part = coming.pop(future)
                    entries = listing.receive(part, future.result())
                    part.found += [item for entry in entries if (item := read(entry)) is not None]
                    ask()
            return listing.joined()
        finally:
            for future in coming:
                future.cancel()


def _refuse_incomplete(asked: str | None, answered: str | None, num_bytes: int) -> None:
    """Compare a range with what came; the client has already compared the body with its Content-Length.

    Raises:
        IncompleteAnswerError: Less came, or another stretch.
    """
    wanted = _ASKED_RANGE.fullmatch(asked or "")
    if wanted is None:
        return
    first, last = int(wanted[1]), int(wanted[2]) if wanted[2] else None
    came = _ANSWERED_RANGE.fullmatch(answered or "")
    if came is None:
        # A server may answer with the whole object where that is what the range comes to.
        if first == 0 and (last is None or num_bytes <= last + 1):
            return
        raise IncompleteAnswerError(f"{asked} was asked for, but the server sent {num_bytes} bytes of the whole object")
    end = int(came[3]) if last is None else min(last + 1, int(came[3]))
    if int(came[1]) != first or num_bytes != end - first:
        raise IncompleteAnswerError(f"{asked} was asked for, but {num_bytes} bytes came ({answered})")


def make_s3_filesystem(
    *,
    endpoint_url: str | None,
    region: str | None,
    profile: str | None,
    anonymous: bool,
    requester_pays: bool,
    timeout_s: float,
) -> PatientS3FileSystem:
    """An S3 filesystem without a listing cache; the same instance for the same arguments in the same thread."""
    options: dict[str, Any] = {
        "anon": anonymous,
        "requester_pays": requester_pays,
        # Other processes write too: a remembered listing would be wrong.
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": min(CONNECT_TIMEOUT_S, timeout_s),
            "read_timeout": timeout_s,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "max_pool_connections": 32,
        },
    }
    if endpoint_url is not None:
        options["endpoint_url"] = endpoint_url
    if region is not None:
        options["client_kwargs"] = {"region_name": region}
    if profile is not None:
        options["profile"] = profile
    return PatientS3FileSystem(**options)
