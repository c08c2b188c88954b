"""Whose pass is going on."""

from __future__ import annotations

from pathlib import Path

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.pipeline.pass_marker import is_current, marked_pass
from sam3lt_ray.storage.local_store import LocalStore


def test_a_sleeper_that_ends_its_pass_leaves_its_successor_alone(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path), StorageSettings())
    with marked_pass(store) as asleep:
        assert is_current(store, asleep)
        successor = marked_pass(store)
        current = successor.__enter__()
        assert not is_current(store, asleep), "its actors should end themselves"
    assert is_current(store, current)
    successor.__exit__(None, None, None)
    assert not is_current(store, current)
    assert list(store.list("")) == []
