"""s3fs with the patience that a long job needs. The only module that imports s3fs: import it only when s3:// is used.

Three layers of the client could each repeat a request; their numbers multiply, so each has one task here: botocore
repeats nothing, s3fs repeats what got no answer (connection reset, timed out, body cut short), and ``_call_s3`` below
repeats what was answered with "not now" or found nobody listening.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from aiobotocore.session import AioSession
from botocore.utils import parse_timestamp
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from sam3lt_ray.storage.failures import is_unreachable, s3_error_code, s3_status

CONNECT_TIMEOUT_S: Final = 10
READ_TIMEOUT_S: Final = 60  # without a single byte
MAX_ATTEMPTS: Final = 8
# About 5 s: long enough for a server that restarts, short enough for somebody who mistyped its name.
MAX_ATTEMPTS_UNREACHABLE: Final = 6
LONGEST_WAIT_S: Final = 5.0
_BUSY_STATUS: Final = {429, 500, 502, 503, 504}
_BUSY_CODES: Final = {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"}


def pause_before_retry_s(attempt: int) -> float:
    """Seconds to wait after failed attempt 0, 1, 2, ...: doubling from 0.2 to 5, shortened at random by up to half."""
    return min(0.2 * 2.0**attempt, LONGEST_WAIT_S) * random.uniform(0.5, 1.0)


def _allowed_attempts(error: Exception) -> int:
    if s3_status(error) in _BUSY_STATUS or s3_error_code(error) in _BUSY_CODES:
        return MAX_ATTEMPTS
    return MAX_ATTEMPTS_UNREACHABLE if is_unreachable(error) else 1


class PatientS3FileSystem(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs that goes on after bursts of 500, 503 and 429.

    Made by :func:`sam3lt_ray.storage.filesystem.open_filesystem`. Holds no credentials: they are looked up by the
    process that uses it, so a pickled one carries none.
    """

    retries = 6
    session: AioSession | None

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        for attempt in range(MAX_ATTEMPTS):
            try:
                return await super()._call_s3(method, *akwarglist, **kwargs)
            except Exception as error:
                if attempt + 1 >= _allowed_attempts(error):
                    raise
            await asyncio.sleep(pause_before_retry_s(attempt))
        raise AssertionError("the last attempt returns or raises")

    call_s3 = sync_wrapper(_call_s3)

    async def set_session(self, refresh: bool = False, kwargs: dict[str, Any] = {}) -> Any:  # noqa: B006  (as in s3fs)
        """As s3fs does it, with a session of ours: botocore's own parser of dates takes most of a listing's time."""
        if self.session is None or refresh:
            self.session = AioSession(**self.kwargs)
            factory = self.session.get_component("response_parser_factory")
            factory.set_parser_defaults(timestamp_parser=_parse_time)
        return await super().set_session(refresh=refresh, kwargs=kwargs)

    def list_pages(self, bucket: str, prefix: str) -> Iterator[Sequence[dict[str, Any]]]:
        """All objects whose keys begin with a prefix, as ListObjectsV2 tells them, up to 1,000 at a time.

        Page by page, because s3fs's own ``find`` keeps over 1 kB for each object until the last one is known.
        """
        request = {"Bucket": bucket, "Prefix": prefix, **self.req_kw}
        while True:
            page = self.call_s3("list_objects_v2", **request)
            yield page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]


def _parse_time(text: str) -> datetime:
    """The ISO form that listings are full of at once, everything else as botocore does it."""
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        parsed: datetime = parse_timestamp(text)
        return parsed


def make_s3_filesystem(
    *, endpoint_url: str | None, region: str | None, profile: str | None, anonymous: bool, requester_pays: bool
) -> PatientS3FileSystem:
    """An S3 filesystem without a listing cache; the same instance for the same arguments in the same thread."""
    options: dict[str, Any] = {
        "anon": anonymous,
        "requester_pays": requester_pays,
        # Other processes write too: a remembered listing would be wrong.
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
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
