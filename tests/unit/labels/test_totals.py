"""Totals of a run: kept in a file that is believed only where the listing agrees with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sam3lt_ray.labels import joined_counts, totals
from sam3lt_ray.labels.footer import read_counts
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.labels.totals import TOTALS_PATH, RunTotals
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_failed_image, make_image, make_instance, make_run

LABELS = (Label(3, "cat", ("cat",)), Label(7, "dog", ("dog",)))
ALL = UnitCounts(5, {"corrupt": 2, "empty": 1}, {3: 3, 7: 1})


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A run of five images in three units."""
    presence = {3: 0.9, 7: 0.1}
    found = [make_instance(np.ones((6, 9), bool), label_id=label_id, score=0.5) for label_id in (3, 3, 7)]
    images = [
        make_image("a", index=0, presence=presence, instances=found[:1]),
        make_failed_image("b", index=1, kind="corrupt"),
        make_image("c", index=2, presence=presence, instances=found),
        make_failed_image("d", index=3, kind="empty"),
        make_failed_image("e", index=4, kind="corrupt"),
    ]
    return make_run(tmp_path, images, LABELS, images_per_unit=2)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files whose footers were read."""
    read: list[str] = []

    def noted(store: RunStore, paths: Sequence[str]) -> object:
        read.extend(paths)
        return read_counts(store, paths)

    monkeypatch.setattr(joined_counts, "read_counts", noted)
    return read


def count(store: RunStore, kept: RunTotals | None = None, max_reads: int | None = None) -> UnitCounts | None:
    """As the end of a start counts."""
    kept = RunTotals.load(store) if kept is None else kept
    reader = RunReader(store)
    total = joined_counts.joined_counts(reader, reader.coverage(), kept, max_reads=max_reads)
    kept.save()
    return total


def paths(store: RunStore) -> list[str]:
    return [file.path for file in store.list("labels")]


def test_footers_are_read_once(store: RunStore, reads: list[str]) -> None:
    assert count(store) == ALL
    assert len(reads) == 3
    assert count(store) == ALL
    assert len(reads) == 3


def test_a_reader_writes_nothing(store: RunStore) -> None:
    assert count(store, RunTotals.load(store, is_kept=False)) == ALL
    assert not store.exists(TOTALS_PATH)


def test_what_a_start_commits_is_not_read_back(store: RunStore, reads: list[str]) -> None:
    kept = RunTotals.load(store)
    for path, its_counts in zip(paths(store), read_counts(store, paths(store)), strict=True):
        kept.add(path, its_counts)
    assert count(store, kept) == ALL
    assert count(store) == ALL
    assert reads == []


def test_portions_are_saved_while_a_start_goes_on(
    store: RunStore, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "FILES_PER_SUM", 2)
    kept = RunTotals.load(store)
    for path in paths(store)[:2]:
        kept.add(path, UnitCounts(2))
    # ... and here the driver is killed
    assert count(store) is not None
    assert reads == [paths(store)[2]]


def test_what_is_about_to_be_made_anew_is_forgotten_first(store: RunStore, reads: list[str]) -> None:
    count(store)
    first = paths(store)[0]
    content = store.read(first)
    store.delete(first)
    RunTotals.load(store).forget_missing(paths(store))
    # The driver labels it anew and is killed: the same name may now stand for other counts.
    store.create(first, content)
    reads.clear()
    assert count(store) == ALL
    assert first in reads


def test_units_that_are_gone_do_not_count(store: RunStore) -> None:
    count(store)
    store.delete(paths(store)[0])
    assert count(store) == UnitCounts(3, {"corrupt": 1, "empty": 1}, {3: 2, 7: 1})


def test_a_unit_made_anew_by_this_start_replaces_what_was_known(store: RunStore, reads: list[str]) -> None:
    count(store)
    reads.clear()
    kept = RunTotals.load(store)
    kept.add(paths(store)[0], UnitCounts(2, {}, {3: 100}))
    total = count(store, kept)
    assert total is not None
    assert total.instances == {3: 102, 7: 1}
    assert reads == paths(store)[1:]


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1"])
def test_a_damaged_file_is_no_file(store: RunStore, content: bytes) -> None:
    store.replace(TOTALS_PATH, content)
    assert count(store) == ALL
    assert count(store) == ALL


def test_many_unknown_units_are_read_over_several_starts(store: RunStore, reads: list[str]) -> None:
    assert count(store, max_reads=2) is None
    assert count(store, max_reads=2) == ALL
    assert len(reads) == 3


def test_small_sums_of_a_layer_become_one(store: RunStore) -> None:
    for path, its_counts in zip(paths(store), read_counts(store, paths(store)), strict=True):
        kept = RunTotals.load(store)
        kept.add(path, its_counts)
        kept.save()
    kept = RunTotals.load(store)
    assert [len(one.ids) for one in kept._sums] == [3]
    assert count(store, kept) == ALL


def test_no_units_are_nothing(tmp_path: Path) -> None:
    store = make_run(tmp_path, [], LABELS)
    assert count(store) == UnitCounts()
