"""Where a tar goes on behind a header that cannot be read.

What is found depends on the bytes from the broken header on and on nothing else, so that every reading of a shard,
wherever it begins, finds the same. A header with a flipped bit may still tell its size: then the next one stands where
it says. Otherwise every block is looked at, of a payload too; so a tar within a tar whose own header is broken may be
taken for the continuation of the outer one.
"""

from __future__ import annotations

from typing import Final

from sam3lt_ray.inputs.forward_reader import ForwardReader
from sam3lt_ray.inputs.tar_header import (
    BLOCK,
    EXTENSIONS,
    ZERO_BLOCK,
    BrokenHeaderError,
    parse_header,
    parse_number,
)

_MAX_SEARCHED_BYTES: Final = 256 * 2**20
_MAX_HEADERS: Final = 18  # of one member
_MAGIC: Final = (b"ustar\0", b"ustar ")


def has_magic(block: bytes) -> bool:
    """Whether a block says that it is a header. Those of V7 archives do not, and are not searched for."""
    return block[257:263] in _MAGIC


def is_header(block: bytes, offset: int, archive_bytes: int) -> bool:
    """Whether a block is a header beyond reasonable doubt, of a member that is all there."""
    if len(block) < BLOCK or not has_magic(block):
        return False
    try:
        member = parse_header(block, offset, offset)
    except BrokenHeaderError:
        return False
    return (
        bool(member.name) and member.name.isprintable() and member.payload_offset + member.size_bytes <= archive_bytes
    )


def claimed_end(damage: BrokenHeaderError, source: ForwardReader) -> int | None:
    """Where the broken member ends by its own account; None if the archive does not go on there.

    With a broken extended header goes the member behind it, whose name it may have held.
    """
    if not has_magic(damage.header):
        return None
    kind = damage.header[156:157]
    try:
        size_bytes = parse_number(damage.header[124:136])
    except ValueError:
        return None
    end = damage.offset + BLOCK + -(-size_bytes // BLOCK) * BLOCK
    for _ in range(_MAX_HEADERS):
        block = source.peek(end, BLOCK)
        if block == ZERO_BLOCK:
            return end
        if not is_header(block, end, source.size_bytes):
            return None
        if kind not in EXTENSIONS:
            return end
        kind, end = block[156:157], parse_header(block, end, end).end_offset
    return None


def find_header(source: ForwardReader) -> tuple[int, bytes] | None:
    """The next block that is a header, from where the source stands to 256 MiB further on, and its offset."""
    limit = source.position + _MAX_SEARCHED_BYTES
    while source.position < limit and (block := source.read(BLOCK)):
        offset = source.position - len(block)
        if is_header(block, offset, source.size_bytes):
            return offset, block
    return None
