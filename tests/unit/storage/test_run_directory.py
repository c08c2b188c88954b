"""A run directory remembers what its labels depend on and refuses to mix."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import InputError, RunMismatchError
from sam3lt_ray.storage.run_directory import RUN_PATH, RunIdentity, create_or_verify, read_run
from sam3lt_ray.storage.store import RunStore, open_store

IDENTITY = RunIdentity(
    settings={"labeling.score_floor": 0.2, "input.format": "webdataset"},
    model_files={"model.safetensors": "aa"},
    labels={1: {"name": "cat", "prompts": ["cat"]}},
    input_uri="s3://b/in",
)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return open_store(str(tmp_path), StorageSettings())


def test_the_first_start_writes_and_the_second_agrees(store: RunStore) -> None:
    first = create_or_verify(store, IDENTITY, {"created_at": "now"})
    second = create_or_verify(store, IDENTITY, {"created_at": "later"})
    assert second == first
    assert second["created_at"] == "now"
    assert second["fingerprint"] == IDENTITY.fingerprint


def test_every_difference_is_named_with_both_values(store: RunStore) -> None:
    create_or_verify(store, IDENTITY, {})
    other = dataclasses.replace(
        IDENTITY,
        settings={**IDENTITY.settings, "labeling.score_floor": 0.3},
        model_files={"model.safetensors": "bb"},
        labels={1: {"name": "cat", "prompts": ["a cat"]}, 2: {"name": "dog", "prompts": ["dog"]}},
        input_uri="s3://b/other",
    )
    with pytest.raises(RunMismatchError) as caught:
        create_or_verify(store, other, {})
    message = caught.value.message
    assert "labeling.score_floor: the run has 0.2, now it is 0.3" in message
    assert 'model file model.safetensors: the run has "aa", now it is "bb"' in message
    assert "--fork NEW_RUN" in message
    assert "cat" not in message, "a run may get other labels"
    assert 'input.uri: the run has "s3://b/in", now it is "s3://b/other"' in message


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"labeling.score_floor": 0.3, "input.format": "webdataset"}},
        {"model_files": {"model.safetensors": "bb"}},
        {"labels": {1: {"name": "cat", "prompts": ["tom cat"]}}},
    ],
)
def test_fingerprint_changes_with_whatever_changes_labels(change: dict[str, object]) -> None:
    assert dataclasses.replace(IDENTITY, **change).fingerprint != IDENTITY.fingerprint  # type: ignore[arg-type]


def test_fingerprint_ignores_names_and_place() -> None:
    renamed = dataclasses.replace(IDENTITY, labels={1: {"name": "Katze", "prompts": ["cat"]}}, input_uri="/mnt/in")
    assert renamed.fingerprint == IDENTITY.fingerprint


def test_fingerprint_depends_on_types_but_not_on_order() -> None:
    turned = dataclasses.replace(IDENTITY, settings=dict(reversed(IDENTITY.settings.items())))
    assert turned.fingerprint == IDENTITY.fingerprint
    as_text = dataclasses.replace(IDENTITY, settings={**IDENTITY.settings, "labeling.score_floor": "0.2"})
    assert as_text.fingerprint != IDENTITY.fingerprint


def test_a_folder_that_is_no_run_is_said_so(store: RunStore) -> None:
    with pytest.raises(InputError, match=r"no run\.json"):
        read_run(store)


def test_damaged_run_json_is_refused(store: RunStore) -> None:
    store.replace(RUN_PATH, b'{"half": ')
    with pytest.raises(RunMismatchError, match="not valid JSON"):
        read_run(store)


def test_a_run_of_a_newer_version_is_refused(store: RunStore) -> None:
    store.replace(RUN_PATH, b'{"format_version": 99}')
    with pytest.raises(RunMismatchError, match="format 99"):
        read_run(store)
