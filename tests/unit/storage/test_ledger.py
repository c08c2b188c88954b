"""The ledger is read from names alone; these names are the commit protocol."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3lt_ray.errors import InputError, RunMismatchError
from sam3lt_ray.records import UnitRange
from sam3lt_ray.storage import ledger
from sam3lt_ray.storage.ledger import (
    Ledger,
    UnitFile,
    first_edition,
    parse_unit_path,
    refuse_shared_directories,
    shard_directory,
    unit_path,
)

names = st.text(min_size=1, max_size=400)


@st.composite
def unit_tilings(draw: st.DrawFn) -> list[UnitRange]:
    """All units of a shard, as a complete run leaves them."""
    counts = draw(st.lists(st.integers(1, 300), min_size=1, max_size=12))
    firsts = [sum(counts[:position]) for position in range(len(counts))]
    last = len(counts) - 1
    return [UnitRange(first, n, i == last) for i, (first, n) in enumerate(zip(firsts, counts, strict=True))]


@given(names)
def test_shard_directory_is_one_safe_segment(name: str) -> None:
    directory = shard_directory(name)
    assert "/" not in directory
    assert "\0" not in directory
    assert not directory.startswith(".")
    assert directory.isascii()
    assert len(directory) <= 100
    assert directory == shard_directory(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a/b.tar", "a_b.tar"),
        ("A.tar", "a.tar"),
        ("../x.tar", "x.tar"),
        ("caf\u00e9.tar", unicodedata.normalize("NFD", "caf\u00e9.tar")),
        ("x" * 300 + "1", "x" * 300 + "2"),
    ],
)
def test_names_that_look_alike_get_different_directories(one: str, other: str) -> None:
    assert shard_directory(one).casefold() != shard_directory(other).casefold()


def test_names_whose_hashes_were_made_to_collide_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_shared_directories(["a.tar", "b.tar", "a.tar"])
    monkeypatch.setattr(ledger, "shard_directory", lambda name: f"{len(name)}-c0111de0")
    with pytest.raises(InputError, match=r"'a\.tar' and 'b\.tar' would share a directory"):
        refuse_shared_directories(["a.tar", "long.tar", "b.tar"])


@given(names, st.integers(0, 10**9), st.integers(0, 10**6), st.booleans())
def test_unit_path_says_everything(name: str, first: int, count: int, is_last: bool) -> None:
    unit_range = UnitRange(first, count, is_last)
    parsed = parse_unit_path(unit_path("000", name, unit_range))
    assert parsed is not None
    assert (parsed.layer, parsed.shard_dir, parsed.range) == ("000", shard_directory(name), unit_range)


@pytest.mark.parametrize(
    "path",
    [
        "labels/000/a.tar-1/notes.txt",
        "labels/000/a.tar-1/0000000000-0000005.parquet.tmp",
        "labels/000/a.tar-1/deeper/0000000000-0000005.parquet",
        "run.json",
        "labels/000/0000000000-0000005.parquet",
    ],
)
def test_stray_files_are_not_units(path: str) -> None:
    assert parse_unit_path(path) is None


def test_untouched_shard_is_one_open_gap() -> None:
    ledger = Ledger.from_paths("000", [])
    assert ledger.gaps(shard_directory("a.tar")) == [(0, None)]
    assert not ledger.is_complete(shard_directory("a.tar"))


def test_empty_shard_is_complete_with_its_empty_unit() -> None:
    ledger = Ledger.from_paths("000", [unit_path("000", "a.tar", UnitRange(0, 0, is_last=True))])
    assert ledger.is_complete(shard_directory("a.tar"))


def test_other_layers_do_not_count() -> None:
    ledger = Ledger.from_paths("001", [unit_path("000", "a.tar", UnitRange(0, 5, is_last=True))])
    assert ledger.gaps(shard_directory("a.tar")) == [(0, None)]


@given(unit_tilings(), st.data())
def test_gaps_and_committed_units_tile_the_shard(units: list[UnitRange], data: st.DataObject) -> None:
    committed = data.draw(st.lists(st.sampled_from(units), unique=True))
    ledger = Ledger.from_paths("000", [unit_path("000", "s.tar", unit) for unit in committed])
    total = units[-1].end
    covered = sorted(
        [(unit.first, unit.end) for unit in committed]
        + [(first, total if end is None else end) for first, end in ledger.gaps(shard_directory("s.tar"))]
    )
    assert covered[0][0] == 0
    assert covered[-1][1] == total
    assert all(before[1] == after[0] for before, after in itertools.pairwise(covered))
    assert ledger.is_complete(shard_directory("s.tar")) == (set(committed) == set(units))
    assert set(ledger.units(shard_directory("s.tar"))) == set(committed)


@pytest.mark.parametrize(
    "ranges",
    [
        [UnitRange(0, 10, is_last=False), UnitRange(5, 10, is_last=True)],
        [UnitRange(0, 10, is_last=False), UnitRange(0, 12, is_last=False)],
        [UnitRange(0, 10, is_last=True), UnitRange(10, 5, is_last=True)],
    ],
)
def test_overlapping_units_are_refused(ranges: list[UnitRange]) -> None:
    with pytest.raises(RunMismatchError, match="overlap"):
        Ledger.from_paths("000", [unit_path("000", "s.tar", unit) for unit in ranges])


def test_retries_belong_to_their_unit() -> None:
    unit = UnitFile("000", shard_directory("s.tar"), UnitRange(0, 10, is_last=False))
    other = UnitFile("000", shard_directory("s.tar"), UnitRange(10, 5, is_last=True))
    paths = [unit.path, other.path, unit.retry_path(1), unit.retry_path(2), other.path.replace("5.", "4.retry-001.")]
    ledger = Ledger.from_paths("000", paths)
    found = list(ledger.unit_files(shard_directory("s.tar")))
    assert [item.num_retries for item in found] == [2, 0]
    assert found[0].paths == [unit.path, unit.retry_path(1), unit.retry_path(2)]
    assert ledger.is_complete(shard_directory("s.tar"))


@pytest.mark.parametrize("name", ["a.tar", "x.1234abcd", "b-0123456789ab.1234abcd", "group-000001"])
def test_an_edition_has_a_directory_of_its_own(name: str) -> None:
    first, later = shard_directory(name), shard_directory(name, "1a2b3c4d")
    assert first != later
    assert first_edition(later) == first == first_edition(first)


def test_ranges_are_shared_by_shards_that_are_cut_alike() -> None:
    # There may be millions of units; what differs between them is the shard.
    unit_range = UnitRange(0, 256, False)
    ledger = Ledger.from_paths("000", [unit_path("000", name, unit_range) for name in ("a.tar", "b.tar")])
    [one], [other] = ledger.units(shard_directory("a.tar")), ledger.units(shard_directory("b.tar"))
    assert one is other
    assert one == unit_range
