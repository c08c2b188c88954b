"""Members of a tar file in one forward pass, with their exact byte offsets, and damage noticed.

Python's tarfile ends silently where an archive is cut off or damaged, and seeks where we stream. Read here are ustar
(IEEE Std 1003.1-2017, "ustar Interchange Format"), pax extended headers ("pax Header Block"), GNU long names, base-256
sizes and sparse markers (GNU tar manual, "Basic Tar Format"), and plain V7 headers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from sam3lt_ray.inputs.forward_reader import ForwardReader
from sam3lt_ray.inputs.keys import shown

_BLOCK: Final = 512
_ZERO_BLOCK: Final = bytes(_BLOCK)
_REGULAR_TYPES: Final = (b"0", b"\0", b"7")
# Links, devices, directories, pipes: whatever their size field says, no payload follows.
_TYPES_WITHOUT_PAYLOAD: Final = (b"1", b"2", b"3", b"4", b"5", b"6")
_GNU_LONG_NAME, _GNU_LONG_LINK, _GNU_SPARSE = b"L", b"K", b"S"
_PAX_HEADER: Final = (b"x", b"X")
# Of one extended header (a name, times, attributes): a few KB in practice. They are held whole.
_MAX_EXTENSION_BYTES: Final = 2**20
_MAX_EXTENSIONS: Final = 16  # in front of one member; writers use two or three
# The records of pax headers that are used; all others are let go of at once.
_DECIMAL: Final = re.compile(r"[0-9]{1,20}")
_USED_KEYWORDS: Final = ("path", "size")
_SPARSE_PREFIX: Final = "GNU.sparse."
# Writers pad an archive to their record size, at most 1 MiB with any of them; more than that is no padding.
_MAX_PADDING_BYTES: Final = 2**20


class TarDamageError(Exception):
    """The archive ends too early or stops making sense. The message is a sentence for people."""


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
        return self.payload_offset + -(-self.size_bytes // _BLOCK) * _BLOCK


class TarReader:
    """Iterates over members; payloads are read only when asked for, before the next member is.

    Args:
        source: Positioned at a header.
    """

    def __init__(self, source: ForwardReader) -> None:
        self._source = source
        self._next_offset = source.position
        self._last: TarMember | None = None

    def next_member(self) -> TarMember | None:
        """The next member; None at the archive's proper end.

        Raises:
            TarDamageError: The archive is cut off or damaged here.
            StorageError: Storage keeps failing.
        """
        first_offset = self._next_offset
        overrides: dict[str, str] = {}
        num_extensions = 0
        while True:
            offset = self._next_offset
            header = self._read_header_block(offset)
            if header is None:
                if offset != first_offset:
                    raise TarDamageError(f"an extended header at byte {first_offset} is not followed by a member")
                return None
            member = _parse_header(header, offset, first_offset)
            kind = header[156:157]
            if kind in (_GNU_LONG_NAME, _GNU_LONG_LINK, *_PAX_HEADER, b"g"):
                num_extensions += 1
                if num_extensions > _MAX_EXTENSIONS:
                    raise TarDamageError(f"more than {_MAX_EXTENSIONS} extended headers follow byte {first_offset}")
                payload = self._read_extension(member)
                if kind == _GNU_LONG_NAME:
                    overrides["path"] = _to_text(payload.split(b"\0", 1)[0])
                elif kind in _PAX_HEADER:
                    overrides |= _parse_pax(payload, offset)
                # "K" names a link's target, "g" holds defaults for the archive: neither names a file.
                self._next_offset = member.end_offset
                continue
            if kind == _GNU_SPARSE:
                member = self._skip_sparse_headers(member, header)
            member = _apply_overrides(member, overrides)
            self._next_offset = member.end_offset
            self._last = member
            return member

    def read_payload(self, member: TarMember) -> bytes:
        """Content of the member that was just returned.

        Raises:
            TarDamageError: The archive ends inside it.
            StorageError: Storage keeps failing.
        """
        self._source.seek_forward(member.payload_offset)
        if member.payload_offset + member.size_bytes > self._source.size_bytes:
            raise TarDamageError(self._cut_off_inside(member))
        return self._source.read(member.size_bytes)

    def _read_header_block(self, offset: int) -> bytes | None:
        """The header at ``offset``; None at the end mark."""
        size = self._source.size_bytes
        if self._last is not None and self._last.payload_offset + self._last.size_bytes > size:
            raise TarDamageError(self._cut_off_inside(self._last))
        self._source.seek_forward(offset)
        header = self._source.read(_BLOCK)
        if len(header) < _BLOCK:
            raise TarDamageError(f"the archive ends at byte {size} without its end mark")
        if header != _ZERO_BLOCK:
            return header
        self._check_padding()
        return None

    def _check_padding(self) -> None:
        # The mark is two zero blocks, but the first one alone already says that no member follows. What must not
        # follow is anything else: a hole in a damaged file, or a second archive that was appended.
        left = self._source.size_bytes - self._source.position
        mark = self._source.position - _BLOCK
        if left > _MAX_PADDING_BYTES:
            raise TarDamageError(f"{left} bytes follow the end mark at byte {mark}, too many to be padding")
        if any(self._source.read(left)):
            raise TarDamageError(f"other data follow the end mark at byte {mark}: damage, or archives that were joined")

    def _read_extension(self, member: TarMember) -> bytes:
        if member.size_bytes > _MAX_EXTENSION_BYTES:
            raise TarDamageError(f"the extended header at byte {member.header_offset} claims {member.size_bytes} bytes")
        return self.read_payload(member)

    def _skip_sparse_headers(self, member: TarMember, header: bytes) -> TarMember:
        payload_offset, is_extended = member.payload_offset, header[482] == 1
        while is_extended:
            block = self._source.read(_BLOCK)
            if len(block) < _BLOCK:
                raise TarDamageError(f"the archive ends at byte {self._source.size_bytes} inside a header")
            payload_offset += _BLOCK
            is_extended = block[504] == 1
        return replace(member, payload_offset=payload_offset, is_file=True, is_sparse=True)

    def _cut_off_inside(self, member: TarMember) -> str:
        present = max(self._source.size_bytes - member.payload_offset, 0)
        return (
            f"the archive ends at byte {self._source.size_bytes} inside {shown(member.name) or 'a header'}: "
            f"{present} of its {member.size_bytes} bytes are there"
        )


def _parse_header(header: bytes, offset: int, first_offset: int) -> TarMember:
    _check_sum(header, offset)
    kind = header[156:157]
    name = header[0:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":  # GNU headers ("ustar  ") keep times where ustar has the prefix
        prefix = header[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    # V7 archives mark directories by a trailing slash only.
    is_file = kind in _REGULAR_TYPES and not (kind == b"\0" and name.endswith(b"/"))
    size_bytes = 0 if kind in _TYPES_WITHOUT_PAYLOAD else _parse_number(header[124:136], offset)
    return TarMember(_clean_name(_to_text(name)), size_bytes, first_offset, offset + _BLOCK, is_file)


def _check_sum(header: bytes, offset: int) -> None:
    stored = _parse_number(header[148:156], offset)
    blanked = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(blanked)
    signed = unsigned - 256 * sum(byte > 127 for byte in blanked)  # what some old writers computed
    if stored not in (unsigned, signed):
        raise TarDamageError(f"what stands at byte {offset} is no tar header (its checksum is wrong)")


def _parse_number(digits: bytes, offset: int) -> int:
    if digits[0] == 0x80:  # base-256, for what does not fit into octal digits
        return int.from_bytes(digits[1:], "big")
    text = digits.split(b"\0", 1)[0].strip()
    try:
        return int(text or b"0", 8) if not text.startswith((b"-", b"+")) else _fail_number(offset)
    except ValueError:
        return _fail_number(offset)


def _fail_number(offset: int) -> int:
    raise TarDamageError(f"what stands at byte {offset} is no tar header (a number in it is not one)")


def _parse_pax(payload: bytes, offset: int) -> dict[str, str]:
    """Records "<length> <keyword>=<value><newline>" of a pax extended header."""
    records: dict[str, str] = {}
    position = 0
    while position < len(payload) and payload[position] != 0:
        digits, space, _ = payload[position : position + 21].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = payload[position + len(digits) + 1 : position + length]
        keyword, equals, value = record.partition(b"=")
        if length < 5 or not equals or not value.endswith(b"\n"):
            raise TarDamageError(f"the extended header at byte {offset} cannot be read")
        name = _to_text(keyword)
        if name in _USED_KEYWORDS or name == "GNU.sparse.name":
            records[name] = _to_text(value[:-1])
        elif name.startswith(_SPARSE_PREFIX):
            records[_SPARSE_PREFIX] = ""  # that there are some is all that counts
        position += length
    return records


def _apply_overrides(member: TarMember, overrides: dict[str, str]) -> TarMember:
    size = overrides.get("size", "")
    if _DECIMAL.fullmatch(size) and (member.is_file or member.size_bytes):
        member = replace(member, size_bytes=int(size))
    name = overrides.get("GNU.sparse.name", overrides.get("path"))
    if name is not None:
        member = replace(member, name=_clean_name(name))
    is_sparse = member.is_sparse or any(keyword.startswith(_SPARSE_PREFIX) for keyword in overrides)
    return replace(member, is_sparse=is_sparse)


def _to_text(name: bytes) -> str:
    # Text that can be stored anywhere: names that are no UTF-8 keep their odd bytes as "\\xff".
    return name.decode("utf-8", "backslashreplace")


def _clean_name(name: str) -> str:
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name
