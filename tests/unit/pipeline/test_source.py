"""One shard that cannot be read, in whatever way, leaves the others alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import StorageError
from sam3lt_ray.pipeline.session import RunSession
from sam3lt_ray.pipeline.source import UnitSource
from sam3lt_ray.records import EncodedImage, Shard, Unit, UnitRange
from sam3lt_ray.stages.read import ShardWork
from sam3lt_ray.storage.local_store import LocalStore

WORK = [ShardWork(Shard(name, f"/in/{name}"), "000") for name in ("a.tar", "odd.tar", "away.tar", "z.tar")]


class Reader:
    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(str(folder), StorageSettings())

    def __call__(self, work: ShardWork) -> Iterator[Unit]:
        if work.shard.name == "odd.tar":
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        if work.shard.name == "away.tar":
            raise StorageError("It is gone.")
        yield Unit(work.shard.name, UnitRange(0, 1, is_last=True), (EncodedImage(0, "k.png", b"x"),))


def test_a_read_task_goes_on_behind_a_shard_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.1")
    monkeypatch.setattr("sam3lt_ray.pipeline.source.MAX_READ_TASKS", 1)
    guard: Any = SimpleNamespace(touch=lambda: None)
    reader: Any = Reader(tmp_path)
    (task,) = UnitSource(reader, WORK, guard).get_read_tasks(1)
    with caplog.at_level(logging.WARNING):
        tables: list[Any] = list(task())
    assert [table.column("shard").to_pylist() for table in tables] == [["a.tar"], ["z.tar"]]
    assert "shard 'odd.tar': UnicodeDecodeError: 'utf-8' codec" in caplog.text
    assert "shard 'away.tar': It is gone." in caplog.text


def test_the_summary_names_shards_that_cannot_be_read(tmp_path: Path) -> None:
    session: Any = SimpleNamespace(
        _prepared=SimpleNamespace(reader=lambda: Reader(tmp_path)),
        _books=SimpleNamespace(last_loss=None, tally=SimpleNamespace(passes=3)),
    )
    message = RunSession._describe_leftover(session, WORK[:3])
    assert "a.tar (readable; its units were lost in labeling); odd.tar (UnicodeDecodeError: 'utf-8' codec" in message
    assert "away.tar (It is gone.)" in message
