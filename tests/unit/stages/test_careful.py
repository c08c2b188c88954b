"""What kills its process twice becomes an error row; its neighbours do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import ImageError, StorageError
from sam3lt_ray.records import EncodedImage, ImageLabels, Unit, UnitRange
from sam3lt_ray.stages.careful import CarefulLabeler
from sam3lt_ray.stages.label import ImageLabeler
from sam3lt_ray.storage.local_store import LocalStore
from sam3lt_ray.storage.store import RunStore, open_store

UNIT = Unit(
    "s.tar",
    UnitRange(10, 5, is_last=True),
    tuple(EncodedImage(10 + i, f"{i}") for i in range(5)),
    path="labels/000/s.tar-0/0000000010-0000005.last.parquet",
)


class _Death(BaseException):
    """Stands for the end of the process: nothing after it runs."""


class _Mortal:
    def __init__(self, killers: set[int]) -> None:
        self.killers = killers

    def label_image(self, image: EncodedImage) -> ImageLabels:
        if image.index in self.killers:
            raise _Death
        return ImageLabels(4, 3, np.zeros(1, np.float32))


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return open_store(str(tmp_path), StorageSettings())


def _attempts_until_done(store: RunStore, killers: set[int]) -> tuple[int, list[ImageLabels | ImageError]]:
    mortal: ImageLabeler = _Mortal(killers)  # type: ignore[assignment]
    for attempt in range(1, 20):
        try:
            return attempt, CarefulLabeler(mortal, store, "a driver").label_unit(UNIT, before_image=lambda: None)
        except _Death:
            continue
    raise AssertionError("never finished")


@pytest.mark.parametrize(("killers", "attempts"), [(set[int](), 1), ({12}, 3), ({10, 14}, 5)])
def test_killers_are_found_and_nobody_else(store: RunStore, killers: set[int], attempts: int) -> None:
    needed, results = _attempts_until_done(store, killers)
    assert needed == attempts
    kinds = {10 + i: result.kind for i, result in enumerate(results) if isinstance(result, ImageError)}
    assert kinds == dict.fromkeys(killers, "worker_died")


def test_notes_are_removed_when_the_unit_is_done(store: RunStore) -> None:
    _attempts_until_done(store, {11})
    assert list(store.list("attempts")) == []


def test_one_death_is_no_proof(store: RunStore) -> None:
    dying: ImageLabeler = _Mortal({12})  # type: ignore[assignment]
    with pytest.raises(_Death):
        CarefulLabeler(dying, store, "a driver").label_unit(UNIT, before_image=lambda: None)
    living: ImageLabeler = _Mortal(set())  # type: ignore[assignment]
    results = CarefulLabeler(living, store, "a driver").label_unit(UNIT, before_image=lambda: None)
    assert all(isinstance(result, ImageLabels) for result in results)


def test_deaths_that_came_with_the_end_of_a_driver_are_no_images_fault(store: RunStore) -> None:
    dying: ImageLabeler = _Mortal({12})  # type: ignore[assignment]
    for driver in ("one", "two", "three"):  # each was ended, and its workers with it, while it waited for image 12
        with pytest.raises(_Death):
            CarefulLabeler(dying, store, driver).label_unit(UNIT, before_image=lambda: None)
    living: ImageLabeler = _Mortal(set())  # type: ignore[assignment]
    results = CarefulLabeler(living, store, "four").label_unit(UNIT, before_image=lambda: None)
    assert all(isinstance(result, ImageLabels) for result in results)


def test_a_death_that_its_driver_saw_is_not_forgotten_with_it(store: RunStore) -> None:
    dying: ImageLabeler = _Mortal({12})  # type: ignore[assignment]
    for driver in ("one", "one", "two"):
        with pytest.raises(_Death):
            CarefulLabeler(dying, store, driver).label_unit(UNIT, before_image=lambda: None)
    results = CarefulLabeler(dying, store, "two").label_unit(UNIT, before_image=lambda: None)
    assert [result.kind for result in results if isinstance(result, ImageError)] == ["worker_died"]


class _FullStore(LocalStore):
    """A disk that is full at the third note of every attempt."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri, StorageSettings())
        self.writes_left = 2

    def replace(self, path: str, data: bytes) -> None:
        self.writes_left -= 1
        if self.writes_left < 0:
            raise StorageError("The disk is full.")
        super().replace(path, data)


def test_a_note_that_cannot_be_written_blames_no_image(tmp_path: Path) -> None:
    mortal: ImageLabeler = _Mortal(set())  # type: ignore[assignment]
    for _ in range(3):
        with pytest.raises(StorageError, match="full"):
            CarefulLabeler(mortal, _FullStore(str(tmp_path)), "a driver").label_unit(UNIT, before_image=lambda: None)
    roomy = open_store(str(tmp_path), StorageSettings())
    results = CarefulLabeler(mortal, roomy, "a driver").label_unit(UNIT, before_image=lambda: None)
    assert [result for result in results if isinstance(result, ImageError)] == []
