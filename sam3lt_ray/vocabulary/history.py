"""The labels a run has had, and what becomes of them when the user's vocabulary changes.

An id means one label for ever. A known name keeps its id whatever the order in the file; a known id with another name
is that label under a new name; a label that is left out is removed, and its id stays taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sam3lt_ray.errors import ConfigError
from sam3lt_ray.vocabulary.ids import number_labels
from sam3lt_ray.vocabulary.labels import Label, Vocabulary


@dataclass(frozen=True, slots=True)
class KnownLabel:
    """A label that a run has or had.

    Attributes:
        label: As it was when it last stood in the vocabulary.
        former_names: What it was called before, oldest first.
        is_removed: It stands in the vocabulary no more.
    """

    label: Label
    former_names: tuple[str, ...] = ()
    is_removed: bool = False

    def to_json(self) -> dict[str, Any]:
        """How vocabulary.json keeps it."""
        return {**self.label.to_json(), "former_names": list(self.former_names)}


@dataclass(frozen=True, slots=True)
class VocabularyChange:
    """What a new vocabulary changes in a run; names, in the order of the vocabulary.

    Attributes:
        added: Labels the run never had.
        restored: Labels that had been removed.
        reprompted: Labels with other prompts.
        renamed: (old name, new name).
        removed: Labels that were left out.
    """

    added: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    reprompted: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()

    def to_text(self) -> list[str]:
        """One line for each kind of change."""
        lines = []
        if self.added:
            lines.append(f"new: {', '.join(self.added)}")
        if self.restored:
            lines.append(f"back again: {', '.join(self.restored)}")
        if self.reprompted:
            lines.append(f"other prompts: {', '.join(self.reprompted)}")
        if self.renamed:
            lines.append(f"renamed: {', '.join(f'{old} to {new}' for old, new in self.renamed)}")
        if self.removed:
            lines.append(f"removed: {', '.join(self.removed)} (what is labeled stays stored)")
        return lines


@dataclass(frozen=True, slots=True)
class ContinuedLabels:
    """A run's labels from now on.

    Attributes:
        vocabulary: The user's labels in the user's order, with the run's ids and the prompts in force.
        known: Every label the run has ever had, for :func:`history_json`.
        change: What is different from before.
    """

    vocabulary: Vocabulary
    known: tuple[KnownLabel, ...]
    change: VocabularyChange


def read_history(vocabulary_json: Mapping[str, Any] | None) -> list[KnownLabel]:
    """The labels of a run from its vocabulary.json; none for a run that is not there yet."""
    if vocabulary_json is None:
        return []
    present = [_known(entry, is_removed=False) for entry in vocabulary_json["labels"]]
    return present + [_known(entry, is_removed=True) for entry in vocabulary_json.get("removed", ())]


def history_json(labels: ContinuedLabels) -> dict[str, Any]:
    """The content of vocabulary.json."""
    return {
        "source": labels.vocabulary.source,
        "labels": [known.to_json() for known in labels.known if not known.is_removed],
        "removed": [known.to_json() for known in labels.known if known.is_removed],
    }


def continue_labels(vocabulary: Vocabulary, known: Sequence[KnownLabel]) -> ContinuedLabels:
    """Bring the user's vocabulary together with the labels of a run.

    Args:
        vocabulary: As read from the user's file.
        known: Every label the run has ever had.

    Raises:
        ConfigError: An id would change its meaning, or a name is not clearly an old or a new label.
    """
    matches = _Matches(vocabulary, known)
    problems = [
        f"{vocabulary.source}: label {label.name!r}: {problem}"
        for label in vocabulary.labels
        if (problem := matches.problem(label)) is not None
    ]
    if problems:
        raise ConfigError(problems)
    found = {label.name: matches.find(label) for label in vocabulary.labels}
    given = {label.name: label.id for label in vocabulary.labels if label.name in vocabulary.names_with_given_id}
    taken = {one.label.name: one.label.id for one in known}
    matched = {name: one.label.id for name, one in found.items() if one is not None}
    ids = number_labels([label.name for label in vocabulary.labels], {**taken, **given, **matched})
    present = []
    for label in vocabulary.labels:
        before = found[label.name]
        prompts = _prompts(label, before, is_given=label.name in vocabulary.names_with_given_prompts)
        present.append(
            KnownLabel(replace(label, id=ids[label.name], prompts=prompts), _former_names(before, label.name))
        )
    present_ids = {one.label.id for one in present}
    gone = [replace(one, is_removed=True) for one in known if one.label.id not in present_ids]
    labels = tuple(one.label for one in present)
    return ContinuedLabels(
        replace(vocabulary, labels=labels), (*present, *gone), _compare(labels, list(found.values()), gone, known)
    )


class _Matches:
    """Which label of the run an entry of the vocabulary means."""

    def __init__(self, vocabulary: Vocabulary, known: Sequence[KnownLabel]) -> None:
        self._given = vocabulary.names_with_given_id
        self._names = {label.name for label in vocabulary.labels}
        self._by_id = {one.label.id: one for one in known}
        self._by_name = {one.label.name: one for one in known}
        self._by_folded = {one.label.name.casefold(): one for one in known}
        self._by_former = {name.casefold(): one for one in known for name in one.former_names}

    def find(self, label: Label) -> KnownLabel | None:
        if label.name in self._given and label.id in self._by_id:
            return self._by_id[label.id]
        return self._by_name.get(label.name)

    def problem(self, label: Label) -> str | None:
        given_id = label.id if label.name in self._given else None
        same_name = self._by_folded.get(label.name.casefold())
        if same_name is not None and given_id not in (None, same_name.label.id):
            return f"id {given_id} is given, but in the run it has id {same_name.label.id}."
        if same_name is not None and given_id is None and same_name.label.name != label.name:
            return f"the run calls it {same_name.label.name!r}; write it the same way."
        renamed = self._by_id.get(given_id) if given_id is not None else None
        if renamed is not None and renamed.label.name != label.name and renamed.label.name in self._names:
            return (
                f"id {given_id} belongs to {renamed.label.name!r} in the run, which stands in the vocabulary too; "
                "give this label another id, or none."
            )
        former = self._by_former.get(label.name.casefold())
        if same_name is None and renamed is None and former is not None:
            old_id = former.label.id
            return (
                f"this is what the run called {former.label.name!r} before. Give it that label's id, {old_id}, to "
                "rename it back; a new label needs a name of its own."
            )
        return None


def _prompts(label: Label, before: KnownLabel | None, *, is_given: bool) -> tuple[str, ...]:
    """The run's prompts where the user's mean the same: renaming a label or reordering its prompts asks nothing new."""
    if before is None:
        return label.prompts
    asked = before.label.prompts
    by_its_name = len(asked) == 1 and asked[0] in (before.label.name, *before.former_names)
    same = by_its_name if not is_given else sorted(asked) == sorted(label.prompts)
    return asked if same else label.prompts


def _former_names(before: KnownLabel | None, name: str) -> tuple[str, ...]:
    if before is None:
        return ()
    return tuple(old for old in dict.fromkeys((*before.former_names, before.label.name)) if old != name)


def _compare(
    labels: Sequence[Label], found: Sequence[KnownLabel | None], gone: Sequence[KnownLabel], known: Sequence[KnownLabel]
) -> VocabularyChange:
    if not known:
        return VocabularyChange()
    pairs = list(zip(labels, found, strict=True))
    old = [(label, before) for label, before in pairs if before is not None]
    was_there = {one.label.id for one in known if not one.is_removed}
    return VocabularyChange(
        added=tuple(label.name for label, before in pairs if before is None),
        restored=tuple(label.name for label, before in old if before.is_removed),
        reprompted=tuple(label.name for label, before in old if before.label.prompts != label.prompts),
        renamed=tuple((before.label.name, label.name) for label, before in old if before.label.name != label.name),
        removed=tuple(one.label.name for one in gone if one.label.id in was_there),
    )


def _known(entry: Mapping[str, Any], *, is_removed: bool) -> KnownLabel:
    return KnownLabel(Label.from_json(entry), tuple(entry.get("former_names", ())), is_removed)
