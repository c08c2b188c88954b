"""Entries of listings come out as botocore reads them, but for fields that nobody asks for."""

from __future__ import annotations

import asyncio
from typing import Any

import botocore.session
import pytest
from aiobotocore.parsers import AioResponseParserFactory

from sam3lt_ray.storage.listing_parser import ListingParserFactory

PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Name>bucket</Name><Prefix>a%20b/</Prefix><KeyCount>3</KeyCount><MaxKeys>1000</MaxKeys>
<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>1ueGc</NextContinuationToken>
{entries}
<CommonPrefixes><Prefix>a%20b/c/</Prefix></CommonPrefixes>
</ListBucketResult>"""
ENTRIES = (
    "<Contents><Key>a%20b/%C3%A9&amp;1.tar</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
    "<ETag>&quot;0123456789abcdef0123456789abcdef-3&quot;</ETag><Size>12345678901</Size>"
    "<StorageClass>STANDARD</StorageClass></Contents>",
    "<Contents><Key>a%20b/2.tar</Key><LastModified>Fri, 02 Jan 2026 03:04:05 GMT</LastModified>"
    "<ETag>&quot;e&quot;</ETag><Size>0</Size></Contents>",
    "<Contents><Key></Key><Size>7</Size></Contents>",
)
NOT_READ = (
    "<Contents><Key>k</Key><ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumAlgorithm>SHA1</ChecksumAlgorithm>"
    "<Owner><ID>me</ID></Owner><RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress></RestoreStatus>"
    "<Novelty>1</Novelty></Contents>"
)


def parsed(factory: Any, entries: str, status: int = 200) -> dict[str, Any]:
    shape = botocore.session.get_session().get_service_model("s3").operation_model("ListObjectsV2").output_shape
    body = PAGE.format(entries=entries).encode()
    answer = {"body": body, "headers": {"x-amz-request-id": "r"}, "status_code": status, "context": {}}
    page: dict[str, Any] = asyncio.run(factory.create_parser("rest-xml").parse(answer, shape))
    return page


@pytest.mark.parametrize("entries", ["", *ENTRIES, "".join(ENTRIES)])
def test_a_page_is_read_as_botocore_reads_it(entries: str) -> None:
    ours = parsed(ListingParserFactory(), entries)
    assert ours == parsed(AioResponseParserFactory(), entries)
    assert len(ours.get("Contents", ())) == entries.count("<Contents>")


def test_what_nobody_asks_for_is_left_out() -> None:
    [entry] = parsed(ListingParserFactory(), NOT_READ)["Contents"]
    assert entry == {"Key": "k"}


def test_other_services_have_their_parsers() -> None:
    assert type(ListingParserFactory().create_parser("query")) is type(
        AioResponseParserFactory().create_parser("query")
    )
