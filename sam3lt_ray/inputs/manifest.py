"""A table that names images wherever they are: Parquet, CSV or JSON lines with a column of uris, one row an image."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator, Sequence
from typing import Final

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.errors import InputError, sentence_of
from sam3lt_ray.inputs.file_listing import FileListing, check_bucket
from sam3lt_ray.inputs.groups import GroupCandidate, form_groups
from sam3lt_ray.inputs.keys import MAX_KEY_BYTES, is_too_long, shown
from sam3lt_ray.inputs.ranged_file import RangedFile, SeekableRanges
from sam3lt_ray.records import Shard
from sam3lt_ray.redaction import carries_credentials
from sam3lt_ray.storage.filesystem import is_s3, local_path
from sam3lt_ray.storage.parquet_files import iter_batches, open_parquet

MANIFEST_EXTENSIONS: Final = ("parquet", "csv", "jsonl", "ndjson", "json")

_Row = tuple[int, dict[str, object]]  # number as a person counts (from 1), and the wanted columns


def group_manifest(
    listing: FileListing, settings: InputSettings, storage: StorageSettings, known: Sequence[Shard]
) -> list[Shard]:
    """Groups of the images that a manifest names, in the order of its rows.

    The key is ``input.key_column``'s value where that is set, else the uri as written. Relative uris begin at the
    manifest's folder. Whether the images exist is found out when they are read.

    Raises:
        InputError: It is no single file of a known kind, cannot be parsed, lacks the column, or has a row whose uri is
            missing or of a scheme that is not supported; or a bucket named in it does not exist.
    """
    if not listing.is_file:
        raise InputError(
            f"input.uri must name one manifest file (.parquet, .csv, .jsonl), but {listing.uri} is a folder."
        )
    file = listing.files[0]
    if file.extension not in MANIFEST_EXTENSIONS:
        raise InputError(f"{file.uri} is no manifest: expected .parquet, .csv or .jsonl.")
    groups = form_groups(
        _candidates(file.uri, file.extension, settings, storage), known, settings.images_per_group, file.uri
    )
    if not groups:
        raise InputError(f"The manifest {file.uri} has no rows.")
    return groups


def _candidates(
    manifest_uri: str, extension: str, settings: InputSettings, storage: StorageSettings
) -> Iterator[GroupCandidate]:
    columns = [settings.uri_column] + ([settings.key_column] if settings.key_column else [])
    checked_buckets: set[str] = set()
    for number, row in _rows(manifest_uri, extension, columns, storage):
        written = row[settings.uri_column]
        if not isinstance(written, str) or not written.strip():
            raise InputError(
                f"Row {number} of {manifest_uri} has no uri in column {settings.uri_column!r}: {written!r}."
            )
        try:
            uri = resolve_uri(written.strip(), manifest_uri)
        except InputError as error:
            raise InputError(f"Row {number} of {manifest_uri}: {error.message}") from None
        bucket = uri.split("/", 3)[2] if is_s3(uri) else None
        if bucket is not None and bucket not in checked_buckets:
            check_bucket(uri, storage)
            checked_buckets.add(bucket)
        key = row[settings.key_column] if settings.key_column else written.strip()
        if key is None or key == "":
            raise InputError(f"Row {number} of {manifest_uri} has no key in column {settings.key_column!r}.")
        _check_texts(number, manifest_uri, str(key), uri)
        yield GroupCandidate(str(key), uri)


def _check_texts(number: int, manifest_uri: str, key: str, uri: str) -> None:
    try:
        f"{key}{uri}".encode()
    except UnicodeEncodeError:
        raise InputError(
            f"Row {number} of {manifest_uri} holds text that is no Unicode, so no table can hold it."
        ) from None
    if is_too_long(key):
        raise InputError(
            f"Row {number} of {manifest_uri} has a key of more than {MAX_KEY_BYTES:,} bytes: {shown(key)!r}. Use a "
            "shorter one, or name a column of keys with input.key_column."
        )


def resolve_uri(written: str, manifest_uri: str) -> str:
    """Absolute path or s3:// uri of what a manifest names.

    Raises:
        InputError: A scheme that is not supported, or credentials: the uri would stand in the run as the image's key.
    """
    if carries_credentials(written):
        raise InputError(
            "The uri must not carry credentials (user:password@, or the signature of a presigned url). They come from "
            "the environment, ~/.aws or the machine's role."
        )
    if is_s3(written):
        return written
    if "://" in written or written.startswith(("/", "~")):
        return local_path(written)
    if is_s3(manifest_uri):
        bucket, _, key = manifest_uri.removeprefix("s3://").partition("/")
        # A key has no "..": it is taken as on a local path, and cannot leave the bucket.
        return f"s3://{bucket}{posixpath.normpath(posixpath.join('/', posixpath.dirname(key), written))}"
    return local_path(posixpath.join(posixpath.dirname(manifest_uri), written))


def _rows(uri: str, extension: str, columns: list[str], storage: StorageSettings) -> Iterator[_Row]:
    file = RangedFile(uri, storage)
    if extension == "parquet":
        return _parquet_rows(uri, SeekableRanges(file), columns)
    content = file.read_at(0, file.size_bytes)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"The manifest {uri} is not UTF-8 text (byte {error.start}).") from None
    return _csv_rows(uri, text, columns) if extension == "csv" else _json_rows(uri, text, columns)


def _parquet_rows(uri: str, source: SeekableRanges, columns: list[str]) -> Iterator[_Row]:
    number = 0
    try:
        file = open_parquet(source.as_arrow_file())
        _require_columns(uri, columns, file.schema_arrow.names)
        for batch in iter_batches(file, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except InputError:
        raise
    except Exception as error:  # whatever Arrow says of damage, and texts that are no UTF-8
        if source.failure is not None:
            raise source.failure from None
        raise InputError(
            f"The manifest {uri} is no readable Parquet file (after row {number}: {sentence_of(error)})."
        ) from None


def _csv_rows(uri: str, text: str, columns: list[str]) -> Iterator[_Row]:
    # Strict: a quote that ends nowhere, or in the middle of a field, would join rows without a word.
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _require_columns(uri, columns, list(reader.fieldnames or ()))
        for number, row in enumerate(reader, start=1):
            yield number, {column: row[column] for column in columns}
    except csv.Error as error:
        raise InputError(
            f"Line {reader.line_num + 1} of {uri} is no CSV that can be read ({error}). Is a quote not closed?"
        ) from None


def _json_rows(uri: str, text: str, columns: list[str]) -> Iterator[_Row]:
    number = 0
    for line_number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        number += 1
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"Line {line_number} of {uri} is not JSON ({error}); expected one object a line."
            ) from None
        if not isinstance(row, dict):
            raise InputError(f"Line {line_number} of {uri} is no JSON object; expected one object a line.")
        _require_columns(f"line {line_number} of {uri}", columns, list(row))
        yield number, {column: row[column] for column in columns}


def _require_columns(uri: str, columns: list[str], present: list[str]) -> None:
    for column in columns:
        if column not in present:
            raise InputError(
                f"There is no column {column!r} in {uri}; it has: {', '.join(map(str, present)) or 'none'}. "
                "Set input.uri_column (and input.key_column)."
            )
