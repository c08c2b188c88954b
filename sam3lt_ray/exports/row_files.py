"""Label rows of whole images in Parquet files of any size: built group by group, and read back to be checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sam3lt_ray.labels.columns import LabeledImage
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.labels.schema import (
    INSTANCE_TYPE,
    LABEL_SCHEMA,
    META_FINGERPRINT,
    META_LABELS,
    META_MODEL,
    META_SCHEMA_VERSION,
    RLE_TYPE,
    SCHEMA_VERSION,
)
from sam3lt_ray.storage.parquet_files import open_parquet
from sam3lt_ray.storage.store import RunStore

META_RUN: Final = b"sam3lt.run"
# A row group ends with the row that reaches one of these: what memory holds, and what a reader takes in one piece.
GROUP_ROWS: Final = 16_384
GROUP_BYTES: Final = 32 * 2**20
_BYTES_PER_INSTANCE: Final = 100
_BYTES_PER_ROW: Final = 200
# Readers skip row groups by these; statistics of lists and texts would only be long.
_STATISTICS: Final = ["shard", "index", "key", "status", "error_kind"]
# pyarrow's stubs know neither NumPy arrays nor these arguments together.
_lists: Any = pa.ListArray.from_arrays
_fixed_lists: Any = pa.FixedSizeListArray.from_arrays
_structs: Any = pa.StructArray.from_arrays


@dataclass(slots=True)
class RowGroup:
    """Some images, and about how much their rows hold."""

    images: list[LabeledImage] = field(default_factory=list)
    num_bytes: int = 0


class RowFiles:
    """Writes row groups into one local file after another.

    Args:
        reader: The run, for what the files say about where their labels come from.
        folder: Where the files stand until they are taken.
    """

    def __init__(self, reader: RunReader, folder: Path) -> None:
        labels = [{"id": label.id, "name": label.name} for label in reader.vocabulary().labels]
        self._label_ids = [label.id for label in reader.vocabulary().labels]
        metadata = {
            META_SCHEMA_VERSION: SCHEMA_VERSION.encode(),
            META_FINGERPRINT: str(reader.run["fingerprint"]).encode(),
            META_MODEL: json.dumps(reader.run.get("model"), sort_keys=True).encode(),
            META_LABELS: json.dumps(labels).encode(),
            META_RUN: reader.store.uri.encode(),
        }
        self._schema = LABEL_SCHEMA.with_metadata(metadata)
        self._path = folder / "rows.parquet"
        self._writer: pq.ParquetWriter | None = None
        self.rows = 0

    @property
    def size_bytes(self) -> int:
        """Size of the file so far."""
        return self._path.stat().st_size if self._writer is not None else 0

    def write(self, group: RowGroup) -> None:
        """Add a row group to the file; begins one where there is none."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._path, self._schema, compression="zstd", write_statistics=_STATISTICS, write_page_checksum=True
            )
        self._writer.write_table(_table(group.images, self._label_ids, self._schema))
        self.rows += len(group.images)

    def close(self) -> tuple[int, Path]:
        """End the file: its rows, and where it is until the next one begins."""
        assert self._writer is not None
        self._writer.close()
        rows, self._writer, self.rows = self.rows, None, 0
        return rows, self._path


def row_groups(images: Iterator[LabeledImage], *, skip: int, max_rows: int | None) -> Iterator[RowGroup]:
    """Rows of images, cut into groups that depend on the images alone.

    Args:
        images: In their order.
        skip: Images at the beginning that have their row already.
        max_rows: No group goes beyond a multiple of it, counted from the first image.
    """
    group = RowGroup()
    for number, image in enumerate(images, start=1):
        if number <= skip:
            continue
        group.images.append(image)
        group.num_bytes += _BYTES_PER_ROW + sum(_BYTES_PER_INSTANCE + len(one.mask.counts) for one in image.instances)
        is_full = len(group.images) == GROUP_ROWS or group.num_bytes >= GROUP_BYTES
        if is_full or (max_rows is not None and number % max_rows == 0):
            yield group
            group = RowGroup()
    if group.images:
        yield group


def read_places(store: RunStore, path: str) -> Iterator[tuple[str, int]]:
    """Shard and index of every row of a file, row group by row group."""
    with store.open(path) as file:
        parquet = open_parquet(file)
        for number in range(parquet.num_row_groups):
            table = parquet.read_row_group(number, columns=["shard", "index"], use_threads=False)
            yield from zip(table.column("shard").to_pylist(), table.column("index").to_pylist(), strict=True)


def _table(images: Sequence[LabeledImage], label_ids: Sequence[int], schema: pa.Schema) -> pa.Table:
    """LABEL_SCHEMA, column by column, which is several times faster than row by row."""
    columns: dict[str, pa.Array[Any]] = {
        "side_files": pa.array([list(image.side_files) for image in images], schema.field("side_files").type),
        "presence": _presence(images, label_ids, schema.field("presence").type),
        "saturated": pa.array(
            [list(image.saturated) if image.presence else None for image in images], schema.field("saturated").type
        ),
        "instances": _instances(images, schema.field("instances").type),
    }
    for name in (name for name in schema.names if name not in columns):
        columns[name] = pa.array([getattr(image, name) for image in images], schema.field(name).type)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _presence(images: Sequence[LabeledImage], label_ids: Sequence[int], list_type: pa.DataType) -> pa.Array[Any]:
    """Null for an image without answers, null in the list for a label that no layer could answer."""
    answered = [image.presence for image in images if image.presence]
    values = np.array([[one.get(label_id, np.nan) for label_id in label_ids] for one in answered], dtype=np.float16)
    lengths = [len(label_ids) if image.presence else 0 for image in images]
    flat = pa.array(values.ravel(), pa.float16(), mask=np.isnan(values.ravel()))
    is_null = pa.array([not image.presence for image in images], pa.bool_())
    lists: pa.Array[Any] = _lists(_offsets(lengths), flat, type=list_type, mask=is_null)
    return lists


def _instances(images: Sequence[LabeledImage], list_type: pa.DataType) -> pa.Array[Any]:
    found = [one for image in images for one in image.instances]
    boxes_xyxy = np.array([one.box_xyxy for one in found], dtype=np.float32).ravel()
    sizes_hw = np.array([one.mask.size for one in found], dtype=np.int32).ravel()
    counts = pa.array([one.mask.counts for one in found], pa.string())
    masks = _structs([_fixed_lists(sizes_hw, type=RLE_TYPE.field("size").type), counts], fields=list(RLE_TYPE))
    structs = _structs(
        [
            pa.array([one.label_id for one in found], pa.int32()),
            pa.array([one.prompt_index for one in found], pa.int16()),
            pa.array([one.score for one in found], pa.float32()),
            _fixed_lists(boxes_xyxy, type=INSTANCE_TYPE.field("box_xyxy").type),
            pa.array([one.area for one in found], pa.int64()),
            masks,
        ],
        fields=list(INSTANCE_TYPE),
    )
    lists: pa.Array[Any] = _lists(_offsets([len(image.instances) for image in images]), structs, type=list_type)
    return lists


def _offsets(lengths: Sequence[int]) -> pa.Array[Any]:
    return pa.array(np.cumsum([0, *lengths]), pa.int32())
