from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from sam3lt_ray.inputs.forward_reader import ForwardReader
from sam3lt_ray.inputs.ranged_file import RangedFile
from sam3lt_ray.inputs.tar_reader import TarDamageError, TarMember, TarReader
from tests.unit.inputs.shard_files import LOCAL, make_tar

END = bytes(1024)


def header(name: bytes, size_bytes: int = 0, kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytearray:
    block = bytearray(512)
    block[: len(name)] = name
    block[124:136] = b"%011o\0" % size_bytes
    block[156:157] = kind
    block[257 : 257 + len(magic)] = magic
    return sealed(block)


def sealed(block: bytearray, signed: bool = False) -> bytearray:
    block[148:156] = b" " * 8
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    return block


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def read(folder: Path, archive: bytes, position: int = 0) -> list[tuple[TarMember, bytes]]:
    path = folder / "a.tar"
    path.write_bytes(archive)
    with ForwardReader(RangedFile(str(path), LOCAL), position, block_bytes=700) as source:
        reader = TarReader(source)
        found = []
        while (member := reader.next_member()) is not None:
            found.append((member, reader.read_payload(member) if member.is_file else b""))
        return found


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_sizes_and_offsets_of_python_tars(tmp_path: Path, tar_format: int) -> None:
    long = "d" * 70 + "/" + "n" * 80 + ".jpg"  # ustar: into the prefix; GNU: "L"; pax: "x"
    members = [("a.jpg", b"1" * 1000), (long, b"22"), ("e/empty.png", b""), ("b.jpg", b"3" * 512)]
    if tar_format != tarfile.USTAR_FORMAT:
        members.insert(1, ("x" * 300 + "/ü.jpg", b"4" * 513))
    archive = make_tar(members, tar_format)
    found = read(tmp_path, archive)
    assert [(member.name, data) for member, data in found] == members
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert [(m.offset, m.offset_data) for m in tar] == [(m.header_offset, m.payload_offset) for m, _ in found]


def test_reading_can_begin_at_any_header_offset(tmp_path: Path) -> None:
    archive = make_tar([("x" * 200 + f"{number}.jpg", bytes(number * 100)) for number in range(5)])
    whole = read(tmp_path, archive)
    for position, (member, _) in enumerate(whole):
        assert read(tmp_path, archive, member.header_offset) == whole[position:]


def test_members_without_own_content(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("x.jpg")
            info.type, info.linkname = kind, "y" * 150
            tar.addfile(info)
        info = tarfile.TarInfo("z.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    found = read(tmp_path, buffer.getvalue())
    assert [member.is_file for member, _ in found] == [False] * 5 + [True]
    assert found[-1][1] == b"abc"


def test_global_headers_are_passed_over(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"comment": "x" * 600}) as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    assert [member.name for member, _ in read(tmp_path, buffer.getvalue())] == ["a.jpg"]


def test_base_256_sizes_and_pax_sizes(tmp_path: Path) -> None:
    binary = header(b"a.jpg")
    binary[124:136] = b"\x80" + (600).to_bytes(11, "big")
    archive = bytes(sealed(binary)) + padded(b"a" * 600)
    archive += (
        bytes(header(b"x", 12, b"x")) + padded(b"12 size=700\n") + bytes(header(b"b.jpg", 0)) + padded(b"b" * 700)
    )
    assert [data for _, data in read(tmp_path, archive + END)] == [b"a" * 600, b"b" * 700]


@pytest.mark.parametrize("size", ["²", "9" * 5_000, "-1", "1_0", ""])
def test_pax_sizes_that_are_no_sizes_are_passed_over(tmp_path: Path, size: str) -> None:
    record = _record(b"size=" + size.encode())
    archive = bytes(header(b"x", len(record), b"x")) + padded(record) + FILE + END
    assert [data for _, data in read(tmp_path, archive)] == [b"abc"]


def test_old_headers(tmp_path: Path) -> None:
    v7_directory = bytes(header(b"dir/", 0, b"\0", magic=b""))
    v7_file = bytes(header(b"v7.jpg", 3, b"\0", magic=b"")) + padded(b"abc")
    gnu = header(b"gnu.jpg", 3, b"0", magic=b"ustar  \0")
    gnu[345:350] = b"12345"  # an access time, no prefix
    negative = header(b"caf\xe9.jpg", 3)
    archive = v7_directory + v7_file + bytes(sealed(gnu)) + padded(b"abc") + bytes(sealed(negative, signed=True))
    found = read(tmp_path, archive + padded(b"abc") + END)
    assert [(member.name, member.is_file) for member, _ in found] == [
        ("dir/", False),
        ("v7.jpg", True),
        ("gnu.jpg", True),
        ("caf\\xe9.jpg", True),
    ]


def test_sparse_members_are_marked_and_passed(tmp_path: Path) -> None:
    old = header(b"old.jpg", 512, b"S", magic=b"ustar  \0")
    old[482] = 1
    extended = bytearray(512)
    pax_records = b"".join(_record(part) for part in (b"GNU.sparse.major=1", b"GNU.sparse.name=new.jpg"))
    archive = bytes(sealed(old)) + bytes(extended) + b"o" * 512
    archive += bytes(header(b"x", len(pax_records), b"x")) + padded(pax_records)
    archive += bytes(header(b"GNUSparseFile.0/new.jpg", 512)) + b"n" * 512
    archive += bytes(header(b"plain.jpg", 1)) + padded(b"p")
    found = [(member.name, member.is_sparse) for member, _ in read(tmp_path, archive + END)]
    assert found == [("old.jpg", True), ("new.jpg", True), ("plain.jpg", False)]


def _record(text: bytes) -> bytes:
    length = len(text) + 2
    while len(b"%d" % length) + len(text) + 2 != length:
        length = len(b"%d" % length) + len(text) + 2
    return b"%d %s\n" % (length, text)


def test_leading_dot_slash_is_dropped(tmp_path: Path) -> None:
    archive = b"".join(bytes(header(name)) for name in (b"./a.jpg", b".//b/./c.jpg")) + END
    assert [member.name for member, _ in read(tmp_path, archive)] == ["a.jpg", "b/./c.jpg"]


FILE = bytes(header(b"a.jpg", 3)) + padded(b"abc")


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (b"", "ends at byte 0 without its end mark"),
        (FILE, "ends at byte 1024 without its end mark"),
        (FILE + bytes(header(b"b.jpg"))[:100], "ends at byte 1124 without its end mark"),
        (FILE[:514], "ends at byte 514 inside a.jpg: 2 of its 3 bytes are there"),
        (FILE + b"x" * 512 + END, "byte 1024 is no tar header"),
        (b"<html>" + bytes(2000), "byte 0 is no tar header"),
        (FILE + END + FILE + END, "other data follow the end mark at byte 1024"),
        (FILE + bytes(2**20 + 2000), "too many to be padding"),
        (bytes(header(b"L", 4, b"L")) + padded(b"abc\0") + END, "extended header at byte 0 is not followed"),
        (bytes(header(b"x", 5, b"x")) + padded(b"nopax") + FILE + END, "extended header at byte 0 cannot be read"),
        (bytes(header(b"x", 2**33, b"x")) + END, "claims 8589934592 bytes"),
    ],
)
def test_damage_is_told(tmp_path: Path, archive: bytes, message: str) -> None:
    with pytest.raises(TarDamageError, match=message):
        read(tmp_path, archive)


@pytest.mark.parametrize("end", [bytes(512), bytes(1024), bytes(10240), bytes(700)])
def test_proper_ends(tmp_path: Path, end: bytes) -> None:
    assert [data for _, data in read(tmp_path, FILE + end)] == [b"abc"]
