"""What a start writes before it labels: nothing of a run that is overwritten could be taken for the new one's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sam3lt_ray.config.schema import Config, StorageSettings
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.labels.rows import Provenance, build_rows, encode_unit_file
from sam3lt_ray.labels.status import read_run_state
from sam3lt_ray.pipeline.run_files import write_run_files
from sam3lt_ray.progress import SilentProgress
from sam3lt_ray.records import EncodedImage, ImageLabels, Shard, Unit, UnitRange
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.layers import ensure_layer, find_discarded, questions_of, read_layers
from sam3lt_ray.storage.lease import Lease
from sam3lt_ray.storage.ledger import unit_path
from sam3lt_ray.storage.run_directory import RunIdentity, label_prompts
from sam3lt_ray.storage.store import RunStore, open_store
from sam3lt_ray.vocabulary.history import continue_labels
from sam3lt_ray.vocabulary.labels import Label, Vocabulary

CAT, DOG, STAR = Label(1, "cat", ("cat",)), Label(1, "dog", ("dog",)), Label(2, "star", ("star",))
SHARD = Shard("a.tar", "/in/a.tar", 10, "v")
WHOLE = UnitRange(0, 2, is_last=True)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return open_store(str(tmp_path / "run"), StorageSettings())


def _start(store: RunStore, *labels: Label, overwrite: bool = False) -> None:
    """Everything that a start writes before it labels."""
    entries = tuple(labels)
    config = Config.model_validate(
        {
            "run": {"output": store.uri},
            "input": {"uri": "/in", "format": "webdataset"},
            "vocabulary": [label.name for label in labels],
        }
    )
    checkpoint = SimpleNamespace(name="demo", revision=None, model_type="sam3_lite_text", files={})
    prepared: Any = SimpleNamespace(
        store=store,
        config=config,
        checkpoint=checkpoint,
        labels=continue_labels(Vocabulary(entries, "test"), []),
        identity=RunIdentity({}, {}, label_prompts(entries), "/in"),
        snapshot=SimpleNamespace(new=[SHARD], changed=[]),
        shards=[SHARD],
        origin=None,
        verify_unchanged=lambda: None,
    )
    with Lease(store, renews_itself=False) as lease:
        lease.acquire()
        write_run_files(prepared, lease, SilentProgress(), overwrite=overwrite)


def _unit(layer: str, label: Label) -> tuple[str, bytes]:
    unit = Unit("a.tar", WHOLE, tuple(EncodedImage(i, f"{i}.png", b"x") for i in range(2)))
    rows = build_rows(unit, [ImageLabels(4, 3, np.array([0.9], np.float32)) for _ in range(2)], loose_files=False)
    return unit_path(layer, "a.tar", WHOLE), encode_unit_file(unit, rows, Provenance("f" * 64, {}, ((1, label.name),)))


def _coverage(store: RunStore, *labels: Label) -> Coverage:
    return Coverage(read_layers(store), questions_of(labels)).list_layers(store)


def test_a_run_in_a_new_place_has_plain_names(store: RunStore) -> None:
    _start(store, CAT)
    assert [layer.name for layer in read_layers(store)] == ["000"]
    _start(store, CAT)
    assert [layer.name for layer in read_layers(store)] == ["000"], "it goes on as it began"


def test_what_workers_of_an_overwritten_run_still_commit_is_not_the_new_ones(store: RunStore) -> None:
    _start(store, CAT)
    (old,) = read_layers(store)
    late = _unit(old.name, CAT)
    _start(store, DOG, overwrite=True)
    assert store.create(*late)
    # A driver of the old run that slept makes a layer, too.
    ensure_layer(store, [old], [STAR])

    assert [layer.labels for layer in read_layers(store)] == [(DOG,)]
    coverage = _coverage(store, DOG)
    assert coverage.gaps(SHARD)[0].label_ids == {1}, "its images count as labeled"
    assert coverage.foreign_paths == [late[0]]
    assert find_discarded(store, coverage.foreign_paths) == [late[0]], "the next start does not remove it"
    assert list(RunReader(store).iter_images()) == []
    state = read_run_state(store)
    assert (state.units_done, state.images_done, state.last_commit_age_s) == (0, 0, None)

    _start(store, CAT, overwrite=True)
    assert not store.exists(late[0])
    generations = {layer.name for layer in read_layers(store)}
    assert len(generations) == 1
    assert generations.isdisjoint({old.name})


def test_further_layers_share_the_generation(store: RunStore) -> None:
    _start(store, CAT)
    _start(store, DOG, overwrite=True)
    (first,) = read_layers(store)
    layers = ensure_layer(store, [first], [STAR])
    assert layers[1].name == first.name.replace("000-", "001-")
    assert read_layers(store) == layers
    assert store.create(*_unit(layers[1].name, STAR))
    assert _coverage(store, DOG, STAR).foreign_paths == []
    assert _coverage(store, STAR).gaps(SHARD) == []


def test_a_run_after_one_whose_discarding_was_cut_short_has_a_generation(store: RunStore) -> None:
    _start(store, CAT)
    late = _unit("000", CAT)
    _discard(store)
    assert store.create(*late)
    _start(store, DOG)
    assert _coverage(store, DOG).foreign_paths == [late[0]]
    assert find_discarded(store, [late[0]]) == [], "nobody has asked for its end"
    _discard(store)
    assert store.create(*late)
    store.create("probe", b"first")  # and so was the next start
    _start(store, CAT, overwrite=True)
    assert not store.exists(late[0])


def _discard(store: RunStore) -> None:
    for item in list(store.list("")):
        if not item.path.startswith("lease/"):
            store.delete(item.path)


def test_other_peoples_files_are_not_discarded(store: RunStore) -> None:
    _start(store, CAT)
    own = [*_unit("000", CAT)], ["exports/coco/instances.json", b"{}"]
    theirs = ["labels/mine.txt", b"mine"], ["photo.jpg", b"mine"]
    for path, data in (*own, *theirs):
        store.create(str(path), bytes(data))
    _start(store, CAT, overwrite=True)
    assert not any(store.exists(str(path)) for path, _ in own)
    assert all(store.exists(str(path)) for path, _ in theirs)
