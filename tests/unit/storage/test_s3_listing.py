"""What the store on S3 makes of a listing's entries."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.storage.s3_store import S3Store
from sam3lt_ray.storage.store import StoredFile

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


class Listed:
    """A filesystem with these keys, in this order."""

    def __init__(self, *keys: str) -> None:
        self._keys = keys

    def list_objects(self, bucket: str, prefix: str, read: Callable[[dict[str, Any]], Any]) -> list[Any]:
        entries = [{"Key": key, "Size": 10**12 + n, "LastModified": WHEN} for n, key in enumerate(self._keys)]
        return [found for entry in entries if (found := read(entry)) is not None]


def test_files_are_told_exactly_sorted_by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store("s3://bucket/run", StorageSettings(endpoint_url="http://127.0.0.1:9"))
    listed = Listed("run/b/", "run/b/é", "run/b-c/1", "run/b/1", "run/a", "run/b")
    monkeypatch.setattr(store, "_filesystem", listed)
    seconds = WHEN.timestamp()
    assert list(store.list()) == [
        StoredFile("a", 10**12 + 4, seconds),
        StoredFile("b", 10**12 + 5, seconds),
        StoredFile("b-c/1", 10**12 + 2, seconds),
        StoredFile("b/1", 10**12 + 3, seconds),
        StoredFile("b/é", 10**12 + 1, seconds),
    ]
