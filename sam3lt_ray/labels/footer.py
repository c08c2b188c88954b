"""What a unit's file says of itself in its footer: read without reading any row."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.parquet as pq

from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.labels.schema import META_COUNTS, META_UNIT
from sam3lt_ray.storage.store import RunStore


def read_resume_offset(store: RunStore, path: str) -> int | None:
    """Byte offset in the shard at which the unit after this one begins; None where the format seeks by index."""
    offset: int | None = _metadata(store, path, META_UNIT)["resume_offset"]
    return offset


def read_counts(store: RunStore, path: str) -> UnitCounts:
    """Images, errors and instances of the rows of a file."""
    return UnitCounts.from_json(_metadata(store, path, META_COUNTS))


def _metadata(store: RunStore, path: str, key: bytes) -> dict[str, Any]:
    with store.open(path) as file:
        metadata = pq.read_metadata(file).metadata or {}
    value: dict[str, Any] = json.loads(metadata[key])
    return value
