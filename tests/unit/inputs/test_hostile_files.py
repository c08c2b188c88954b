"""Files that claim gigabytes end as error rows; tests/integration/test_hostile_memory.py measures what they take."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3lt_ray.inputs.parquet_pages import ColumnChunkGuard, ImpossiblePageError, parse_page_header
from tests import hostile_files as hostile
from tests.unit.inputs.shard_files import images_of, make_shard, read_all

MB = 2**20
GB = 2**30


def test_a_member_that_claims_50_gb(tmp_path: Path) -> None:
    image = make_shard(tmp_path, hostile.tar_header("a.jpg", 50 * GB) + bytes(1000))
    assert [row.error_kind for row in images_of(read_all(image))] == ["too_large", "truncated_shard"]
    other = make_shard(tmp_path, hostile.tar_header("a.bin", 50 * GB) + bytes(1000), "other.tar")
    (row,) = images_of(read_all(other))
    assert row.error_kind == "truncated_shard"
    assert "1000 of its 53687091200 bytes are there" in (row.error_message or "")


def test_a_name_that_claims_1_gb(tmp_path: Path) -> None:
    (row,) = images_of(read_all(make_shard(tmp_path, hostile.tar_header("x", GB, b"L") + bytes(1000))))
    assert row.error_message is not None
    assert "claims 1073741824 bytes" in row.error_message


def test_side_files_without_end(tmp_path: Path) -> None:
    members = b"".join(hostile.tar_header(f"key.{number}", 0) for number in range(5_000))
    image = hostile.tar_header("key.jpg", 3) + b"abc" + bytes(509)
    (row,) = images_of(read_all(make_shard(tmp_path, members + image + bytes(1024))))
    assert (row.key, row.data) == ("key.jpg", b"abc")
    assert row.side_files == tuple(f"key.{number}" for number in range(1_000))


# --- page headers -----------------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _header(kind: int, unpacked: int, packed: int, encoding: int = 0) -> bytes:
    """Thrift's compact form of a PageHeader: type, sizes, and a DataPageHeader with statistics."""
    numbers = b"".join(
        b"\x15" + _varint(2 * value if value >= 0 else -2 * value - 1) for value in (kind, unpacked, packed)
    )
    statistics = b"\x1c\x18\x03abc\x18\x00\x00"
    data_page = b"\x2c" + b"\x15\x08" + b"\x15" + _varint(2 * encoding) + b"\x15\x06\x15\x06" + statistics + b"\x00"
    return numbers + data_page + b"\x00"


def _guard(header: bytes, packed: int, **options: bool) -> None:
    guard = ColumnChunkGuard(100, 100 + len(header) + packed, may_repeat_values=options.get("may_repeat_values", False))
    guard.check(100, header, lambda position, num_bytes: header[position - 100 :][:num_bytes])


def test_a_header_is_read_as_it_was_written() -> None:
    header = parse_page_header(_header(0, 1_000_000, 70_000) + b"content")
    assert (header.packed_bytes, header.unpacked_bytes, header.repeats_values) == (70_000, 1_000_000, False)
    assert header.header_bytes == len(_header(0, 1_000_000, 70_000))
    assert parse_page_header(_header(0, 9, 9, encoding=7)).repeats_values
    assert parse_page_header(_header(2, 9, 9)).repeats_values


@pytest.mark.parametrize(
    ("header", "packed", "sentence"),
    [
        (_header(0, 2**31 - 1, 5_000), 5_000, "the limit is 1,073,741,824"),
        (_header(0, 200 * MB, 5_000), 5_000, "claims to become 209,715,200 bytes out of 5,000"),
        (_header(0, 100, 2**31 - 1), 5_000, "there are not so many"),
        (_header(0, -5, 10), 5_000, "there are not so many"),
        (_header(2, 100, 100), 5_000, "the footer does not mention"),
        (_header(0, 100, 100, encoding=7), 5_000, "the footer does not mention"),
        (b"\xff" * 200, 5_000, "is none"),
        (b"\x1c" * 200, 5_000, "nested too deeply"),
        (b"\x15", 0, "has no end"),
    ],
)
def test_headers_that_are_refused(header: bytes, packed: int, sentence: str) -> None:
    with pytest.raises(ImpossiblePageError, match=sentence):
        _guard(header, packed)


def test_honest_pages_pass() -> None:
    _guard(_header(0, 900 * MB, 890 * MB), 890 * MB)
    _guard(_header(0, 100 * MB, 5_000), 5_000)
    _guard(_header(2, 100, 100), 5_000, may_repeat_values=True)


def test_every_page_of_a_chunk_is_looked_at_wherever_requests_end() -> None:
    pages = [_header(0, 40, 40) + bytes(40), _header(0, 30, 30) + bytes(30), _header(0, 2**31 - 1, 20) + bytes(20)]
    chunk = b"".join(pages)

    def read_through(request: int) -> None:
        guard = ColumnChunkGuard(0, len(chunk), may_repeat_values=False)
        for offset in range(0, len(chunk), request):
            guard.check(offset, chunk[offset : offset + request], lambda place, length: chunk[place : place + length])

    for request in range(1, len(chunk)):
        with pytest.raises(ImpossiblePageError, match="the limit is"):
            read_through(request)
