"""Files made to take far more memory than they have bytes: images, tars and Parquet files."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

GB = 2**30


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _packed_zeros(num_bytes: int) -> bytes:
    packer, block = zlib.compressobj(9), bytes(2**20)
    return b"".join(packer.compress(block) for _ in range(num_bytes // len(block))) + packer.flush()


def png(width: int, height: int, *, extra: bytes = b"", unpacked_bytes: int = 2**20, alpha: bool = False) -> bytes:
    """A PNG of zeros whose header, and whose number of packed bytes, say what they want."""
    header = struct.pack(">IIBBBBB", width, height, 8, 6 if alpha else 2, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), extra, _chunk(b"IDAT", _packed_zeros(unpacked_bytes)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_with_text(unpacked_bytes: int) -> bytes:
    """A tiny PNG with a comment that unpacks to many bytes."""
    return png(8, 6, extra=_chunk(b"zTXt", b"k\0\0" + _packed_zeros(unpacked_bytes)))


def tiff(changes: dict[int, int], appended: bytes = b"") -> bytes:
    """A tiny packed TIFF with some tags changed; ``{273: -1}`` is the place of what is appended."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    data = bytearray(buffer.getvalue())
    directory = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, directory)[0]):
        position = directory + 2 + 12 * entry
        value = changes.get(struct.unpack_from("<H", data, position)[0])
        if value is not None:
            struct.pack_into("<HII", data, position + 2, 4, 1, len(data) if value == -1 else value)
    return bytes(data) + appended


def tiff_bomb(unpacked_bytes: int) -> bytes:
    """A tiny TIFF whose only strip unpacks to many bytes."""
    packed = _packed_zeros(unpacked_bytes)
    return tiff({273: -1, 279: len(packed)}, packed)


def webp(side: int) -> bytes:
    """A WebP whose header claims a side, and which holds 40 x 30 pixels."""
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 30)).save(buffer, "WEBP", lossless=True)
    data = bytearray(buffer.getvalue())
    place = data.index(b"VP8L") + 9
    bits = struct.unpack_from("<I", data, place)[0] & 0xF0000000
    struct.pack_into("<I", data, place, bits | (side - 1) | ((side - 1) << 14))
    return bytes(data)


def tar_header(name: str, size_bytes: int, kind: bytes = b"0") -> bytes:
    """A header alone, whatever follows it."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size_bytes, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def write_pax_flood(path: Path, num_headers: int) -> None:
    """Extended headers of nearly 1 MB each, one after the other, with keywords that never repeat."""
    with path.open("wb") as file:
        for header in range(num_headers):
            records = b"".join(b"15 K%08d=\n" % (header * 60_000 + number) for number in range(60_000))
            records = records.replace(b"15 K", b"14 K")
            file.write(tar_header("h", len(records), b"x") + records + bytes(-len(records) % 512))
        file.write(bytes(1024))


def write_long_names(path: Path, num_samples: int) -> None:
    """Images of one byte with eight side files each, all of whose names are very long, and half of whose own are."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(num_samples):
            stem = f"{number}." if number % 2 else f"{number}" + "k" * 400_000 + "."
            for extension in ("png", *(letter * 400_000 for letter in "abcdefgh")):
                info = tarfile.TarInfo(stem + extension)
                info.size = 1
                tar.addfile(info, io.BytesIO(b"x"))


def write_parquet_of_zeros(path: Path, num_bytes: int) -> None:
    """One row of zeros, packed well."""
    table = pa.table({"image": pa.array([bytes(num_bytes)])})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, store_schema=False)


def write_repeated_value(path: Path, num_bytes: int, num_rows: int) -> None:
    """One value in a dictionary, and rows that name it."""
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * num_rows, pa.int32()), pa.array([os.urandom(num_bytes)]))
    pq.write_table(pa.table({"image": rows}), path, compression="none", store_schema=False)


def write_repeated_path(path: Path, num_bytes: int, num_rows: int) -> None:
    """One byte for each row, and one long path for all of them."""
    columns = [pa.array([b"x"] * num_rows, pa.binary()), pa.array(["k" * num_bytes] * num_rows)]
    table = pa.table({"image": pa.StructArray.from_arrays(columns, ["bytes", "path"])})
    names = {"use_dictionary": ["image.path"], "dictionary_pagesize_limit": 2**28, "store_schema": False}
    pq.write_table(table, path, compression="zstd", write_statistics=False, **names)


def write_repeated_prefix(path: Path, num_bytes: int, num_rows: int) -> None:
    """Rows that are each the one before, encoded as that."""
    table = pa.table({"image": pa.array([os.urandom(num_bytes)] * num_rows)})
    encoding = {"image": "DELTA_BYTE_ARRAY"}
    pq.write_table(table, path, compression="none", use_dictionary=False, column_encoding=encoding)


def write_nulls(path: Path, num_rows: int) -> None:
    """Rows without an image, which cost next to nothing each."""
    pq.write_table(pa.table({"image": pa.nulls(num_rows, pa.binary())}), path, compression="zstd")
