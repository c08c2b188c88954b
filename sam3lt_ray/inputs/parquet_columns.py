"""Which column of a Parquet file holds the images, and which the keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from sam3lt_ray.config.schema import InputSettings
from sam3lt_ray.errors import InputError

# Where several columns hold bytes, the one that says it is an image; where none does, the one that says it is content.
_IMAGE_NAMES: Final = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "tif", "tiff")
_CONTENT_NAMES: Final = ("bytes", "content", "data", "image_bytes", "img_bytes", "image_data")


@dataclass(frozen=True, slots=True)
class ParquetColumns:
    """Columns to read.

    Attributes:
        image: Top-level column with the images.
        has_struct: It is a struct with a field ``bytes`` (Hugging Face's Image feature), not bytes itself.
        has_path: The struct also has a field ``path``.
        key: Column with the keys; None: the struct's path, or else the row's index.
    """

    image: str
    has_struct: bool
    has_path: bool
    key: str | None

    @property
    def projection(self) -> list[str]:
        """Names as Parquet's column projection takes them: nothing else of the file is read."""
        names = [f"{self.image}.bytes"] if self.has_struct else [self.image]
        if self.key is not None:
            names.append(self.key)
        elif self.has_path:
            names.append(f"{self.image}.path")
        return names


def choose_columns(schema: pa.Schema, settings: InputSettings, uri: str) -> ParquetColumns:
    """Find the image and key columns of a file.

    Args:
        schema: The file's schema.
        settings: May name the columns.
        uri: The file, for messages.

    Raises:
        InputError: A named column is missing or of another type, or there is no or no unambiguous image column.
    """
    image = _choose_image(schema, settings.image_column, uri)
    image_type = schema.field(image).type
    has_struct = pa.types.is_struct(image_type)
    has_path = has_struct and image_type.get_field_index("path") >= 0
    key = settings.key_column
    if key is not None:
        _check_key(schema, key, uri)
    return ParquetColumns(image, has_struct, has_path, key)


def _choose_image(schema: pa.Schema, named: str | None, uri: str) -> str:
    candidates = [field.name for field in schema if _can_hold_images(field.type)]
    if named is not None:
        if named in candidates:
            return named
        problem = "is not of bytes or struct<bytes, path>" if named in schema.names else "does not exist"
        raise InputError(
            f"The column {named!r} (input.image_column) of {uri} {problem}. Columns: {_describe(schema, schema.names)}."
        )
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise InputError(
            f"{uri} has no column that holds images, of bytes or struct<bytes, path>. "
            f"Columns: {_describe(schema, schema.names)}. If a column holds locations of images, use input.format: "
            "manifest."
        )
    for names in (_IMAGE_NAMES, _CONTENT_NAMES):
        fitting = [name for name in candidates if name.lower() in names]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            break
    raise InputError(
        f"Several columns of {uri} could hold the images: {_describe(schema, candidates)}. "
        "Choose one with input.image_column."
    )


def _check_key(schema: pa.Schema, key: str, uri: str) -> None:
    if key not in schema.names:
        raise InputError(
            f"The column {key!r} (input.key_column) of {uri} does not exist. "
            f"Columns: {_describe(schema, schema.names)}."
        )
    if pa.types.is_nested(schema.field(key).type) or _is_bytes(schema.field(key).type):
        raise InputError(
            f"The column {key!r} (input.key_column) of {uri} is of type {schema.field(key).type}; "
            "expected text or numbers."
        )


def _can_hold_images(column_type: pa.DataType) -> bool:
    if not pa.types.is_struct(column_type):
        return _is_bytes(column_type)
    position = column_type.get_field_index("bytes")
    return position >= 0 and _is_bytes(column_type.field(position).type)


def _is_bytes(column_type: pa.DataType) -> bool:
    return bool(pa.types.is_binary(column_type) or pa.types.is_large_binary(column_type))


def _describe(schema: pa.Schema, names: list[str]) -> str:
    return ", ".join(f"{name} ({schema.field(name).type})" for name in names) or "none"
