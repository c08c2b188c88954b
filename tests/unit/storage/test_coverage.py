"""What is still to be asked follows from the names of files and from what each layer asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sam3lt_ray.records import Shard, UnitRange
from sam3lt_ray.storage.coverage import Coverage, Gap
from sam3lt_ray.storage.layers import Layer
from sam3lt_ray.storage.ledger import UnitFile, shard_directory, unit_path
from sam3lt_ray.vocabulary.labels import Label

A, B, C = (Label(number, name, (name,)) for number, name in enumerate("abc", start=1))
SHARD = Shard("s.tar", "/in/s.tar", 100, "v1")
UNITS = [UnitRange(first, 10, is_last=first == 30) for first in range(0, 40, 10)]
LAYERS = [Layer("000", (A, B)), Layer("001", (C,)), Layer("002", (A, B, C)), Layer("003", (Label(1, "a", ("old",)),))]
ALL = {label.id: label.prompts for label in (A, B, C)}


def coverage(*committed: tuple[str, UnitRange], wanted: dict[int, tuple[str, ...]] = ALL) -> Coverage:
    return Coverage(LAYERS, wanted).add_paths([unit_path(layer, "s.tar", unit) for layer, unit in committed])


def test_an_untouched_shard_is_asked_everything_at_once() -> None:
    assert coverage().gaps(SHARD) == [Gap(0, None, frozenset({1, 2, 3}))]


def test_a_new_label_is_asked_where_the_others_were_and_everything_where_nothing_was() -> None:
    found = coverage(("000", UNITS[0]), ("000", UNITS[2]))
    assert found.gaps(SHARD) == [
        Gap(0, 10, frozenset({3})),
        Gap(10, 20, frozenset({1, 2, 3})),
        Gap(20, 30, frozenset({3})),
        Gap(30, None, frozenset({1, 2, 3})),
    ]
    whole = coverage(*(("000", unit) for unit in UNITS))
    assert whole.gaps(SHARD) == [Gap(0, 40, frozenset({3}))]
    assert whole.num_images(SHARD) == 40


def test_images_are_done_that_were_asked_everything() -> None:
    assert coverage().num_done(SHARD) == 0
    # What lies between two units was asked nothing, and is not taken off what was.
    some = coverage(("002", UNITS[0]), ("002", UNITS[2]), ("000", UNITS[3]))
    assert (some.num_images(SHARD), some.num_done(SHARD)) == (30, 20)
    assert coverage(*(("002", unit) for unit in UNITS)).num_done(SHARD) == 40
    assert coverage(*(("000", unit) for unit in UNITS)).num_done(SHARD) == 0


def test_a_removed_label_asks_nothing_and_other_prompts_ask_again() -> None:
    done = [("000", unit) for unit in UNITS]
    assert coverage(*done, wanted={1: ("a",)}).gaps(SHARD) == []
    assert coverage(*done, wanted={1: ("a",), 2: ("b", "bee")}).gaps(SHARD) == [Gap(0, 40, frozenset({2}))]


def test_prompts_that_come_back_have_their_answers_already() -> None:
    done = [("000", unit) for unit in UNITS] + [("003", unit) for unit in UNITS]
    for prompts in ("a", "old"):
        assert coverage(*done, wanted={1: (prompts,), 2: ("b",)}).gaps(SHARD) == []


def test_an_empty_shard_has_nothing_to_be_asked() -> None:
    assert coverage(("003", UnitRange(0, 0, is_last=True))).gaps(SHARD) == []


def test_units_of_another_content_do_not_count() -> None:
    edition = Shard("s.tar", "/in/s.tar", 101, "v2", edition="0a1b2c3d")
    old = unit_path("000", "s.tar", UNITS[0])
    new = unit_path("000", "s.tar", UNITS[1], edition.edition)
    editions = {shard_directory("s.tar"): shard_directory("s.tar", edition.edition)}
    found = Coverage(LAYERS, ALL, editions).add_paths([old, new])
    assert [unit.range for unit in found.units(edition)] == [UNITS[1]]
    assert [unit.path for unit in found.iter_units()] == [new]
    assert found.num_wanted_units == 1
    assert [unit.path for unit in found.outdated_units()] == [old]
    assert found.gaps(edition)[0] == Gap(0, 10, frozenset({1, 2, 3}))


@given(st.sets(st.tuples(st.sampled_from(["000", "001", "002", "003"]), st.sampled_from(UNITS))))
def test_committed_units_and_gaps_ask_every_image_every_label(committed: set[tuple[str, UnitRange]]) -> None:
    found = coverage(*committed)
    questions = {layer.name: layer.answers(ALL) for layer in LAYERS}
    asked = {
        (index, label_id)
        for layer, unit in committed
        for index in range(unit.first, unit.end)
        for label_id in questions[layer]
    }
    missing = [
        (index, label_id)
        for gap in found.gaps(SHARD)
        for index in range(gap.first, 40 if gap.end is None else gap.end)
        for label_id in gap.label_ids
    ]
    assert len(missing) == len(set(missing))
    assert asked.isdisjoint(missing)
    assert asked | set(missing) == {(index, label_id) for index in range(40) for label_id in ALL}
    done = [index for index in range(40) if all((index, label_id) in asked for label_id in ALL)]
    assert found.num_done(SHARD) == len(done)
    assert found.num_wanted_units == len(list(found.iter_units()))
    chosen = [index for unit in found.units(SHARD) for index in range(unit.range.first, unit.range.end)]
    assert sorted(set(chosen)) == chosen
    assert set(chosen) == {index for _, unit in committed for index in range(unit.first, unit.end)}


def test_a_retry_is_there_when_its_number_is() -> None:
    unit = UnitFile("000", shard_directory("s.tar"), UNITS[0], num_retries=1)
    paths = unit.paths
    assert not Coverage(LAYERS, ALL).add_paths(paths[:1]).has_unit(unit)
    assert Coverage(LAYERS, ALL).add_paths(paths).has_unit(unit)
