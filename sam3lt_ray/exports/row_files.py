"""Label rows of whole images in Parquet files of any size: built group by group, and read back to be checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sam3lt_ray.labels.columns import LabeledImage
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.labels.schema import (
    LABEL_SCHEMA,
    META_FINGERPRINT,
    META_LABELS,
    META_MODEL,
    META_SCHEMA_VERSION,
    SCHEMA_VERSION,
)
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Vocabulary

META_RUN: Final = b"sam3lt.run"
# A row group ends with the row that reaches one of these: what memory holds, and what a reader takes in one piece.
GROUP_ROWS: Final = 16_384
GROUP_BYTES: Final = 32 * 2**20
_BYTES_PER_INSTANCE: Final = 100
_BYTES_PER_ROW: Final = 200
# Readers skip row groups by these; statistics of lists and texts would only be long.
_STATISTICS: Final = ["shard", "index", "key", "status", "error_kind"]


@dataclass(slots=True)
class RowGroup:
    """Some rows, in the columns of LABEL_SCHEMA."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    num_bytes: int = 0


class RowFiles:
    """Writes row groups into one local file after another.

    Args:
        reader: The run, for what the files say about where their labels come from.
        folder: Where the files stand until they are taken.
    """

    def __init__(self, reader: RunReader, folder: Path) -> None:
        labels = [{"id": label.id, "name": label.name} for label in reader.vocabulary().labels]
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
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd", write_statistics=_STATISTICS)
        self._writer.write_table(pa.Table.from_pylist(group.rows, schema=self._schema))
        self.rows += len(group.rows)

    def close(self) -> tuple[int, Path]:
        """End the file: its rows, and where it is until the next one begins."""
        assert self._writer is not None
        self._writer.close()
        rows, self._writer, self.rows = self.rows, None, 0
        return rows, self._path


def row_groups(
    images: Iterator[LabeledImage], vocabulary: Vocabulary, *, skip: int, max_rows: int | None
) -> Iterator[RowGroup]:
    """Rows of images, cut into groups that depend on the images alone.

    Args:
        images: In their order.
        vocabulary: Its labels are what ``presence`` is aligned to.
        skip: Images at the beginning that have their row already.
        max_rows: No group goes beyond a multiple of it, counted from the first image.
    """
    label_ids = [label.id for label in vocabulary.labels]
    group = RowGroup()
    for number, image in enumerate(images, start=1):
        if number <= skip:
            continue
        group.rows.append(_row(image, label_ids))
        group.num_bytes += _BYTES_PER_ROW + sum(_BYTES_PER_INSTANCE + len(one.mask.counts) for one in image.instances)
        is_full = len(group.rows) == GROUP_ROWS or group.num_bytes >= GROUP_BYTES
        if is_full or (max_rows is not None and number % max_rows == 0):
            yield group
            group = RowGroup()
    if group.rows:
        yield group


def read_places(store: RunStore, path: str) -> Iterator[tuple[str, int]]:
    """Shard and index of every row of a file, row group by row group."""
    with store.open(path) as file:
        parquet = pq.ParquetFile(file)
        for number in range(parquet.num_row_groups):
            table = parquet.read_row_group(number, columns=["shard", "index"])
            yield from zip(table.column("shard").to_pylist(), table.column("index").to_pylist(), strict=True)


def _row(image: LabeledImage, label_ids: list[int]) -> dict[str, Any]:
    """The columns of LABEL_SCHEMA; a label that no layer could answer for this image has null in ``presence``."""
    is_answered = bool(image.presence)
    presence = [None if (value := image.presence.get(one)) is None else np.float16(value) for one in label_ids]
    return {
        "image_id": image.image_id,
        "shard": image.shard,
        "index": image.index,
        "key": image.key,
        "side_files": list(image.side_files),
        "width": image.width,
        "height": image.height,
        "status": image.status,
        "error_kind": image.error_kind,
        "error_message": image.error_message,
        "presence": presence if is_answered else None,
        "saturated": list(image.saturated) if is_answered else None,
        "instances": [
            {
                "label_id": found.label_id,
                "prompt_index": found.prompt_index,
                "score": found.score,
                "box_xyxy": list(found.box_xyxy),
                "area": found.area,
                "segmentation": {"size": list(found.mask.size), "counts": found.mask.counts},
            }
            for found in image.instances
        ],
    }
