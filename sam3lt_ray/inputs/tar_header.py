"""One header block of a tar: what it says, and whether it is one at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

BLOCK: Final = 512
ZERO_BLOCK: Final = bytes(BLOCK)
GNU_LONG_NAME, GNU_LONG_LINK, GNU_SPARSE = b"L", b"K", b"S"
PAX_HEADER: Final = (b"x", b"X")
# What stands before a member and says more of it; "g" holds defaults for the archive.
EXTENSIONS: Final = (GNU_LONG_NAME, GNU_LONG_LINK, *PAX_HEADER, b"g")
_REGULAR_TYPES: Final = (b"0", b"\0", b"7")
# Links, devices, directories, pipes: whatever their size field says, no payload follows.
_TYPES_WITHOUT_PAYLOAD: Final = (b"1", b"2", b"3", b"4", b"5", b"6")


class TarDamageError(Exception):
    """The archive ends too early or stops making sense. The message is a sentence for people."""


class BrokenHeaderError(TarDamageError):
    """Where a header should stand, there is none that can be read; the archive may go on behind it.

    Args:
        message: The sentence.
        header: The block.
        offset: Where it stands.
    """

    def __init__(self, message: str, header: bytes, offset: int) -> None:
        super().__init__(message)
        self.header = header
        self.offset = offset


@dataclass(frozen=True, slots=True)
class TarMember:
    """One member.

    Attributes:
        name: Path in the archive, "/" between parts, without a leading "./".
        size_bytes: Size of the payload as stored.
        header_offset: Where its first header begins, extended headers included: reading can start there.
        payload_offset: Where its payload begins.
        is_file: A regular file with its own content (no directory, link or device).
        is_sparse: Stored without its holes: the payload is not the file's content.
    """

    name: str
    size_bytes: int
    header_offset: int
    payload_offset: int
    is_file: bool
    is_sparse: bool = False

    @property
    def end_offset(self) -> int:
        """Where the next header begins."""
        return self.payload_offset + -(-self.size_bytes // BLOCK) * BLOCK


def parse_header(header: bytes, offset: int, first_offset: int) -> TarMember:
    """What a header says of its member.

    Args:
        header: The block.
        offset: Where it stands.
        first_offset: Where the first of the member's headers stands.

    Raises:
        BrokenHeaderError: It is none.
    """
    try:
        _check_sum(header)
        kind = header[156:157]
        size_bytes = 0 if kind in _TYPES_WITHOUT_PAYLOAD else parse_number(header[124:136])
    except ValueError as error:
        raise BrokenHeaderError(f"what stands at byte {offset} is no tar header ({error})", header, offset) from None
    name = header[0:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":  # GNU headers ("ustar  ") keep times where ustar has the prefix
        prefix = header[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    # V7 archives mark directories by a trailing slash only.
    is_file = kind in _REGULAR_TYPES and not (kind == b"\0" and name.endswith(b"/"))
    return TarMember(clean_name(to_text(name)), size_bytes, first_offset, offset + BLOCK, is_file)


def parse_number(digits: bytes) -> int:
    """A number field: octal digits, or base-256 for what does not fit into them.

    Raises:
        ValueError: It is neither.
    """
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:], "big")
    text = digits.split(b"\0", 1)[0].strip()
    if re.fullmatch(rb"[0-7]*", text) is None:
        raise ValueError("a number in it is not one")
    return int(text or b"0", 8)


def _check_sum(header: bytes) -> None:
    stored = parse_number(header[148:156])
    blanked = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(blanked)
    signed = unsigned - 256 * sum(byte > 127 for byte in blanked)  # what some old writers computed
    if stored not in (unsigned, signed):
        raise ValueError("its checksum is wrong")


def to_text(name: bytes) -> str:
    r"""Text that can be stored anywhere: names that are no UTF-8 keep their odd bytes as "\xff"."""
    return name.decode("utf-8", "backslashreplace")


def clean_name(name: str) -> str:
    """A name without a leading "./"."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name
