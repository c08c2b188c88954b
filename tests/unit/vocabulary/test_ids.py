"""A label keeps the id it has in a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3lt_ray.errors import ConfigError
from sam3lt_ray.vocabulary import assign_ids, load_vocabulary

NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=3), min_size=1, max_size=12, unique=True)


def test_known_names_keep_their_ids_whatever_the_order() -> None:
    vocabulary = assign_ids(load_vocabulary(["new", "dog", "cat"]), {"cat": 1, "dog": 2, "gone": 3})
    assert [(label.name, label.id) for label in vocabulary.labels] == [("new", 4), ("dog", 2), ("cat", 1)]


def test_without_a_run_ids_stay_as_loaded() -> None:
    vocabulary = load_vocabulary(["a", {"name": "b", "id": 9}, "c"])
    assert assign_ids(vocabulary, {}) == vocabulary
    assert vocabulary.label_ids == [10, 9, 11]


def test_given_ids_of_new_labels_are_kept() -> None:
    vocabulary = assign_ids(load_vocabulary([{"name": "cat", "id": 1}, {"name": "new", "id": 50}]), {"cat": 1})
    assert vocabulary.label_ids == [1, 50]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"name": "cat", "id": 5}], "id 5 is given, but in the run it has id 1"),
        ([{"name": "new", "id": 2}], "id 2 belongs to 'dog' in the run"),
        (["Cat"], "the run calls it 'cat'"),
    ],
)
def test_contradictions_to_the_run_are_refused(entries: list[object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        assign_ids(load_vocabulary(entries), {"cat": 1, "dog": 2})


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        assign_ids(load_vocabulary(["Cat", {"name": "dog", "id": 7}]), {"cat": 1, "dog": 2})
    assert len(caught.value.problems) == 2


@given(first=NAMES, second=NAMES)
def test_ids_are_unique_and_survive_any_change_of_the_file(first: list[str], second: list[str]) -> None:
    before = load_vocabulary(first)
    known = {label.name: label.id for label in before.labels}
    after = assign_ids(load_vocabulary(second), known)
    assert len(set(after.label_ids)) == len(second)
    for label in after.labels:
        if label.name in known:
            assert label.id == known[label.name]
        else:
            assert label.id not in known.values()
