"""What requests to S3 cost: the one place where prices stand.

S3 Standard in us-east-1, list price in US dollars, as https://c3x.dev/blog/s3-request-fees-explained quoted it when it
was read on 2026-11-24. The source is https://aws.amazon.com/s3/pricing/: look there before you plan with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

AS_OF: Final = "list price read on 2026-11-24"
WRITE_USD: Final = 0.005 / 1000  # PUT, COPY, POST, LIST
READ_USD: Final = 0.0004 / 1000  # GET, SELECT and all others (HEAD is one of them)
FREE: Final = frozenset({"DeleteObject", "DeleteObjects"})
_WRITES: Final = ("Put", "Copy", "Post", "List", "Create", "Upload", "Complete")


def price_usd(requests: Mapping[str, float]) -> float:
    """Price of some requests, counted by S3's names of the operations."""
    return sum(count * _price_of(kind) for kind, count in requests.items())


def _price_of(kind: str) -> float:
    if kind in FREE:
        return 0.0
    return WRITE_USD if kind.startswith(_WRITES) else READ_USD
