"""Making shards for tests, and reading them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.inputs.file_listing import file_version
from sam3lt_ray.inputs.ranged_file import RangedFile
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.records import EncodedImage, ReadRange, Shard, Unit

LOCAL = StorageSettings()


def make_tar(members: Iterable[tuple[str, bytes]], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar as Python writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def samples(count: int, size_bytes: int = 100) -> list[tuple[str, bytes]]:
    """Members of ``count`` samples: an image and a JSON each."""
    members = []
    for number in range(count):
        members.append((f"{number:06d}.jpg", bytes([number % 256]) * size_bytes))
        members.append((f"{number:06d}.json", b"{}"))
    return members


def make_shard(folder: Path, content: bytes, name: str = "shard.tar") -> Shard:
    """A file and the shard that a listing would make of it."""
    path = folder / name
    path.write_bytes(content)
    status = path.stat()
    version = file_version({"mtime": status.st_mtime, "size": status.st_size})
    return Shard(name, str(path), len(content), version)


def write_parquet(folder: Path, columns: dict[str, Any], row_group_size: int = 4, name: str = "rows.parquet") -> Shard:
    """A Parquet shard."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=row_group_size)
    return make_shard(folder, buffer.getvalue(), name)


def settings_for(input_format: str = "webdataset", **changes: Any) -> InputSettings:
    """Input settings for reading (the uri plays no part there)."""
    return InputSettings(**({"format": input_format, "uri": "unused"} | changes))


def read_all(shard: Shard, settings: InputSettings | None = None) -> list[Unit]:
    """The whole shard."""
    return list(read_units(shard, [ReadRange()], settings or settings_for(), LOCAL))


def images_of(units: Iterable[Unit]) -> list[EncodedImage]:
    """All images in order."""
    return [image for unit in units for image in unit.images]


def keys_before(units: Sequence[Unit]) -> Callable[[int], list[str]]:
    """What a run knows of committed units."""
    return lambda first: [image.key for image in images_of(units) if image.index < first]


def assert_same_from_every_unit(shard: Shard, settings: InputSettings, units: Sequence[Unit]) -> None:
    """Reading from any unit's first image gives what reading the whole shard gave, with and without known keys."""
    for position, unit in enumerate(units):
        offset = units[position - 1].resume_offset if position else None
        start = ReadRange(unit.range.first, None, offset)
        assert list(read_units(shard, [start], settings, LOCAL, keys_before(units))) == list(units[position:])
        only = ReadRange(unit.range.first, unit.range.end, offset)
        assert list(read_units(shard, [only], settings, LOCAL)) == [unit]


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on: how many bytes each request brought."""
    lengths: list[int] = []
    original = RangedFile.read_at

    def counted(self: RangedFile, offset: int, num_bytes: int) -> bytes:
        data = original(self, offset, num_bytes)
        lengths.append(len(data))
        return data

    monkeypatch.setattr(RangedFile, "read_at", counted)
    return lengths
