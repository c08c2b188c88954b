"""A look at how the first files begin finds the wrong input, and stops nothing that its rule would not stop."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.errors import StorageError
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.pipeline import first_look
from sam3lt_ray.pipeline.error_budget import ErrorBudget
from sam3lt_ray.pipeline.first_look import find_wrong_input
from sam3lt_ray.records import EncodedImage, ReadRange, Shard, Unit, UnitRange

PDF, JPEG = b"%PDF-1.7", b"\xff\xd8\xff\xe0"
WHOLE = ((0, None),)


class Input:
    """Shards made of PDFs (True) and images, and which of them were read how far."""

    def __init__(
        self, shards: Sequence[Sequence[bool]], gaps: Sequence[tuple[tuple[int, int | None], ...]] = ()
    ) -> None:
        self._shards = {f"{number}.tar": images for number, images in enumerate(shards)}
        self._gaps = gaps
        self.read: list[tuple[str, int]] = []

    def units(
        self, shard: Shard, ranges: Sequence[ReadRange], settings: InputSettings, storage: StorageSettings
    ) -> Generator[Unit, None, None]:
        assert (ranges, settings.images_per_unit) == ([ReadRange()], 1)
        for index, is_pdf in enumerate(self._shards[shard.name]):
            self.read.append((shard.name, index))
            image = EncodedImage(index, f"{index}.jpg", PDF if is_pdf else JPEG)
            yield Unit(shard.name, UnitRange(index, 1, is_last=False), (image,))

    def look(self, budget: float | None = 0.05, images_per_unit: int = 256) -> UnitCounts | None:
        items = [
            SimpleNamespace(shard=Shard(name, f"/in/{name}"), gaps=self._gaps[number] if self._gaps else WHOLE)
            for number, name in enumerate(self._shards)
        ]
        work: Any = [SimpleNamespace(shards=items)]
        settings = InputSettings(format="webdataset", uri="/in", images_per_unit=images_per_unit)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(first_look, "read_units", self.units)
            return find_wrong_input(work, settings, StorageSettings(), budget)


@pytest.mark.parametrize("images_per_unit", [8, 100, 256])
@pytest.mark.parametrize("size", [7, 60, 600])
def test_a_bucket_of_other_files_is_found_within_two_hundred(images_per_unit: int, size: int) -> None:
    bucket = Input([[True] * size] * 40)
    found = bucket.look(images_per_unit=images_per_unit)
    assert found is not None
    assert 50 < found.images == len(set(bucket.read)) <= 200
    assert found.errors == {"unsupported": found.images}
    ((cause, images),) = found.causes.items()
    assert cause.startswith("unsupported: The file is PDF")
    assert images == found.images


def test_a_healthy_input_costs_one_image() -> None:
    healthy = Input([[False] * 300] * 50)
    assert healthy.look() is None
    assert healthy.read == [("0.tar", 0)]


def test_without_a_budget_nothing_is_read() -> None:
    bucket = Input([[True] * 300])
    assert bucket.look(budget=None) is None
    assert bucket.read == []


@pytest.mark.parametrize(
    "shards",
    [
        [[True] * 120 + [False] * 200],  # of its first unit most may be fine
        [[True] * 300, *[[False] * 300] * 6],  # one bad shard
        [[True] * 300] * 6 + [[False] * 300],  # the last one is fine
        [[True] * 40],  # too few to say anything
        [[]],
        [],
    ],
)
def test_what_may_be_some_bad_shards_is_left_to_the_run(shards: list[list[bool]]) -> None:
    assert Input(shards).look() is None


def test_shards_that_are_done_in_part_are_not_looked_at() -> None:
    begun = Input([[True] * 300, [False] * 300], gaps=[((256, None),), WHOLE])
    assert begun.look() is None
    assert begun.read == [("1.tar", 0)]


def test_storage_that_fails_is_left_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Input([[True] * 300])

    def fail(*_: object) -> Generator[Unit, None, None]:
        raise StorageError("gone")
        yield

    monkeypatch.setattr(bucket, "units", fail)
    assert bucket.look() is None


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.05, 0.3, 0.6]),
    st.sampled_from([5, 16, 256]),
)
def test_it_stops_nothing_that_the_budget_would_not_stop_at_the_same_units(
    shards: list[tuple[int, int]], budget: float, images_per_unit: int
) -> None:
    content = [[True] * 5 * bad + [False] * fine for bad, fine in shards]
    if Input(content).look(budget, images_per_unit) is None:
        return
    judge, verdicts = ErrorBudget(budget), []
    for number, images in enumerate(content):
        for first in range(0, len(images), images_per_unit):
            unit = images[first : first + images_per_unit]
            judge.add(f"{number}.tar", UnitCounts(len(unit), {"unsupported": sum(unit)}))
            verdicts.append(judge.verdict())
    assert any(verdicts)
