"""Under the lease a start looks again whether the run is still the one that it prepared for."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import RetryableRunError
from sam3lt_ray.pipeline.prepare import PreparedRun
from sam3lt_ray.records import Shard
from sam3lt_ray.storage.run_directory import RunIdentity, create_or_verify, encode_json, label_prompts
from sam3lt_ray.storage.snapshot import SNAPSHOT_PATH, merge_snapshot, read_snapshot, write_snapshot
from sam3lt_ray.storage.store import RunStore, open_store
from sam3lt_ray.vocabulary.history import KnownLabel, continue_labels, read_history
from sam3lt_ray.vocabulary.labels import Label
from sam3lt_ray.vocabulary.loading import load_vocabulary

CAT = Label(1, "cat", ("cat",))
SHARD = Shard("a.tar", "/in/a.tar", 10, "v1")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = open_store(str(tmp_path), StorageSettings())
    create_or_verify(store, RunIdentity({}, {}, label_prompts([CAT]), "/in"), {})
    write_snapshot(store, [SHARD])
    return store


def _prepared(store: RunStore) -> PreparedRun:
    """As far as it is verified; a start that looks at the run now."""
    other: Any = None
    return PreparedRun(
        config=other,
        checkpoint=other,
        labels=other,
        store=store,
        identity=other,
        snapshot=other,
        exists=True,
        differences=(),
        known_labels=_known_labels(),
        known_snapshot=hashlib.sha256(store.read(SNAPSHOT_PATH)).hexdigest(),
        origin=None,
    )


def _known_labels() -> list[KnownLabel]:
    return read_history({"labels": [CAT.to_json()]})


def test_a_run_that_is_as_it_was_goes_on(store: RunStore) -> None:
    _prepared(store).verify_unchanged()


@pytest.mark.parametrize(
    ("checkpoint", "labels", "words"),
    [
        ("demo", ["Red  circle", "star"], None),
        ("someone/weights", ["dog"], None),
        (
            "demo",
            ["dog", "star", "ear"],
            'coloured shapes only ("red circle"), and will find nothing for "dog", "ear": ',
        ),
        ("demo", list("abcd"), 'for "a", "b", "c", ...: name another one in model.checkpoint.'),
    ],
)
def test_what_the_demo_checkpoint_does_not_know_is_warned_of(
    store: RunStore, checkpoint: str, labels: list[str], words: str | None
) -> None:
    model: Any = SimpleNamespace(name=checkpoint)
    asked = continue_labels(load_vocabulary(labels), [])
    warning = replace(_prepared(store), checkpoint=model, labels=asked).warning()
    assert (warning is None) if words is None else (words in str(warning))


def test_shards_that_another_start_has_relabeled_meanwhile(store: RunStore) -> None:
    prepared = _prepared(store)
    edition = merge_snapshot(read_snapshot(store), [Shard("a.tar", "/in/a.tar", 11, "v2")], "relabel").shards
    write_snapshot(store, edition)
    with pytest.raises(RetryableRunError, match="changed the shards of the run"):
        prepared.verify_unchanged()


def test_labels_that_another_start_has_changed_meanwhile(store: RunStore) -> None:
    prepared = _prepared(store)
    store.replace("vocabulary.json", encode_json({"labels": [CAT.to_json(), Label(2, "dog", ("dog",)).to_json()]}))
    with pytest.raises(RetryableRunError, match="changed the labels of the run"):
        prepared.verify_unchanged()
