"""Python files are read by the thread that asks: one of Arrow's that lets go of them at exit aborts the process."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.labels.footer import read_keys
from sam3lt_ray.storage.parquet_files import iter_batches, open_parquet, read_whole
from sam3lt_ray.storage.snapshot import read_editions
from sam3lt_ray.storage.store import RunStore, open_store

NUM_ROWS, NUM_GROUPS = 60, 3


class WatchedFile(io.BytesIO):
    """Notes which threads read it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.threads: set[int] = set()

    def read(self, size: int | None = -1, /) -> bytes:
        self.threads.add(threading.get_ident())
        return super().read(size)


@pytest.fixture(scope="module")
def data() -> bytes:
    sink = pa.BufferOutputStream()
    names = [f"{number:03d}" for number in range(NUM_ROWS)]
    columns = dict.fromkeys(("key", "name", "edition", "shard"), names)
    pq.write_table(pa.table(columns), sink, row_group_size=NUM_ROWS // NUM_GROUPS)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def watched(data: bytes) -> WatchedFile:
    return WatchedFile(data)


@pytest.fixture
def store(tmp_path: Path, watched: WatchedFile, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    store = open_store(str(tmp_path / "run"), StorageSettings())
    monkeypatch.setattr(type(store), "open", lambda _store, _path: watched)
    return store


def test_the_rows_are_the_same_from_bytes_and_files(data: bytes) -> None:
    whole = pq.read_table(pa.BufferReader(data))
    assert read_whole(data) == whole
    assert read_whole(io.BytesIO(data)) == whole
    assert read_whole(data, ["key", "not there"]) == whole.select(["key"])
    batches = list(iter_batches(open_parquet(data), columns=["name"], row_groups=[1], batch_size=7))
    assert pa.Table.from_batches(batches) == whole.select(["name"]).slice(20, 20)
    assert max(batch.num_rows for batch in batches) == 7


def test_no_other_thread_reads_a_python_file(watched: WatchedFile) -> None:
    read_whole(watched)
    assert len(list(iter_batches(open_parquet(watched)))) == 1
    assert watched.threads == {threading.get_ident()}


def test_keys_are_read_so(store: RunStore, watched: WatchedFile) -> None:
    assert len(read_keys(store, "labels/0/a/0-60.parquet")) == NUM_ROWS
    assert watched.threads == {threading.get_ident()}


def test_editions_are_read_so(store: RunStore, watched: WatchedFile) -> None:
    assert len(read_editions(store)) == NUM_ROWS
    assert watched.threads == {threading.get_ident()}
