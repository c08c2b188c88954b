"""A label keeps its id; what changes in a vocabulary is understood as a person would mean it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3lt_ray.errors import ConfigError
from sam3lt_ray.vocabulary import continue_labels, load_vocabulary
from sam3lt_ray.vocabulary.history import ContinuedLabels, history_json, read_history

NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=3), min_size=1, max_size=12, unique=True)


def after(*vocabularies: list[Any]) -> ContinuedLabels:
    """The labels of a run that was started with each of these, through the file that a run keeps."""
    stored: dict[str, Any] | None = None
    for entries in vocabularies:
        labels = continue_labels(load_vocabulary(entries), read_history(stored))
        stored = json.loads(json.dumps(history_json(labels)))
    return labels


def asked(labels: ContinuedLabels) -> list[tuple[int, str, tuple[str, ...]]]:
    return [(label.id, label.name, label.prompts) for label in labels.vocabulary.labels]


def test_known_names_keep_their_ids_whatever_the_order() -> None:
    labels = after(["cat", "dog", "gone"], ["new", "dog", "cat"])
    assert [(label.name, label.id) for label in labels.vocabulary.labels] == [("new", 4), ("dog", 2), ("cat", 1)]
    assert (labels.change.added, labels.change.removed) == (("new",), ("gone",))


def test_without_a_run_ids_stay_as_loaded() -> None:
    labels = after(["a", {"name": "b", "id": 9}, "c"])
    assert labels.vocabulary.label_ids == [10, 9, 11]
    assert labels.change.to_text() == []


def test_an_id_is_never_given_twice() -> None:
    labels = after(["cat", "dog"], ["cat"], ["cat", "car"], ["cat", "car", "dog"])
    assert [(label.name, label.id) for label in labels.vocabulary.labels] == [("cat", 1), ("car", 3), ("dog", 2)]
    assert labels.change.restored == ("dog",)


def test_a_known_id_with_another_name_is_a_new_name_and_asks_nothing_new() -> None:
    renamed: list[Any] = [{"id": 1, "name": "bike"}, "dog"]
    labels = after(["bicycle", "dog"], renamed)
    assert asked(labels) == [(1, "bike", ("bicycle",)), (2, "dog", ("dog",))]
    assert labels.change.to_text() == ["renamed: bicycle to bike"]
    again = after(["bicycle", "dog"], renamed, renamed)
    assert asked(again) == asked(labels)
    assert again.change.to_text() == []
    assert asked(after(["bicycle", "dog"], renamed, ["bike", "dog"])) == asked(labels)
    back = after(["bicycle", "dog"], renamed, [{"id": 1, "name": "bicycle"}, "dog"])
    assert asked(back)[0] == (1, "bicycle", ("bicycle",))


def test_own_prompts_of_a_renamed_label_are_asked() -> None:
    labels = after(["bicycle"], [{"id": 1, "name": "bike", "prompts": ["bike"]}])
    assert asked(labels) == [(1, "bike", ("bike",))]
    assert (labels.change.renamed, labels.change.reprompted) == ((("bicycle", "bike"),), ("bike",))


def test_other_prompts_are_seen_and_another_order_is_not() -> None:
    first = [{"name": "bicycle", "prompts": ["bicycle", "bike"]}]
    turned = after(first, [{"name": "bicycle", "prompts": ["bike", "bicycle"]}])
    assert asked(turned) == [(1, "bicycle", ("bicycle", "bike"))]
    assert turned.change.to_text() == []
    shorter = after(first, ["bicycle"])
    assert asked(shorter) == [(1, "bicycle", ("bicycle",))]
    assert shorter.change.reprompted == ("bicycle",)


def test_thresholds_and_supercategories_are_the_users() -> None:
    labels = after(["cat"], [{"name": "cat", "threshold": 0.7, "supercategory": "animal"}])
    assert (labels.vocabulary.labels[0].threshold, labels.vocabulary.labels[0].supercategory) == (0.7, "animal")
    assert labels.change.to_text() == []


def test_given_ids_of_new_labels_are_kept() -> None:
    labels = after(["cat"], [{"name": "cat", "id": 1}, {"name": "new", "id": 50}])
    assert labels.vocabulary.label_ids == [1, 50]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"name": "cat", "id": 5}], "id 5 is given, but in the run it has id 1"),
        ([{"name": "new", "id": 2}, "dog"], "id 2 belongs to 'dog' in the run, which stands in the vocabulary too"),
        ([{"name": "dog", "id": 1}, {"name": "cat", "id": 2}], "id 1 is given, but in the run it has id 2"),
        (["Cat"], "the run calls it 'cat'"),
        (["velo"], r"the run called 'bike' before\. Give it that label's id, 3"),
    ],
)
def test_what_would_change_the_meaning_of_an_id_is_refused(entries: list[Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        after(["cat", "dog", "velo"], ["cat", "dog", {"id": 3, "name": "bike"}], entries)


def test_the_case_of_a_name_can_be_changed_by_its_id() -> None:
    labels = after(["cat"], [{"id": 1, "name": "Cat"}])
    assert asked(labels) == [(1, "Cat", ("cat",))]


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        after(["cat", "dog"], ["Cat", {"name": "dog", "id": 7}])
    assert len(caught.value.problems) == 2


@given(first=NAMES, second=NAMES)
def test_ids_are_unique_and_survive_any_change_of_the_file(first: list[str], second: list[str]) -> None:
    known = {label.name: label.id for label in after(first).vocabulary.labels}
    labels = after(first, second)
    assert len({one.label.id for one in labels.known}) == len(set(first) | set(second))
    for label in labels.vocabulary.labels:
        if label.name in known:
            assert label.id == known[label.name]
        else:
            assert label.id not in known.values()
