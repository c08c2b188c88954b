"""Whatever is committed in whatever layer: what is read in the middle of a shard is what reading all of it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.errors import ImageError
from sam3lt_ray.inputs.listing import list_shards
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.labels.rows import Provenance, build_rows, encode_unit_file
from sam3lt_ray.records import ImageLabels, ReadRange, Shard, Unit
from sam3lt_ray.stages.read import MissingUnitReader, Retry, ShardWork
from sam3lt_ray.storage.ledger import UnitFile, shard_directory, unit_path
from sam3lt_ray.storage.local_store import LocalStore
from tests.standin import plain_image, write_tar

STORAGE = StorageSettings()
KEYS = ["a", "b", "c", "d", "e", "f", "g", "c", "h", "b"]  # c and b come again
ALL = ["000/0", "000/1", "000/2", "000/3", "000/4"]


@pytest.fixture
def settings(tmp_path: Path) -> InputSettings:
    write_tar(tmp_path / "in" / "s.tar", [(f"{key}.png", plain_image((n, 5, 9))) for n, key in enumerate(KEYS)])
    return InputSettings(format="webdataset", uri=str(tmp_path / "in"), images_per_unit=2)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "run"), STORAGE)


def _commit(store: LocalStore, unit: Unit, layer: str) -> UnitFile:
    results = [
        ImageLabels(40, 30, np.zeros(1, np.float32))
        if image.error_kind is None
        else ImageError(image.error_kind, "again")
        for image in unit.images
    ]
    rows = build_rows(unit, results, loose_files=False)
    data = encode_unit_file(unit, rows, Provenance("f", {}, ((1, "cat"),)))
    assert store.create(unit_path(layer, unit.shard, unit.range), data)
    return UnitFile(layer, shard_directory(unit.shard), unit.range)


def _whole(settings: InputSettings) -> tuple[Shard, list[Unit]]:
    (shard,) = list_shards(settings, STORAGE)
    units = list(read_units(shard, [ReadRange()], settings, STORAGE))
    kinds = [image.error_kind for unit in units for image in unit.images]
    assert [index for index, kind in enumerate(kinds) if kind == "duplicate_key"] == [7, 9]
    return shard, units


@pytest.mark.parametrize(
    ("committed", "gaps"),
    [
        ([], [(0, None)]),
        (ALL[:4], [(8, None)]),
        (["000/0", "001/1", "000/2"], [(6, 10)]),
        (["000/0", "000/2", "000/3"], [(2, 4), (8, None)]),
        (["000/2", "001/3"], [(4, 6), (8, 10)]),  # something else in front is missing: its keys are not known
        (["000/3"], [(8, None)]),
    ],
)
def test_gaps_are_read_as_parts_of_the_whole(
    committed: list[str], gaps: list[tuple[int, int | None]], settings: InputSettings, store: LocalStore
) -> None:
    shard, units = _whole(settings)
    files = [_commit(store, units[int(number)], layer) for layer, number in (item.split("/") for item in committed)]
    read = MissingUnitReader(store, settings, STORAGE)
    before = tuple(file for file in files if file.range.end <= gaps[-1][0])
    found = list(read(ShardWork(shard, "007", tuple(gaps), before)))
    wanted = [unit for unit in units if any(a <= unit.range.first < (10 if b is None else b) for a, b in gaps)]
    assert [(unit.range, unit.images) for unit in found] == [(unit.range, unit.images) for unit in wanted]
    assert [unit.path for unit in found] == [unit_path("007", "s.tar", unit.range) for unit in wanted]


def test_a_retry_reads_the_images_that_failed_and_no_others(settings: InputSettings, store: LocalStore) -> None:
    shard, units = _whole(settings)
    files = [_commit(store, unit, "000") for unit in units]
    retries = (Retry(files[1], frozenset({3})), Retry(files[3], frozenset({6, 7})), Retry(files[4], frozenset({9})))
    work = ShardWork(shard, "000", committed=tuple(files), retries=retries)
    found = list(MissingUnitReader(store, settings, STORAGE)(work))
    assert [(unit.range, [image.index for image in unit.images]) for unit in found] == [
        (units[1].range, [3]),
        (units[3].range, [6, 7]),
        (units[4].range, [9]),
    ]
    assert [image.error_kind for unit in found for image in unit.images] == [
        None,
        None,
        "duplicate_key",
        "duplicate_key",
    ]
    assert [unit.path for unit in found] == [retry.unit.retry_path(1) for retry in retries]
