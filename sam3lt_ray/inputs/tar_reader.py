"""Members of a tar file in one forward pass, with their exact byte offsets, and damage noticed.

Python's tarfile ends silently where an archive is cut off or damaged, and seeks where we stream. Read here are ustar
(IEEE Std 1003.1-2017, "ustar Interchange Format"), pax extended headers ("pax Header Block"), GNU long names, base-256
sizes and sparse markers (GNU tar manual, "Basic Tar Format"), and plain V7 headers.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from sam3lt_ray.inputs.forward_reader import ForwardReader
from sam3lt_ray.inputs.keys import shown
from sam3lt_ray.inputs.tar_header import (
    BLOCK,
    EXTENSIONS,
    GNU_LONG_NAME,
    GNU_SPARSE,
    PAX_HEADER,
    ZERO_BLOCK,
    BrokenHeaderError,
    TarDamageError,
    TarMember,
    clean_name,
    parse_header,
    to_text,
)
from sam3lt_ray.inputs.tar_resync import claimed_end, find_header, has_magic, is_header

__all__ = ["TarDamageError", "TarMember", "TarReader"]

# Of one extended header (a name, times, attributes): a few KB in practice. They are held whole.
_MAX_EXTENSION_BYTES: Final = 2**20
_MAX_EXTENSIONS: Final = 16  # in front of one member; writers use two or three
# The records of pax headers that are used; all others are let go of at once.
_DECIMAL: Final = re.compile(r"[0-9]{1,20}")
_USED_KEYWORDS: Final = ("path", "size")
_SPARSE_PREFIX: Final = "GNU.sparse."
# Writers pad an archive to their record size, at most 1 MiB with any of them; more than that is no padding.
_MAX_PADDING_BYTES: Final = 2**20


class TarReader:
    """Iterates over members; payloads are read only when asked for, before the next member is.

    Args:
        source: Positioned at a header.
    """

    def __init__(self, source: ForwardReader) -> None:
        self._source = source
        self._next_offset = source.position
        self._first_offset = source.position  # of the member that is being read, or was read last
        self._last: TarMember | None = None
        self._fetched: tuple[int, bytes] | None = None  # a block that was read before it was its turn, and its offset

    def next_member(self) -> TarMember | None:
        """The next member; None at the archive's proper end.

        Raises:
            TarDamageError: The archive is cut off or damaged here; see :meth:`skip_broken`.
            StorageError: Storage keeps failing.
        """
        first_offset = self._first_offset = self._next_offset
        overrides: dict[str, str] = {}
        num_extensions = 0
        while True:
            offset = self._next_offset
            header = self._read_header_block(offset)
            if header is None:
                if offset != first_offset:
                    raise TarDamageError(f"an extended header at byte {first_offset} is not followed by a member")
                return None
            member = parse_header(header, offset, first_offset)
            kind = header[156:157]
            if kind in EXTENSIONS:
                num_extensions += 1
                if num_extensions > _MAX_EXTENSIONS:
                    raise TarDamageError(f"more than {_MAX_EXTENSIONS} extended headers follow byte {first_offset}")
                payload = self._read_extension(member)
                if kind == GNU_LONG_NAME:
                    overrides["path"] = to_text(payload.split(b"\0", 1)[0])
                elif kind in PAX_HEADER:
                    overrides |= _parse_pax(payload, header, offset)
                # "K" names a link's target, "g" holds defaults for the archive: neither names a file.
                self._next_offset = member.end_offset
                continue
            if kind == GNU_SPARSE:
                member = self._skip_sparse_headers(member, header)
            member = _apply_overrides(member, overrides)
            self._next_offset = member.end_offset
            self._last = member
            return member

    def skip_broken(self, damage: TarDamageError) -> tuple[int, int] | None:
        """Go on behind a broken header that :meth:`next_member` has just met.

        Returns:
            First byte of what is passed over, and where the archive goes on; None if nothing more can be read.

        Raises:
            StorageError: Storage keeps failing.
        """
        # What does not even begin like a tar is none: nothing is searched for in it.
        if not isinstance(damage, BrokenHeaderError) or (damage.offset == 0 and not has_magic(damage.header)):
            return None
        end = claimed_end(damage, self._source)
        if end is None:
            if self._fetched is None or not is_header(self._fetched[1], self._fetched[0], self._source.size_bytes):
                self._source.seek_forward(_next_block(self._source.position, damage.offset))
                self._fetched = find_header(self._source)
            if self._fetched is None:
                return None
            end = self._fetched[0]
        self._next_offset, self._last = end, None
        return self._first_offset, end

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
        fetched, self._fetched = self._fetched, None
        if fetched is not None and fetched[0] == offset:
            header = fetched[1]
        else:
            self._source.seek_forward(offset)
            header = self._source.read(BLOCK)
        if len(header) < BLOCK:
            raise TarDamageError(f"the archive ends at byte {size} without its end mark")
        if header != ZERO_BLOCK:
            return header
        self._check_padding()
        return None

    def _check_padding(self) -> None:
        # The mark is two zero blocks, but the first one alone already says that no member follows. What must not
        # follow is anything else: a hole in a damaged file, or a second archive that was appended.
        left = self._source.size_bytes - self._source.position
        mark = self._source.position - BLOCK
        if left > _MAX_PADDING_BYTES:
            sentence = f"{left} bytes follow the end mark at byte {mark}, too many to be padding"
            raise BrokenHeaderError(sentence, ZERO_BLOCK, mark)
        while block := self._source.read(BLOCK):
            if any(block):
                self._fetched = self._source.position - len(block), block
                sentence = f"other data follow the end mark at byte {mark}: damage, or archives that were joined"
                raise BrokenHeaderError(sentence, ZERO_BLOCK, mark)

    def _read_extension(self, member: TarMember) -> bytes:
        if member.size_bytes > _MAX_EXTENSION_BYTES:
            raise TarDamageError(f"the extended header at byte {member.header_offset} claims {member.size_bytes} bytes")
        return self.read_payload(member)

    def _skip_sparse_headers(self, member: TarMember, header: bytes) -> TarMember:
        payload_offset, is_extended = member.payload_offset, header[482] == 1
        while is_extended:
            block = self._source.read(BLOCK)
            if len(block) < BLOCK:
                raise TarDamageError(f"the archive ends at byte {self._source.size_bytes} inside a header")
            payload_offset += BLOCK
            is_extended = block[504] == 1
        return replace(member, payload_offset=payload_offset, is_file=True, is_sparse=True)

    def _cut_off_inside(self, member: TarMember) -> str:
        present = max(self._source.size_bytes - member.payload_offset, 0)
        return (
            f"the archive ends at byte {self._source.size_bytes} inside {shown(member.name) or 'a header'}: "
            f"{present} of its {member.size_bytes} bytes are there"
        )


def _next_block(position: int, offset: int) -> int:
    """The first position from ``position`` on at which a block may begin if one begins at ``offset``."""
    return position + (offset - position) % BLOCK


def _parse_pax(payload: bytes, header: bytes, offset: int) -> dict[str, str]:
    """Records "<length> <keyword>=<value><newline>" of a pax extended header."""
    records: dict[str, str] = {}
    position = 0
    while position < len(payload) and payload[position] != 0:
        digits, space, _ = payload[position : position + 21].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = payload[position + len(digits) + 1 : position + length]
        keyword, equals, value = record.partition(b"=")
        if length < 5 or not equals or not value.endswith(b"\n"):
            raise BrokenHeaderError(f"the extended header at byte {offset} cannot be read", header, offset)
        name = to_text(keyword)
        if name in _USED_KEYWORDS or name == "GNU.sparse.name":
            records[name] = to_text(value[:-1])
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
        member = replace(member, name=clean_name(name))
    is_sparse = member.is_sparse or any(keyword.startswith(_SPARSE_PREFIX) for keyword in overrides)
    return replace(member, is_sparse=is_sparse)
