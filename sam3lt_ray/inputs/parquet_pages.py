"""Looking at a Parquet file's page headers before Arrow does, because it believes them.

A page header says how large its page is when unpacked, and Arrow takes that much memory, whatever the footer says: a
few KB of packed zeros become 2 GB. Pages pass by here on their way to Arrow, and one whose header cannot be is refused
before memory is taken for it. Nothing is read twice for this, except where a header lies across the end of a request.

The format of page headers: parquet.thrift of apache/parquet-format, in Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_PAGE_BYTES: Final = 2**30
# A page of this size is harmless however it is packed; a larger one should have come with bytes of its own.
MAX_EXPANDED_BYTES: Final = 128 * 2**20
MAX_EXPANSION: Final = 100
_MAX_HEADER_BYTES: Final = 2**20  # statistics in it may hold two values, which writers cut

_DICTIONARY_PAGE: Final = 2
_DELTA_BYTE_ARRAY: Final = 7
_FIELD_TYPE, _FIELD_UNPACKED, _FIELD_PACKED, _FIELD_DATA_PAGE, _FIELD_DATA_PAGE_V2 = 1, 2, 3, 5, 8
_ENCODING_FIELD: Final = {_FIELD_DATA_PAGE: 2, _FIELD_DATA_PAGE_V2: 4}

ReadAt = Callable[[int, int], bytes]


class ImpossiblePageError(Exception):
    """A page that would take more memory than it may, or whose header makes no sense. A sentence for people."""


@dataclass(frozen=True, slots=True)
class PageHeader:
    """What a page says about itself.

    Attributes:
        header_bytes: Length of the header.
        packed_bytes: Length of what follows it.
        unpacked_bytes: What that claims to become.
        repeats_values: Its values may be many times larger than the page: it has, or refers to, a dictionary or the
            value before.
    """

    header_bytes: int
    packed_bytes: int
    unpacked_bytes: int
    repeats_values: bool


class ColumnChunkGuard:
    """Follows the pages of one column chunk.

    Args:
        start: Where its first page header begins.
        end: Where the chunk ends.
        may_repeat_values: The footer says so, and whoever reads reads it row by row.
    """

    def __init__(self, start: int, end: int, *, may_repeat_values: bool) -> None:
        self._next_header = start
        self._end = end
        self._may_repeat_values = may_repeat_values

    def check(self, offset: int, data: bytes, read_at: ReadAt) -> None:
        """Look at the headers that begin in a stretch of the file that has just been read.

        Args:
            offset: Where the stretch begins.
            data: The stretch.
            read_at: Reads the rest of a header that lies across its end.

        Raises:
            ImpossiblePageError: A page that must not be given to Arrow.
        """
        stop = min(offset + len(data), self._end)
        while offset <= self._next_header < stop:
            header = self._parse(self._next_header, data[self._next_header - offset :][:_MAX_HEADER_BYTES], read_at)
            self._refuse(header)
            self._next_header += header.header_bytes + header.packed_bytes

    def _parse(self, position: int, data: bytes, read_at: ReadAt) -> PageHeader:
        try:
            return parse_page_header(data)
        except IndexError:
            whole = read_at(position, min(_MAX_HEADER_BYTES, self._end - position))
        try:
            return parse_page_header(whole)
        except IndexError:
            raise ImpossiblePageError(f"the page header at byte {position} has no end") from None

    def _refuse(self, header: PageHeader) -> None:
        packed, unpacked = header.packed_bytes, header.unpacked_bytes
        where = f"the page at byte {self._next_header}"
        if packed < 0 or unpacked < 0 or self._next_header + header.header_bytes + packed > self._end:
            raise ImpossiblePageError(f"{where} claims {packed:,} bytes, and there are not so many")
        if unpacked > MAX_PAGE_BYTES:
            raise ImpossiblePageError(f"{where} claims {unpacked:,} bytes; the limit is {MAX_PAGE_BYTES:,}")
        if unpacked > MAX_EXPANDED_BYTES and unpacked > MAX_EXPANSION * packed:
            raise ImpossiblePageError(f"{where} claims to become {unpacked:,} bytes out of {packed:,}")
        if header.repeats_values and not self._may_repeat_values:
            raise ImpossiblePageError(f"{where} is encoded in a way that the footer does not mention")


def parse_page_header(data: bytes) -> PageHeader:
    """Read a page header.

    Raises:
        IndexError: The data end before the header does.
        ImpossiblePageError: It is no page header.
    """
    reader = _CompactReader(data)
    fields = reader.read_struct()
    sizes = [fields.get(field) for field in (_FIELD_TYPE, _FIELD_UNPACKED, _FIELD_PACKED)]
    kind, unpacked, packed = (size if isinstance(size, int) else -1 for size in sizes)
    encodings = []
    for field, encoding_field in _ENCODING_FIELD.items():
        inner = fields.get(field)
        encodings.append(inner.get(encoding_field) if isinstance(inner, dict) else None)
    repeats = kind == _DICTIONARY_PAGE or _DELTA_BYTE_ARRAY in encodings
    return PageHeader(reader.position, packed, unpacked, repeats)


_Value = int | None | dict[int, "_Value"]

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS: Final = (4, 5, 6)
_MAX_DEPTH: Final = 8


class _CompactReader:
    """As much of Thrift's compact protocol as page headers use; integers and structs are kept, the rest is skipped."""

    def __init__(self, data: bytes) -> None:
        self.position = 0
        self._data = data

    def read_struct(self, depth: int = 0) -> dict[int, _Value]:
        if depth > _MAX_DEPTH:
            raise ImpossiblePageError("a page header is nested too deeply")
        fields: dict[int, _Value] = {}
        field = 0
        while (head := self._byte()) != 0:
            delta, kind = head >> 4, head & 0x0F
            field = field + delta if delta else self._integer()
            fields[field] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> _Value:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind in _INTEGERS:
            return self._integer()
        if kind == _STRUCT:
            return self.read_struct(depth + 1)
        if kind in (_LIST, _SET):
            self._skip_list(depth)
        else:
            self._skip({_BYTE: 1, _DOUBLE: 8, _BINARY: None}[kind] if kind in (_BYTE, _DOUBLE, _BINARY) else -1)
        return None

    def _skip_list(self, depth: int) -> None:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        for _ in range(count):
            if head & 0x0F in (_TRUE, _FALSE):
                self._skip(1)
            else:
                self._value(head & 0x0F, depth + 1)

    def _skip(self, num_bytes: int | None) -> None:
        count = self._varint() if num_bytes is None else num_bytes
        if count < 0:
            raise ImpossiblePageError("what should be a page header is none")
        self.position += count
        if self.position > len(self._data):
            raise IndexError

    def _byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ImpossiblePageError("what should be a page header is none")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
