"""Parquet files as this package writes them, and opening them so that no thread of Arrow's holds a Python object.

Arrow's pools outlive Python. A thread of theirs that lets go of a Python file, or of bytes, while the interpreter shuts
down needs the GIL, which is not there any more, and the process is aborted (SIGABRT) after its work was done. So all is
read in the thread that asks: pyarrow.parquet.read_table cannot do that, because it always reads ahead in a pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

ParquetSource = bytes | BinaryIO | pa.NativeFile


def encode_parquet(
    table: pa.Table, *, compression: Literal["zstd", "none"] = "zstd", write_statistics: bool = True
) -> bytes:
    """A file of one table, whose pages carry checksums; the same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=compression, write_statistics=write_statistics, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def open_parquet(source: ParquetSource, *, buffer_size: int = 0) -> pq.ParquetFile:
    """A Parquet file, of which only the footer is read yet. Read it with the functions below.

    Pages that have a checksum, as those of label files do, are held against it; one that differs is an ``OSError``.

    Args:
        source: The file's content, or an open file.
        buffer_size: Bytes to read at once; 0: a whole column of a row group.
    """
    file = pa.BufferReader(source) if isinstance(source, bytes) else source
    return pq.ParquetFile(file, buffer_size=buffer_size, pre_buffer=False, page_checksum_verification=True)


def read_whole(source: ParquetSource, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows.

    Args:
        source: The file's content, or an open file.
        columns: These only, as far as the file has them; None: all.
    """
    return open_parquet(source).read(columns=None if columns is None else list(columns), use_threads=False)


def iter_batches(
    file: pq.ParquetFile,
    *,
    columns: Sequence[str] | None = None,
    row_groups: Sequence[int] | None = None,
    batch_size: int = 65_536,
) -> Iterator[pa.RecordBatch]:
    """Some rows at a time; the arguments are those of :meth:`pyarrow.parquet.ParquetFile.iter_batches`."""
    batches: Iterator[pa.RecordBatch] = file.iter_batches(
        batch_size=batch_size,
        columns=None if columns is None else list(columns),
        row_groups=None if row_groups is None else list(row_groups),
        use_threads=False,
    )
    return batches
