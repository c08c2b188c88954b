"""How many images a shard holds, where that can be told without reading images."""

from __future__ import annotations

import pyarrow as pa

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.inputs.ranged_file import RangedFile, SeekableRanges
from sam3lt_ray.records import Shard
from sam3lt_ray.storage.parquet_files import open_parquet


def count_images(shard: Shard, settings: InputSettings, storage: StorageSettings) -> int | None:
    """Images of a shard; None where only reading it whole would tell (tars, damaged Parquet files).

    Raises:
        StorageError: The shard cannot be read, or changed since it was listed.
    """
    if settings.has_loose_files:
        return len(shard.members)
    if settings.format == "webdataset":
        return None
    try:
        file = SeekableRanges(RangedFile(shard.uri, storage, expected=shard)).as_arrow_file()
        return int(open_parquet(file).metadata.num_rows)
    except (ValueError, OSError, pa.ArrowException):
        return None
