"""What a unit's file says of itself in its footer, read without reading any row; and the keys of its images.

All of them raise RunMismatchError for a file that is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.labels.schema import META_COUNTS, META_UNIT
from sam3lt_ray.storage.damage import naming_damaged_unit
from sam3lt_ray.storage.parquet_files import open_parquet, read_whole
from sam3lt_ray.storage.store import RunStore

_NUM_THREADS: Final = 16


def read_resume_offset(store: RunStore, path: str) -> int | None:
    """Byte offset in the shard at which the unit after this one begins; None where the format seeks by index."""
    with naming_damaged_unit(store, path):
        offset: int | None = _metadata(store, path, META_UNIT)["resume_offset"]
    return offset


def read_keys(store: RunStore, path: str) -> list[str]:
    """Keys of a unit's images, in order."""
    with store.open(path) as file, naming_damaged_unit(store, path):
        keys: list[str] = read_whole(file, ["key"])["key"].to_pylist()  # type: ignore[assignment]
    return keys


def read_counts(store: RunStore, paths: Iterable[str]) -> Iterator[UnitCounts]:
    """Images, errors and instances of each of some committed units; opens the files side by side."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        yield from pool.map(lambda path: _unit_counts(store, path), paths)


def _unit_counts(store: RunStore, path: str) -> UnitCounts:
    with naming_damaged_unit(store, path):
        return UnitCounts.from_json(_metadata(store, path, META_COUNTS))


def _metadata(store: RunStore, path: str, key: bytes) -> dict[str, Any]:
    with store.open(path) as file:
        metadata = open_parquet(file).metadata.metadata or {}
    value: dict[str, Any] = json.loads(metadata[key])
    return value
