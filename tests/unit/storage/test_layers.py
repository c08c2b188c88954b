"""A layer is made once and means the same for ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.storage.layers import Layer, ensure_layer, find_layer, read_layers
from sam3lt_ray.storage.local_store import LocalStore
from sam3lt_ray.storage.run_directory import RunIdentity, create_or_verify, label_prompts
from sam3lt_ray.vocabulary.labels import Label

CAT, DOG, CAR = Label(1, "cat", ("cat",)), Label(2, "dog", ("dog", "puppy")), Label(5, "car", ("car",))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(str(tmp_path), StorageSettings())
    create_or_verify(store, RunIdentity({}, {}, label_prompts([DOG, CAT]), "/in"), {})
    return store


def test_the_first_layer_is_what_the_run_began_with(store: LocalStore) -> None:
    assert read_layers(store) == [Layer("000", (DOG, CAT))]


def test_further_layers_are_numbered_and_found_again(store: LocalStore) -> None:
    layers = ensure_layer(store, read_layers(store), [CAR])
    layers = ensure_layer(store, layers, [CAT, DOG, CAR])
    assert [layer.name for layer in layers] == ["000", "001", "002"]
    assert read_layers(store) == layers
    assert ensure_layer(store, layers, [CAR, CAT, DOG]) == layers
    assert find_layer(layers, [Label(2, "hound", ("dog", "puppy")), CAT]) == layers[0], "a name is no question"
    assert find_layer(layers, [Label(2, "dog", ("puppy", "dog")), CAT]) is None


def test_of_two_drivers_that_make_one_layer_one_wins(store: LocalStore) -> None:
    stale = read_layers(store)
    ensure_layer(store, stale, [CAR])
    assert ensure_layer(store, stale, [CAR]) == read_layers(store)
    both = ensure_layer(store, stale, [CAT])
    assert [layer.name for layer in both] == ["000", "001", "002"]
    assert json.loads(store.read("layers/002.json"))["labels"] == [{"id": 1, "name": "cat", "prompts": ["cat"]}]
