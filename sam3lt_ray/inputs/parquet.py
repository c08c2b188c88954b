r"""Images of a Parquet file: one row, one image; the row's number is its index.

Read in small batches through a buffered stream, so that a row group may be larger than memory. A page cannot be read in
parts, though: twice the largest page of the image column is held (writers put as many rows into one as they are told,
pyarrow 1,024 or a row group, whichever is less). How large one may be, and what is done about files that claim
anything, stands in parquet_pages.py. The key is the key column's text, else the path in a Hugging Face image struct,
else the row's number; a null key is the row's number. Text that is no UTF-8 keeps its odd bytes as "\xff".
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.errors import ImageErrorKind, sentence_of
from sam3lt_ray.inputs.image_stream import (
    BYTES_PER_MB,
    EMPTY_MESSAGE,
    END_OF_SHARD_KEY,
    KeyMemory,
    SeenKeys,
    StreamedImage,
    too_large_message,
)
from sam3lt_ray.inputs.keys import MAX_KEY_BYTES, is_too_long, long_key_message, shown
from sam3lt_ray.inputs.parquet_columns import ParquetColumns, choose_columns
from sam3lt_ray.inputs.parquet_pages import ColumnChunkGuard
from sam3lt_ray.inputs.ranged_file import RangedFile, SeekableRanges
from sam3lt_ray.records import EncodedImage, ReadRange, Shard
from sam3lt_ray.storage.parquet_files import iter_batches, open_parquet

_STREAM_BUFFER_BYTES: Final = 4 * 2**20  # of each column; also the size of a request
_BATCH_BYTES: Final = 16 * 2**20
_MAX_BATCH_ROWS: Final = 64
# A footer may claim any number of rows, and each that cannot be read becomes an error row. Honest images have bytes.
_MIN_BELIEVED_ROWS: Final = 100_000
# Encodings in which a few bytes of a page stand for a value of any size.
_REPEATING_ENCODINGS: Final = {"PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"}


def stream_parquet(
    shard: Shard,
    read_range: ReadRange,
    settings: InputSettings,
    storage: StorageSettings,
    seen_keys: SeenKeys | None = None,
) -> Generator[StreamedImage, None, None]:
    """Images of a Parquet file from row ``read_range.first`` on; row groups wholly before it are not read.

    Where keys come from a column and ``seen_keys`` is not given, the file is read from its beginning, because a
    repeated key may repeat any earlier one. Both give the same images.

    A page that cannot be read makes the rest of its row group ``corrupt``; other row groups go on. A file without a
    readable footer, or without the columns that are needed, is one image of kind ``truncated_shard``.

    Raises:
        StorageError: The shard cannot be read, or changed since it was listed.
    """
    ranged = RangedFile(shard.uri, storage, expected=shard)
    source = SeekableRanges(ranged)
    try:
        file = open_parquet(source.as_arrow_file(), buffer_size=_STREAM_BUFFER_BYTES)
    except Exception as error:
        _raise_storage_failure(source)
        yield _unreadable_footer(error)
        return
    with file:
        # Not the total that the footer states: nobody else looks at that one.
        num_rows = sum(file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups))
        if num_rows > max(ranged.size_bytes, _MIN_BELIEVED_ROWS):
            yield _unreadable_footer(f"it claims {num_rows:,} rows in {ranged.size_bytes:,} bytes")
            return
        try:
            columns = choose_columns(file.schema_arrow, settings, shard.uri)
        except Exception as error:  # also names that are no UTF-8, and what else a schema may hold
            _raise_storage_failure(source)
            yield _unreadable_shard(f"The shard cannot be used. {sentence_of(error)}")
            return
        yield from _RowReader(file, ranged, source, columns, settings).images(read_range.first, seen_keys)


def read_schema(uri: str, storage: StorageSettings) -> pa.Schema | None:
    """Schema of a Parquet file; None when its footer, or a name in it, cannot be read.

    Raises:
        StorageError: Storage keeps failing.
    """
    source = SeekableRanges(RangedFile(uri, storage))
    try:
        schema = open_parquet(source.as_arrow_file()).schema_arrow
        _ = schema.names
    except Exception:
        _raise_storage_failure(source)
        return None
    return schema


class _RowReader:
    def __init__(
        self,
        file: pq.ParquetFile,
        ranged: RangedFile,
        source: SeekableRanges,
        columns: ParquetColumns,
        settings: InputSettings,
    ) -> None:
        self._file = file
        self._ranged = ranged
        self._source = source
        self._columns = columns
        self._settings = settings
        self._memory = KeyMemory()
        self._keys_may_repeat = columns.key is not None or columns.has_path

    def images(self, first: int, seen_keys: SeenKeys | None) -> Iterator[StreamedImage]:
        read_from = first
        if first > 0 and self._keys_may_repeat:
            if seen_keys is None:
                read_from = 0
            else:
                for key in seen_keys(first):
                    self._memory.add(key)
        group_first = 0
        for group in range(self._file.metadata.num_row_groups):
            num_rows = self._file.metadata.row_group(group).num_rows
            if group_first + num_rows > read_from:
                for image in self._row_group(group, group_first, read_from):
                    if image.index >= first:
                        yield StreamedImage(image)
            group_first += num_rows

    def _row_group(self, group: int, group_first: int, read_from: int) -> Iterator[EncodedImage]:
        group_end = group_first + self._file.metadata.row_group(group).num_rows
        index, problem = group_first, ""
        self._watch_pages(group)
        batches = iter_batches(
            self._file,
            # The same batches whatever the first wanted row: a bad page spoils the same rows on every reading.
            batch_size=self._batch_rows(group),
            row_groups=[group],
            columns=self._columns.projection,
        )
        while index < group_end:
            try:
                batch = next(batches, None)
            except Exception as error:  # whatever Arrow says about damaged pages, unknown codecs, impossible lengths
                _raise_storage_failure(self._source)
                problem = f"{type(error).__name__}: {error}"
                break
            if batch is None:
                problem = "the row group ends too early"
                break
            first_row = max(read_from - index, 0)
            yield from self._batch_images(batch, index, first_row)
            index += batch.num_rows
        for lost in range(max(index, read_from), group_end):
            yield self._lost_image(lost, group, problem)

    def _batch_rows(self, group: int) -> int:
        """Rows that make about ``_BATCH_BYTES``, from the average the footer tells."""
        chunks = self._chunks(group)
        if any(_may_repeat_values(chunk) for chunk in chunks):
            return 1  # however large the value is that they repeat, one copy is made of it
        wanted = self._columns.projection[0]
        sizes = [chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == wanted]
        average_bytes = sum(sizes) / max(self._file.metadata.row_group(group).num_rows, 1)
        return int(min(max(_BATCH_BYTES / max(average_bytes, 1), 1), _MAX_BATCH_ROWS))

    def _chunks(self, group: int) -> list[pq.ColumnChunkMetaData]:
        """Metadata of the columns that are read."""
        metadata = self._file.metadata.row_group(group)
        chunks = [metadata.column(position) for position in range(metadata.num_columns)]
        return [chunk for chunk in chunks if chunk.path_in_schema in self._columns.projection]

    def _watch_pages(self, group: int) -> None:
        guards = [
            ColumnChunkGuard(start, start + chunk.total_compressed_size, may_repeat_values=_may_repeat_values(chunk))
            for chunk in self._chunks(group)
            for start in [_first_page_offset(chunk)]
        ]

        def inspect(offset: int, data: bytes) -> None:
            for guard in guards:
                guard.check(offset, data, self._ranged.read_at)

        self._source.inspect = inspect

    def _batch_images(self, batch: pa.RecordBatch, batch_first: int, first_row: int) -> Iterator[EncodedImage]:
        images = batch.column(self._columns.image)
        contents = pc.struct_field(images, "bytes") if self._columns.has_struct else images
        keys: pa.Array[Any] | None = None
        if self._columns.key is not None:
            keys = batch.column(self._columns.key)
        elif self._columns.has_path:
            keys = pc.struct_field(images, "path")
        if isinstance(keys, pa.DictionaryArray):
            keys = keys.dictionary_decode()
        for row in range(first_row, batch.num_rows):
            key = _key_text(keys[row]) if keys is not None else None
            yield self._image(batch_first + row, contents[row], key)

    def _image(self, index: int, content: Any, key: str | None) -> EncodedImage:
        text = str(index) if key is None else key
        has_long_key = is_too_long(text)
        if has_long_key:
            text = f"{shown(text)} (row {index})"
        if self._keys_may_repeat and not self._memory.add(text):
            message = f"The key {shown(text)!r} already stands earlier in this shard."
            return _unusable(index, text, "duplicate_key", message)
        if has_long_key:
            return _unusable(index, text, "unsupported", long_key_message())
        size_bytes = content.as_buffer().size if content.is_valid else 0
        if size_bytes == 0:
            message = EMPTY_MESSAGE if content.is_valid else "The row has no image (null)."
            return _unusable(index, text, "empty", message)
        if size_bytes > self._settings.max_image_mb * BYTES_PER_MB:
            return _unusable(index, text, "too_large", too_large_message(size_bytes, self._settings.max_image_mb))
        return EncodedImage(index, text, content.as_py())

    def _lost_image(self, index: int, group: int, problem: str) -> EncodedImage:
        key = f"(row {index})" if self._keys_may_repeat else str(index)  # its own key is lost with it
        self._memory.add(key)  # as any key of a committed row
        message = f"From this row on, row group {group} cannot be read ({problem})."
        return _unusable(index, key, "corrupt", message)


def _unusable(index: int, key: str, kind: ImageErrorKind, message: str) -> EncodedImage:
    return EncodedImage(index, key, error_kind=kind, error_message=message)


def _key_text(key: Any) -> str | None:
    """A key as text; of one that is too long not more than is needed to tell that."""
    if not key.is_valid:
        return None
    if not isinstance(key, pa.StringScalar | pa.LargeStringScalar | pa.StringViewScalar):
        return str(key.as_py())
    return bytes(key.as_buffer()[: MAX_KEY_BYTES + 1]).decode("utf-8", "backslashreplace")


def _may_repeat_values(chunk: pq.ColumnChunkMetaData) -> bool:
    return chunk.has_dictionary_page or not _REPEATING_ENCODINGS.isdisjoint(chunk.encodings)


def _first_page_offset(chunk: pq.ColumnChunkMetaData) -> int:
    """Where Arrow begins to read."""
    dictionary = chunk.dictionary_page_offset
    return min(dictionary, chunk.data_page_offset) if dictionary else chunk.data_page_offset


def _unreadable_footer(error: Exception | str) -> StreamedImage:
    return _unreadable_shard(f"The shard has no readable Parquet footer: it is cut off, or no Parquet file ({error}).")


def _unreadable_shard(sentence: str) -> StreamedImage:
    image = _unusable(0, END_OF_SHARD_KEY, "truncated_shard", sentence)
    return StreamedImage(image, shard_error=sentence)


def _raise_storage_failure(source: SeekableRanges) -> None:
    """What Arrow reports as damage may be storage that failed: that is no fault of the file."""
    if source.failure is not None:
        raise source.failure from None
