from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sam3lt_ray.inputs.groups import GroupCandidate, form_groups
from sam3lt_ray.inputs.loose_files import REPEATED_KEY_URI
from sam3lt_ray.records import Shard


def files(*keys: str, version: str = "1") -> list[GroupCandidate]:
    return [GroupCandidate(key, f"/d/{key}", 10, version) for key in keys]


def keys_of(groups: list[Shard]) -> list[list[str]]:
    return [[member.key for member in group.members] for group in groups]


def test_new_files_form_further_groups() -> None:
    known = form_groups(files("b", "d", "f"), (), 2, "/d")
    assert keys_of(known) == [["b", "d"], ["f"]]
    groups = form_groups(files("a", "b", "c", "d", "e", "f"), known, 2, "/d")
    assert groups[:2] == known
    assert keys_of(groups) == [["b", "d"], ["f"], ["a", "c"], ["e"]]
    assert [group.name for group in groups] == ["group-000000", "group-000001", "group-000002", "group-000003"]


def test_vanished_files_keep_their_place_and_change_nothing() -> None:
    known = form_groups(files("a", "b", "c"), (), 3, "/d")
    (group,) = form_groups(files("a", "c"), known, 3, "/d")
    assert (group.version, group.size_bytes) == (known[0].version, known[0].size_bytes)
    assert [(member.key, member.version, member.is_gone) for member in group.members] == [
        ("a", "1", False),
        ("b", "1", True),
        ("c", "1", False),
    ]
    assert form_groups(files("a", "b", "c"), [group], 3, "/d") == known  # it came back


def test_a_link_to_nothing_is_gone() -> None:
    known = form_groups(files("a", "b"), (), 2, "/d")
    (group,) = form_groups([*files("a"), GroupCandidate("b", "/d/b")], known, 2, "/d")
    assert [member.is_gone for member in group.members] == [False, True]


def test_a_group_without_any_file_left_is_none() -> None:
    known = form_groups(files("a", "b", "c"), (), 2, "/d")
    groups = form_groups(files("c", "d"), known, 2, "/d")
    assert [(group.name, keys_of([group])[0]) for group in groups] == [("group-000001", ["c"]), ("group-000002", ["d"])]


def test_where_another_file_has_changed_vanished_ones_leave_the_group() -> None:
    known = form_groups(files("a", "b", "c"), (), 3, "/d")
    (group,) = form_groups(files("a") + files("c", version="2"), known, 3, "/d")
    assert keys_of([group]) == [["a", "c"]]
    assert group.version != known[0].version
    old = [replace(known[0], members=tuple(replace(member, version=None) for member in known[0].members))]
    assert keys_of(form_groups(files("a", "c"), old, 3, "/d")) == [["a", "c"]]  # who knows whether c changed
    assert form_groups(files("a", "b", "c"), old, 3, "/d") == known


def test_rows_that_vanish_from_a_manifest() -> None:
    rows = [GroupCandidate(key, f"/d/{key}") for key in ("a", "b", "a", "c")]
    known = form_groups(rows, (), 4, "/m.csv")
    (group,) = form_groups([rows[0], rows[3]], known, 4, "/m.csv")
    assert [(member.key, member.is_gone) for member in group.members] == [
        ("a", False),
        ("b", True),
        ("a", False),
        ("c", False),
    ]
    assert group.members[2].uri == REPEATED_KEY_URI
    assert form_groups(rows[1:2], known, 4, "/m.csv")[0].version is None


def test_changed_file_changes_the_version() -> None:
    (before,) = form_groups(files("a", "b"), (), 2, "/d")
    (after,) = form_groups(files("a") + files("b", version="2"), [before], 2, "/d")
    assert keys_of([before]) == keys_of([after])
    assert before.version != after.version


def test_repeated_keys_are_marked_across_groups() -> None:
    groups = form_groups(files("a", "b", "a", "c", "a"), (), 2, "/m.csv")
    assert keys_of(groups) == [["a", "b"], ["a", "c"], ["a"]]
    uris = [[member.uri for member in group.members] for group in groups]
    assert uris == [["/d/a", "/d/b"], [REPEATED_KEY_URI, "/d/c"], [REPEATED_KEY_URI]]


def test_listing_again_changes_nothing_with_repeated_keys() -> None:
    rows = files("a", "b", "a", "a")
    known = form_groups(rows, (), 3, "/m.csv")
    assert form_groups(rows, known, 3, "/m.csv") == known
    grown = form_groups([*rows, *files("a", "d")], known, 3, "/m.csv")
    assert keys_of(grown) == [["a", "b", "a"], ["a"], ["a", "d"]]
    assert grown[2].members[0].uri == REPEATED_KEY_URI


@hypothesis_settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), max_size=12), st.lists(st.sampled_from("abcdefgh"), max_size=6))
def test_every_row_is_in_exactly_one_group(first: list[str], added: list[str]) -> None:
    known = form_groups(files(*first), (), 3, "/m.csv")
    groups = form_groups(files(*first, *added), known, 3, "/m.csv")
    assert sorted(key for keys in keys_of(groups) for key in keys) == sorted(first + added)
    assert groups[: len(known)] == known
    fine = [member.key for group in groups for member in group.members if member.uri != REPEATED_KEY_URI]
    assert sorted(fine) == sorted(set(first + added))
