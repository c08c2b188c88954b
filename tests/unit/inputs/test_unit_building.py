from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from sam3lt_ray.inputs.image_stream import StreamedImage
from sam3lt_ray.inputs.unit_building import build_units
from sam3lt_ray.records import EncodedImage, ReadRange, Unit
from tests.unit.inputs.shard_files import settings_for

MB = 2**20


def stream(sizes: list[int], first: int = 0) -> Iterator[StreamedImage]:
    for index, size in enumerate(sizes[first:], start=first):
        yield StreamedImage(EncodedImage(index, str(index), bytes(size)), offset=1000 + index)


def cut(sizes: list[int], first: int = 0, end: int | None = None) -> list[Unit]:
    limits = settings_for(images_per_unit=3, max_unit_mb=1)
    return list(build_units("s", stream(sizes, first), ReadRange(first, end), limits))


def counts(sizes: list[int]) -> list[int]:
    return [unit.range.count for unit in cut(sizes)]


def test_whichever_limit_is_reached_first() -> None:
    assert counts([1] * 7) == [3, 3, 1]
    assert counts([MB // 2] * 5) == [2, 2, 1]
    assert counts([MB // 2, MB // 2 + 1, 1]) == [1, 2]


def test_an_image_above_the_limit_is_alone() -> None:
    assert counts([1, 2 * MB, 1, 0]) == [1, 1, 2]
    assert counts([2 * MB, 0, 0]) == [1, 2]
    assert counts([MB, MB]) == [1, 1]


def test_exact_multiple_ends_with_the_full_unit() -> None:
    units = cut([1] * 6)
    assert [unit.range.is_last for unit in units] == [False, True]
    assert [unit.resume_offset for unit in units] == [1003, None]


def test_end_of_range() -> None:
    sizes = [1] * 8
    assert [unit.range.end for unit in cut(sizes, 0, 3)] == [3]
    assert [unit.range.end for unit in cut(sizes, 3, 6)] == [6]
    assert cut(sizes, 3, 6)[0].resume_offset == 1006
    assert not cut(sizes, 3, 6)[0].range.is_last
    assert cut(sizes, 6, 8)[0].range.is_last
    assert [unit.range.end for unit in cut(sizes, 0, 5)] == [3, 5]  # a gap whose other limits were different


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([0, 1, MB // 3, MB // 2, MB, MB + 1]), max_size=20))
def test_cuts_do_not_depend_on_where_reading_began(sizes: list[int]) -> None:
    units = cut(sizes)
    assert sum(unit.range.count for unit in units) == len(sizes)
    for position, unit in enumerate(units):
        assert cut(sizes, unit.range.first)[:1] == [unit] or not sizes
        assert cut(sizes, unit.range.first, unit.range.end) == [unit]
        assert all(not other.range.is_last for other in units[:position])
    assert units[-1].range.is_last
