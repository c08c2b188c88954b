"""A unit as an Arrow table of one row, the form in which it travels between processes.

One row, because that is the one thing Ray's block shaping never splits or joins with parts of another.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from sam3lt_ray.records import EncodedImage, Unit, UnitRange

_IMAGE_TYPE: Final = pa.struct(
    [
        pa.field("index", pa.int64()),
        pa.field("key", pa.string()),
        pa.field("data", pa.large_binary()),
        pa.field("side_files", pa.list_(pa.string())),
        pa.field("error_kind", pa.string()),
        pa.field("error_message", pa.string()),
    ]
)

_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("shard", pa.string()),
    pa.field("first", pa.int64()),
    pa.field("count", pa.int64()),
    pa.field("is_last", pa.bool_()),
    pa.field("resume_offset", pa.int64()),
    pa.field("shard_error", pa.string()),
    pa.field("read_s", pa.float64()),
    pa.field("read_on", pa.string()),
    pa.field("path", pa.string()),
    pa.field("images", pa.large_list(_IMAGE_TYPE)),
]

UNIT_SCHEMA: Final = pa.schema(_FIELDS)


def unit_to_table(unit: Unit) -> pa.Table:
    """One row with the unit's images and their compressed bytes."""
    images = [
        {
            "index": image.index,
            "key": image.key,
            "data": image.data,
            "side_files": list(image.side_files),
            "error_kind": image.error_kind,
            "error_message": image.error_message,
        }
        for image in unit.images
    ]
    row = {
        "shard": unit.shard,
        "first": unit.range.first,
        "count": unit.range.count,
        "is_last": unit.range.is_last,
        "resume_offset": unit.resume_offset,
        "shard_error": unit.shard_error,
        "read_s": unit.read_s,
        "read_on": unit.read_on,
        "path": unit.path,
        "images": images,
    }
    return pa.Table.from_pylist([row], schema=UNIT_SCHEMA)


def table_to_units(table: pa.Table) -> list[Unit]:
    """The units of a table made by :func:`unit_to_table` (or of several such tables joined)."""
    return [_unit(row) for row in table.to_pylist()]


def _unit(row: dict[str, object]) -> Unit:
    images: list[dict[str, object]] = row.pop("images")  # type: ignore[assignment]
    return Unit(
        shard=row["shard"],  # type: ignore[arg-type]
        range=UnitRange(row["first"], row["count"], row["is_last"]),  # type: ignore[arg-type]
        images=tuple(
            EncodedImage(**image | {"side_files": tuple(image["side_files"])})  # type: ignore[arg-type]
            for image in images
        ),
        resume_offset=row["resume_offset"],  # type: ignore[arg-type]
        shard_error=row["shard_error"],  # type: ignore[arg-type]
        read_s=row["read_s"],  # type: ignore[arg-type]
        read_on=row["read_on"],  # type: ignore[arg-type]
        path=row["path"],  # type: ignore[arg-type]
    )
