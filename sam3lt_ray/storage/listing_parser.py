"""Reads S3's listings quickly: botocore takes each of their fields through its model of the service, and its own parser
of dates, which is nearly all the time that planning a run with a million shards takes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from aiobotocore.parsers import AioResponseParserFactory, AioRestXMLParser
from botocore.utils import parse_timestamp


def parse_time(text: str) -> datetime:
    """The ISO form that listings are full of at once, everything else as botocore does it."""
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        parsed: datetime = parse_timestamp(text)
        return parsed


_FIELDS: Final[dict[str, Callable[[str], Any]]] = {
    "Key": str,
    "LastModified": parse_time,
    "ETag": str,
    "Size": int,
    "StorageClass": str,
}


class _ListingParser(AioRestXMLParser):  # type: ignore[misc]  # aiobotocore has no types
    def _handle_structure(self, shape: Any, node: Any) -> dict[str, Any]:
        if shape.name != "Object":  # an entry of a listing
            parsed: dict[str, Any] = super()._handle_structure(shape, node)
            return parsed
        entry = {}
        for child in node:
            name = child.tag.rpartition("}")[2]
            read = _FIELDS.get(name)
            if read is not None:
                entry[name] = read(child.text or "")
        return entry


class ListingParserFactory(AioResponseParserFactory):  # type: ignore[misc]  # aiobotocore has no types
    """botocore's parsers, but for entries of listings: of these the fields that anybody here asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.set_parser_defaults(timestamp_parser=parse_time)

    def create_parser(self, protocol_name: str) -> Any:
        """A parser of a service's answers."""
        if protocol_name == "rest-xml":
            return _ListingParser(**self._defaults)
        return super().create_parser(protocol_name)
