"""Reading a run back for comparison: what must be equal between two runs, and what must hold for every run."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any, Final

import pyarrow.parquet as pq

from sam3lt_ray.storage.ledger import LABELS_PREFIX, parse_unit_path
from sam3lt_ray.storage.store import RunStore

# What may stand in a run directory when nobody works on it.
OF_A_FINISHED_RUN: Final = (
    "run.json",
    "vocabulary.json",
    "precision.json",
    "run_summary.json",
    "totals.parquet",
    "input/",
    "layers/",
    "labels/",
    "lease/",
)


def all_rows(store: RunStore) -> list[dict[str, Any]]:
    """Every row of every unit file, by shard and index."""
    rows = [
        row
        for item in store.list(LABELS_PREFIX)
        if parse_unit_path(item.path) is not None
        for row in pq.read_table(io.BytesIO(store.read(item.path))).to_pylist()
    ]
    return sorted(rows, key=lambda row: (row["shard"], row["index"]))


def assert_exact(store: RunStore, expected: dict[str, int]) -> list[dict[str, Any]]:
    """Assert that each shard has each index exactly once and nothing half-written is left.

    Args:
        store: The run directory.
        expected: Number of images by shard name.

    Returns:
        The rows, by shard and index.
    """
    rows = all_rows(store)
    positions = Counter((row["shard"], row["index"]) for row in rows)
    assert positions == Counter((shard, index) for shard, count in expected.items() for index in range(count))
    ids = [row["image_id"] for row in rows]
    assert len(set(ids)) == len(ids)
    strays = [item.path for item in store.list(LABELS_PREFIX) if parse_unit_path(item.path) is None]
    assert strays == []
    return rows
