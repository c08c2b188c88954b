"""Totals of a run: kept in a file that is believed only where the listing agrees with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sam3lt_ray.labels import totals
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.labels.totals import TOTALS_PATH, RunTotals
from sam3lt_ray.storage.store import RunStore, StoredFile
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
    """Units whose footers were read."""
    read: list[str] = []
    original = totals.read_counts

    def noted(store: RunStore, paths: Sequence[str]) -> object:
        read.extend(paths)
        return original(store, paths)

    monkeypatch.setattr(totals, "read_counts", noted)
    return read


def units(store: RunStore) -> list[StoredFile]:
    return list(store.list("labels"))


def test_footers_are_read_once(store: RunStore, reads: list[str]) -> None:
    files = units(store)
    assert RunTotals.load(store).count(files, save=True) == ALL
    assert len(reads) == 3
    assert RunTotals.load(store).count(files, save=True) == ALL
    assert len(reads) == 3


def test_a_reader_writes_nothing(store: RunStore) -> None:
    assert RunTotals.load(store).count(units(store), save=False) == ALL
    assert not store.exists(TOTALS_PATH)


def test_what_a_start_commits_is_not_read_back(store: RunStore, reads: list[str]) -> None:
    files = units(store)
    counts = list(totals.read_counts(store, [file.path for file in files]))
    reads.clear()
    kept = RunTotals.load(store)
    for file, its_counts in zip(files, counts, strict=True):
        kept.add(file.path, file.size_bytes, its_counts)
    assert kept.count(files, save=True) == ALL
    assert RunTotals.load(store).count(files, save=True) == ALL
    assert reads == []


def test_portions_are_saved_while_a_start_goes_on(
    store: RunStore, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "UNITS_PER_SUM", 2)
    kept = RunTotals.load(store)
    for file in units(store)[:2]:
        kept.add(file.path, file.size_bytes, UnitCounts(2))
    # ... and here the driver is killed
    assert RunTotals.load(store).count(units(store), save=False) is not None
    assert reads == [units(store)[2].path]


def test_what_is_about_to_be_made_anew_is_forgotten_first(store: RunStore, reads: list[str]) -> None:
    files = units(store)
    RunTotals.load(store).count(files, save=True)
    content = store.read(files[0].path)
    store.delete(files[0].path)
    RunTotals.load(store).forget_changed(units(store))
    # The driver labels it anew and is killed: the same name and size may now stand for other counts.
    store.create(files[0].path, content)
    reads.clear()
    assert RunTotals.load(store).count(units(store), save=False) == ALL
    assert files[0].path in reads


def test_units_that_are_gone_do_not_count(store: RunStore) -> None:
    files = units(store)
    RunTotals.load(store).count(files, save=True)
    store.delete(files[0].path)
    rest = RunTotals.load(store).count(units(store), save=False)
    assert rest == UnitCounts(3, {"corrupt": 1, "empty": 1}, {3: 2, 7: 1})


def test_a_unit_made_anew_by_this_start_replaces_what_was_known(store: RunStore, reads: list[str]) -> None:
    files = units(store)
    RunTotals.load(store).count(files, save=True)
    reads.clear()
    kept = RunTotals.load(store)
    kept.add(files[0].path, files[0].size_bytes, UnitCounts(2, {}, {3: 100}))
    total = kept.count(files, save=True)
    assert total is not None
    assert total.instances == {3: 102, 7: 1}
    assert reads == [file.path for file in files[1:]]


def test_a_file_of_another_size_is_read_again(store: RunStore, reads: list[str]) -> None:
    files = units(store)
    RunTotals.load(store).count(files, save=True)
    reads.clear()
    changed = [StoredFile(files[0].path, files[0].size_bytes + 1, 0.0), *files[1:]]
    assert RunTotals.load(store).count(changed, save=False) == ALL
    assert len(reads) == 3


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1"])
def test_a_damaged_file_is_no_file(store: RunStore, content: bytes) -> None:
    store.replace(TOTALS_PATH, content)
    assert RunTotals.load(store).count(units(store), save=True) == ALL
    assert RunTotals.load(store).count(units(store), save=True) == ALL


def test_many_unknown_units_are_read_over_several_starts(store: RunStore, reads: list[str]) -> None:
    assert RunTotals.load(store).count(units(store), max_reads=2, save=True) is None
    assert RunTotals.load(store).count(units(store), max_reads=2, save=True) == ALL
    assert len(reads) == 3


def test_small_sums_become_one(store: RunStore) -> None:
    for portion in (1, 2, 3):
        RunTotals.load(store).count(units(store)[:portion], save=True)
    kept = RunTotals.load(store)
    assert [len(one.ids) for one in kept._sums] == [3]
    assert kept.count(units(store), save=False) == ALL


def test_no_units_are_nothing(store: RunStore) -> None:
    assert RunTotals.load(store).count([], save=True) == UnitCounts()
