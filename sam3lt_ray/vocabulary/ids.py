"""Label ids that stay: a name keeps the id it had in the run, whatever the order in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sam3lt_ray.errors import ConfigError
from sam3lt_ray.vocabulary.labels import Label, Vocabulary


def number_labels(names: Sequence[str], given: Mapping[str, int]) -> dict[str, int]:
    """An id for every name: the given one, else the next above all given ones, in order.

    Args:
        names: Labels in file order.
        given: Ids that stand already; more names than in ``names`` are fine.

    Returns:
        name -> id. Without given ids: 1, 2, 3...
    """
    next_id = max(given.values(), default=0) + 1
    ids: dict[str, int] = {}
    for name in names:
        if name in given:
            ids[name] = given[name]
        else:
            ids[name] = next_id
            next_id += 1
    return ids


def assign_ids(vocabulary: Vocabulary, known: Mapping[str, int]) -> Vocabulary:
    """Give labels the ids they have in a run; new ones get ids that were never used there.

    Args:
        vocabulary: As read from the user's file.
        known: name -> id of every label the run has ever had.

    Returns:
        The same labels in the same order, with final ids.

    Raises:
        ConfigError: A given id contradicts the run, or a name differs from the run's in its case only.
    """
    problems = _contradictions(vocabulary, known)
    if problems:
        raise ConfigError(problems)
    given = {label.name: label.id for label in vocabulary.labels if label.name in vocabulary.names_with_given_id}
    ids = number_labels([label.name for label in vocabulary.labels], {**given, **known})
    return replace(vocabulary, labels=tuple(replace(label, id=ids[label.name]) for label in vocabulary.labels))


def _contradictions(vocabulary: Vocabulary, known: Mapping[str, int]) -> list[str]:
    name_by_id = {label_id: name for name, label_id in known.items()}
    name_by_folded = {name.casefold(): name for name in known}
    return [
        f"{vocabulary.source}: label {label.name!r}: {problem}"
        for label in vocabulary.labels
        if (problem := _contradiction(label, vocabulary, known, name_by_id, name_by_folded)) is not None
    ]


def _contradiction(
    label: Label,
    vocabulary: Vocabulary,
    known: Mapping[str, int],
    name_by_id: Mapping[int, str],
    name_by_folded: Mapping[str, str],
) -> str | None:
    run_name = name_by_folded.get(label.name.casefold())
    if run_name is not None and run_name != label.name:
        return f"the run calls it {run_name!r}; write it the same way."
    if label.name not in vocabulary.names_with_given_id:
        return None
    if label.name in known:
        run_id = known[label.name]
        return None if run_id == label.id else f"id {label.id} is given, but in the run it has id {run_id}."
    if label.id in name_by_id:
        return f"id {label.id} belongs to {name_by_id[label.id]!r} in the run; give another one, or none."
    return None
